"""Whether an evaluation record follows from what lies beside it: outcomes from the model's scores, means from those."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error, ratio_and_error
from genesis_sft.evals.record import EvalRecord, HeldOutRecord
from genesis_sft.evals.record_files import ANSWERS, RECORD, SAMPLES
from genesis_sft.evals.task_record import MOST_NATS, PartScore, TaskRecord
from genesis_sft.report.differing import Difference, differing_values
from genesis_sft.report.flips import picked

_Row = Mapping[str, Any]


def verify_record(folder: Path, *, name: str, model_hash: str) -> Iterator[Difference]:
    """Yield what in a record's files does not follow from the others.

    Args:
        folder: Where ``record.json``, ``samples.jsonl`` and ``answers.jsonl`` lie.
        name: How the folder is called in what is yielded, e.g. ``"before"``.
        model_hash: Of the model that the record is of.

    Raises:
        InputError: There is no record, or it is damaged.
        ValueError, KeyError: A line beside it is damaged.
    """
    record = EvalRecord.open(folder)
    file = f"{name}/{RECORD}"
    yield from differing_values(file, record.model, model_hash, "model")
    samples = _read_lines(folder / SAMPLES)
    yield from _verify_rows(f"{name}/{SAMPLES}", samples, record)
    for number, task in enumerate(record.tasks):
        yield from _verify_task(file, f"tasks.{number} ({task.task}, {task.metric})", task, samples)
    for part in ("held_out", "plain_text"):
        for one in getattr(record, part):
            yield from _verify_loss(file, f"{part}.{one.source}", one)
    answers = [json.loads(json.dumps(asdict(answer))) for answer in record.chat]
    for number, (found, expected) in enumerate(_paired(_read_lines(folder / ANSWERS), answers), 1):
        yield from differing_values(f"{name}/{ANSWERS}", found, expected, f"line {number}")


def _verify_rows(file: str, rows: Sequence[_Row], record: EvalRecord) -> Iterator[Difference]:
    of_record = {(task.task, task.surface, task.num_fewshot) for task in record.tasks}
    for number, row in enumerate(rows, 1):
        if _key(row) not in of_record:
            shown = "{}, {}, {}-shot".format(*_key(row))
            yield Difference(file, f"line {number}: task", shown, "one in the record")
        yield from _verify_outcomes(file, number, row)
    if lacking := [number for number, row in enumerate(rows, 1) if not row["choices"] and "is_greedy" not in row]:
        yield Difference(file, f"line {lacking[0]}: is_greedy", "nothing", "a value, without which acc is not checked")


def _key(row: _Row) -> tuple[str, str, int]:
    return row["task"], row["surface"], row["num_fewshot"]


def _verify_outcomes(file: str, number: int, row: _Row) -> Iterator[Difference]:
    """Compute an item's outcomes as the harness does: a text is right where every token of it is the likeliest."""
    scores, choices, target = row["log_likelihoods"], row["choices"], row["target"]
    expected: dict[str, float] = {}
    if choices:
        expected |= {metric: float(picked(scores, choices, metric) == target) for metric in ("acc", "acc_norm")}
    else:
        expected["perplexity"] = scores[0]
        if "is_greedy" in row:
            expected["acc"] = float(row["is_greedy"][0])
    found = {metric: value for metric, value in row["outcomes"].items() if metric in expected}
    wanted = {metric: expected[metric] for metric in found}
    yield from differing_values(file, found, wanted, f"line {number}: outcomes", close=True)


def _verify_task(file: str, where: str, task: TaskRecord, samples: Sequence[_Row]) -> Iterator[Difference]:
    rows = [row for row in samples if _key(row) == (task.task, task.surface, task.num_fewshot)]
    items = [row["outcomes"][task.metric] for row in rows]
    yield from differing_values(file, task.items, items, f"{where}.items", close=True)
    for name in ("doc", "prompt", "target"):
        if hashes := getattr(task, f"{name}_hashes"):
            yield from differing_values(file, hashes, [row[f"{name}_hash"] for row in rows], f"{where}.{name}_hashes")
    num_choices = [len(row["choices"]) for row in rows if row["choices"]]
    yield from differing_values(file, task.num_choices, num_choices, f"{where}.num_choices")
    value, error = _score(task)
    expected: dict[str, Any] = {"value": value, "standard_error": error, "n": len(task.items)}
    expected["chance"] = math.fsum(1 / count for count in num_choices) / len(num_choices) if num_choices else None
    expected |= {"subjects": _subjects(task), "groups": _groups(task)}
    found = {name: _plain(getattr(task, name)) for name in expected}
    yield from differing_values(file, found, expected, where, close=True)


def _score(task: TaskRecord) -> tuple[float, float]:
    value, error = (
        clustered_mean_and_error(task.items, _subject_of_items(task)) if task.subjects else mean_and_error(task.items)
    )
    if task.metric != "perplexity":
        return value, error
    perplexity = math.exp(min(-value, MOST_NATS))
    return perplexity, perplexity * error


def _subject_of_items(task: TaskRecord) -> list[str]:
    return [subject.name for subject in task.subjects for _ in range(subject.n)]


def _subjects(task: TaskRecord) -> list[Any]:
    scores, start = [], 0
    for subject in task.subjects:
        items = task.items[start : start + subject.n]
        start += subject.n
        scores.append(asdict(PartScore(subject.name, subject.group, *mean_and_error(items), len(items))))
    return scores


def _groups(task: TaskRecord) -> list[Any]:
    group_of = {subject.name: subject.group for subject in task.subjects}
    items = list(zip(task.items, _subject_of_items(task), strict=False)) if task.subjects else []
    scores = []
    for group in task.groups:
        own = [(item, subject) for item, subject in items if group_of[subject] == group.name]
        score = clustered_mean_and_error(*zip(*own, strict=True))
        scores.append(asdict(PartScore(group.name, group.name, *score, len(own))))
    return scores


def _verify_loss(file: str, where: str, one: HeldOutRecord) -> Iterator[Difference]:
    value, error = ratio_and_error(one.losses, one.tokens)
    expected = {
        "nats_per_token": value,
        "standard_error": error,
        "n_tokens": sum(one.tokens),
        "n_conversations": len(one.tokens),
    }
    found = {name: getattr(one, name) for name in expected}
    yield from differing_values(file, found, expected, where, close=True)


def _plain(value: Any) -> Any:
    return [asdict(part) for part in value] if isinstance(value, tuple) else value


def _read_lines(path: Path) -> list[Any]:
    with open(path, encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def _paired(found: Sequence[Any], expected: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield what stands at the same place; nothing where one is longer."""
    for number in range(max(len(found), len(expected))):
        yield tuple(those[number] if number < len(those) else None for those in (found, expected))  # type: ignore[misc]
