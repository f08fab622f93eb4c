"""Whether a record that was read from a file can be what an evaluation wrote.

Everything after this relies on it: sums stay finite, and no number is divided by nothing. Raises ``ValueError``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genesis_sft.run_dir import canonical_json

if TYPE_CHECKING:
    from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord
    from genesis_sft.evals.task_record import TaskRecord

LARGEST = 1e100
"""Squares and sums of numbers up to this size are still finite."""

_ROUNDING = 1e-3


def check_record(record: EvalRecord) -> None:
    """Refuse a record whose parts do not fit together.

    Raises:
        ValueError: Says what is wrong.
    """
    for number in _numbers(asdict(record)):
        _expect(
            abs(number) <= LARGEST, "finite numbers", f"{number:.6g}" if isinstance(number, float) else "a huge one"
        )
    for task in record.tasks:
        _check_task(task)
    for one in (*record.held_out, *record.plain_text):
        _check_held_out(one)
    for answer in record.chat:
        _check_answer(answer)
    _expect_once("score", [f"{one.label} ({one.metric})" for one in record.tasks])
    _expect_once("held-out source", [one.source for one in record.held_out])
    _expect_once("passage", [one.source for one in record.plain_text])
    _expect_once("chat prompt", [f"{one.id} {canonical_json(one.messages)}" for one in record.chat])


def _check_task(task: TaskRecord) -> None:
    name = f"{task.task} ({task.metric})"
    found = (task.n, len(task.items), len(task.doc_hashes))
    _expect(len({*found}) == 1, f"{name}: as many outcomes and documents as n", f"n {found[0]}, {found[1]}, {found[2]}")
    for hashes in (task.prompt_hashes, task.target_hashes):
        _expect(len(hashes) in (0, task.n), f"{name}: a hash of every item, or none", f"{len(hashes)} for {task.n}")
    if task.metric == "perplexity":
        _expect(all(item <= _ROUNDING for item in task.items), f"{name}: log-likelihoods", "one above 0")
    else:
        _expect(all(item in (0, 1) for item in task.items), f"{name}: outcomes of 0 or 1", "others")


def _check_held_out(one: HeldOutRecord) -> None:
    name = f"held-out source {one.source}"
    lengths = {one.n_conversations, len(one.rows), len(one.losses), len(one.tokens)}
    lengths |= {len(one.num_bytes)} if one.num_bytes else set()
    _expect(len(lengths) == 1, f"{name}: rows, losses and tokens of every conversation", "lists of other lengths")
    _expect(all(count >= 0 for count in one.num_bytes), f"{name}: numbers of bytes", "one below 0")
    _expect(all(tokens > 0 for tokens in one.tokens), f"{name}: trained tokens in every conversation", "one without")
    _expect(one.n_tokens == sum(one.tokens) > 0, f"{name}: trained tokens that add up", f"{one.n_tokens}")


def _check_answer(answer: ChatAnswer) -> None:
    name = f"chat answer {answer.id}"
    _expect(answer.num_tokens >= 0, f"{name}: a number of tokens", f"{answer.num_tokens}")
    _expect(all({"role", "content"} <= one.keys() for one in answer.messages), f"{name}: role and content", "less")


def _expect_once(what: str, names: Sequence[str]) -> None:
    """Whatever compares two records finds a score, a source or an answer by its name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), "")
    _expect(len({*names}) == len(names), f"every {what} once", f"{twice[:100]} more than once")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _numbers(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)


def _expect(holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise ValueError(f"expected {expected}, found {found}")
