"""The items of a benchmark that went from wrong to right and the other way round, with what the models chose.

Read from the ``samples.jsonl`` of two records, one row an item::

    {"task": "piqa", "part": "piqa", "surface": "raw", "num_fewshot": 0, "doc_id": 0, "doc_hash": "0a6e0f...",
     "log_likelihoods": [-41.2, -38.9], "outcomes": {"acc": 1.0, "acc_norm": 1.0},
     "text": "Question: How do I ready a guinea pig cage?", "choices": ["Provide ...", "Put ..."], "target": 0}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.errors import InputError
from genesis_sft.evals.task_record import Surface
from genesis_sft.report.changes import TaskChange
from genesis_sft.report.same_evaluation import refuse_unless_same

EXAMPLES = 3

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Flip:
    """An item whose outcome changed.

    Attributes:
        part: Harness's task that it belongs to; for MMLU the subject's.
        doc_id: Its number there.
        text: What was asked.
        choices: What there was to choose from, two of which may read the same; where the model writes a word, as in
            LAMBADA, that word alone.
        right: Number of the right choice.
        before, after: Number of the one that scored highest, before and after; None where a word was to be written.
        log_likelihoods_before, log_likelihoods_after: Of every choice, or of the word, in nats.
    """

    part: str
    doc_id: int
    text: str
    choices: tuple[str, ...]
    right: int
    before: int | None
    after: int | None
    log_likelihoods_before: tuple[float, ...]
    log_likelihoods_after: tuple[float, ...]


@dataclass(frozen=True)
class TaskFlips:
    """The items of one score that changed.

    Attributes:
        task, metric, surface, num_fewshot: Which score, as ``TaskChange`` has it.
        to_right, to_wrong: How many.
        examples_to_right, examples_to_wrong: Some of them.
    """

    task: str
    metric: str
    surface: Surface
    num_fewshot: int
    to_right: int
    to_wrong: int
    examples_to_right: tuple[Flip, ...]
    examples_to_wrong: tuple[Flip, ...]


def find_flips(
    changes: Sequence[TaskChange], before: Iterable[Row], after: Iterable[Row], examples: int = EXAMPLES
) -> tuple[TaskFlips, ...]:
    """Return the flips of every accuracy that was compared; those without any are left out.

    Examples are spread evenly over the flips, in the order of the rows, so that they come from all subjects of MMLU;
    the same rows give the same examples.

    Args:
        changes: The scores.
        before: Rows of ``samples.jsonl`` of the record before.
        after: Rows of the other, in any order.
        examples: At most so many each way.

    Raises:
        InputError: The rows are not of the same items, or lack what a row holds.
    """
    try:
        old, new = ({_key(row): row for row in rows} for rows in (before, after))
        refuse_unless_same("an item", map(_say_key, old), map(_say_key, new))
        return tuple(
            flips
            for change in changes
            if change.unit == "share" and (flips := _of_score(change, old, new, examples)) is not None
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"expected rows of samples.jsonl, found one that is damaged: {type(error).__name__} {error}",
            hint="Evaluate the model again.",
        ) from None


def picked(log_likelihoods: Sequence[float], choices: Sequence[str], metric: str) -> int | None:
    """Return the number of the choice that scores highest, the first of equals; None without choices.

    For ``acc_norm`` the harness divides each log-likelihood by the choice's characters.
    """
    if not choices:
        return None
    by_length = metric == "acc_norm"
    scores = [
        score / max(1, len(choice)) if by_length else score
        for score, choice in zip(log_likelihoods, choices, strict=True)
    ]
    return max(range(len(scores)), key=scores.__getitem__)


_Key = tuple[str, str, int, str, int]


def _key(row: Row) -> _Key:
    return str(row["task"]), str(row["surface"]), int(row["num_fewshot"]), str(row["part"]), int(row["doc_id"])


def _say_key(key: _Key) -> str:
    return f"{key[4]} of {key[3]}, {key[1]}, {key[2]}-shot,"


def _of_score(
    change: TaskChange, before: Mapping[_Key, Row], after: Mapping[_Key, Row], examples: int
) -> TaskFlips | None:
    score = (change.task, change.surface, change.num_fewshot)
    pairs = [(row, after[key]) for key, row in before.items() if key[:3] == score]
    outcomes = [tuple(float(row["outcomes"][change.metric]) for row in pair) for pair in pairs]
    up = [pair for pair, (old, new) in zip(pairs, outcomes, strict=True) if new > old]
    down = [pair for pair, (old, new) in zip(pairs, outcomes, strict=True) if new < old]
    if not up and not down:
        return None
    return TaskFlips(
        *(change.task, change.metric, change.surface, change.num_fewshot, len(up), len(down)),
        examples_to_right=tuple(_flip(*pair, change.metric) for pair in _spread(up, examples)),
        examples_to_wrong=tuple(_flip(*pair, change.metric) for pair in _spread(down, examples)),
    )


def _spread(pairs: Sequence[tuple[Row, Row]], count: int) -> list[tuple[Row, Row]]:
    """Return so many of them, evenly spaced."""
    kept = min(count, len(pairs))
    return [pairs[place * len(pairs) // kept] for place in range(kept)]


def _flip(before: Row, after: Row, metric: str) -> Flip:
    choices, target = tuple(map(str, before["choices"])), before["target"]
    scores = [tuple(map(float, row["log_likelihoods"])) for row in (before, after)]
    old, new = (picked(those, choices, metric) for those in scores)
    return Flip(
        part=str(before["part"]),
        doc_id=int(before["doc_id"]),
        text=str(before["text"]),
        choices=choices or (str(target),),
        right=range(len(choices)).index(target) if choices else 0,
        before=old,
        after=new,
        log_likelihoods_before=scores[0],
        log_likelihoods_after=scores[1],
    )
