"""A record out of what lm-evaluation-harness writes with ``--log_samples``: a baseline that was made elsewhere.

A folder of it, as ``--output_path`` names it or one level below (the harness makes a folder of the model's name)::

    results_2026-08-21T10-11-12.345678.json               settings, and how many answered questions each task had
    samples_piqa_2026-08-21T10-11-12.345678.jsonl         one line an item
    samples_mmlu_anatomy_2026-08-21T10-11-12.345678.jsonl

and a line of it, shortened::

    {"doc_id": 0, "doc_hash": "0a6e...", "prompt_hash": "b2c4...", "target_hash": "5fec...", "filter": "none",
     "arguments": {"gen_args_0": {"arg_0": "Question: ...", "arg_1": " Provide ..."}, "gen_args_1": {...}},
     "metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 1.0}

Where a task stands there several times, the newest is read. MMLU's subjects are put together to one task.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from genesis_sft.console import say, visible
from genesis_sft.errors import InputError
from genesis_sft.evals.check_record import LARGEST, check_record
from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.task_record import MOST_NATS, PartScore, Surface, TaskRecord
from genesis_sft.evals.tasks import TASKS
from genesis_sft.report.same_evaluation import MADE_BY

HARNESS = "lm-evaluation-harness"

_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
_RESULTS = "results_{date}.json"
_SHARES = ("acc_norm", "acc", "exact_match")
"""Metrics of tasks that this program does not know, the first of them that a row has; 0 or 1 an item."""

_SHOWN = 40
"""Characters of a bad value in a message."""


@dataclass(frozen=True)
class _Item:
    outcomes: Mapping[str, float]
    num_requests: int
    hashes: tuple[str, str, str]  # of document, prompt, target


@dataclass(frozen=True)
class _How:
    surface: Surface
    num_fewshot: int


def holds_samples(folder: Path) -> bool:
    """Whether the harness wrote samples into this folder, or into the only folder in it."""
    return _samples_folder(folder) is not None


def read_samples(folder: Path) -> EvalRecord:
    """Return the record of all tasks in the folder, as far as their items are right or wrong, or have a perplexity.

    Raises:
        InputError: There are no samples, or a line is damaged: it is named by its number.
    """
    found = _samples_folder(folder)
    if found is None:
        raise InputError(
            f"expected samples_*.jsonl of {HARNESS} in {folder}",
            hint="Run the harness with --log_samples and --output_path, and name that folder.",
        )
    dates = _newest(found)
    results = {date: _read_results(found, date) for date in set(dates.values())}
    parts: dict[tuple[str, _How], dict[str, list[_Item]]] = {}
    for task, date in dates.items():
        items = _read_items(found / f"samples_{task}_{date}.jsonl")
        whole = "mmlu" if task.startswith("mmlu_") and task in _mmlu_groups() else task
        parts.setdefault((whole, _how(task, results[date])), {})[task] = items
    tasks = tuple(record for (task, how), items in parts.items() for record in _records(task, how, items))
    if not tasks:
        raise InputError(f"expected a task with acc, acc_norm or perplexity in {found}, found none")
    newest = results[max(results)]
    record = EvalRecord(
        model=str(newest.get("model_name", "")),
        settings={MADE_BY: HARNESS} | _dtype(newest),
        versions={"lm-eval": str(newest.get("lm_eval_version", ""))},
        tasks=tasks,
    )
    try:
        check_record(record)
    except ValueError as error:
        raise InputError(f"expected samples of {HARNESS} in {found}, found damaged ones: {error}") from None
    return record


def _samples_folder(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    inner = [one for one in sorted(folder.iterdir()) if one.is_dir()]
    for one in (folder, *(inner if len(inner) == 1 else [])):
        if any(_named(one)):
            return one
    return None


def _named(folder: Path) -> Iterator[re.Match[str]]:
    """Yield the names of files of samples; a pipe or a folder of such a name is none."""
    for file in sorted(folder.iterdir()):
        if (match := _SAMPLES.fullmatch(file.name)) and file.is_file():
            yield match


def _newest(folder: Path) -> dict[str, str]:
    """Return each task with the date of its newest samples; what is passed over is said."""
    dates: dict[str, list[str]] = {}
    for match in _named(folder):
        dates.setdefault(match["task"], []).append(match["date"])
    older = [visible(task) for task, those in dates.items() if len(those) > 1]
    if older:
        say(f"  {folder}: of {', '.join(older)} there are several dates, the newest is read")
    return {task: max(those) for task, those in dates.items()}


def _read_results(folder: Path, date: str) -> dict[str, Any]:
    """Return the settings that were written beside the samples; empty where the file is not there."""
    file = folder / _RESULTS.format(date=date)
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected results of {HARNESS} in {file}, found damaged ones: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"expected results of {HARNESS} in {file}, found no object")
    return values


def _dtype(results: Mapping[str, Any]) -> dict[str, str]:
    config = results.get("config")
    dtype = config.get("model_dtype") if isinstance(config, dict) else None
    return {"dtype": dtype.removeprefix("torch.")} if isinstance(dtype, str) else {}


def _how(task: str, results: Mapping[str, Any]) -> _How:
    shots = results.get("n-shot")
    count = shots.get(task) if isinstance(shots, dict) else None
    return _How("chat" if results.get("chat_template") else "raw", count if type(count) is int and count >= 0 else 0)


def _read_items(file: Path) -> list[_Item]:
    """Return the items in the order of their documents; of several filters the plain one, else the first."""
    items: dict[str, dict[int, _Item]] = {}
    for where, row in _rows(file):
        try:
            doc_id, name = row["doc_id"], str(row.get("filter", "none"))
            outcomes = {
                metric: _outcome(row[metric]) for metric in row["metrics"] if metric in (*_SHARES, "perplexity")
            }
            hashes = tuple(str(row[f"{part}_hash"]) for part in ("doc", "prompt", "target"))
            item = _Item(outcomes, len(row["arguments"]), (hashes[0], hashes[1], hashes[2]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"expected a sample of {HARNESS} at {where}, found one with a bad field: {error}",
                hint="Samples of harness versions before 0.4.3 have no hashes; evaluate again with a newer one.",
            ) from None
        if type(doc_id) is not int or doc_id in items.setdefault(name, {}):
            raise InputError(f"expected another document at {where}, found number {doc_id!r} again or no number")
        items[name][doc_id] = item
    if not items:
        raise InputError(f"expected samples in {file}, found none")
    those = items.get("none") or next(iter(items.values()))
    return [those[doc_id] for doc_id in sorted(those)]


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    read = 0
    try:
        with open(file, "rb") as lines:  # text is decoded many lines at a time
            for number, line in enumerate(lines, 1):
                row = json.loads(line.decode("utf-8"))
                if not isinstance(row, dict):
                    raise ValueError("no object")
                yield f"{file}, line {number}", row
                read = number
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected a line of JSON in {file} after line {read}, found: {error}") from None


def _outcome(value: Any) -> float:
    if not isinstance(value, int | float) or not abs(value) <= LARGEST:  # NaN is not either
        shown = repr(value)
        raise ValueError(f"{shown[:_SHOWN]}{'…' * (len(shown) > _SHOWN)} is no number from {-LARGEST:g} to {LARGEST:g}")
    return float(value)


@cache
def _mmlu_groups() -> Mapping[str, str]:
    """Return MMLU's tasks with their groups; imports the harness, which takes seconds."""
    from genesis_sft.evals.documents import subject_groups

    return subject_groups("mmlu")


def _records(task: str, how: _How, parts: Mapping[str, Sequence[_Item]]) -> Iterator[TaskRecord]:
    """Yield the metric that counts, and the perplexity where there is one."""
    names = sorted(parts)
    flat = [item for name in names for item in parts[name]]
    known = [TASKS[task].metric] if task in TASKS else list(_SHARES)
    metric = next((one for one in known if all(one in item.outcomes for item in flat)), None)
    if metric is not None and all(item.outcomes[metric] in (0, 1) for item in flat):
        yield _record(task, how, metric, [(name, parts[name]) for name in names])
    if all("perplexity" in item.outcomes for item in flat):
        yield _record(task, how, "perplexity", [(name, parts[name]) for name in names])


def _record(task: str, how: _How, metric: str, parts: Sequence[tuple[str, Sequence[_Item]]]) -> TaskRecord:
    flat = [item for _, those in parts for item in those]
    items = tuple(item.outcomes[metric] for item in flat)
    choices = tuple(item.num_requests for item in flat)
    subjects = _subjects(parts, metric) if task == "mmlu" else ()
    clusters = [subject.name for subject in subjects for _ in range(subject.n)]
    value, error = clustered_mean_and_error(items, clusters) if subjects else mean_and_error(items)
    if metric == "perplexity":
        value = math.exp(min(-value, MOST_NATS))
        error *= value
    several = metric != "perplexity" and min(choices) > 1
    return TaskRecord(
        task=task,
        metric=metric,
        value=value,
        standard_error=error,
        n=len(items),
        chance=math.fsum(1 / count for count in choices) / len(choices) if several else None,
        items=items,
        doc_hashes=tuple(item.hashes[0] for item in flat),
        num_choices=choices if several else (),
        subjects=subjects,
        groups=_groups(subjects, items),
        surface=how.surface,
        num_fewshot=how.num_fewshot,
        prompt_hashes=tuple(item.hashes[1] for item in flat),
        target_hashes=tuple(item.hashes[2] for item in flat),
    )


def _subjects(parts: Sequence[tuple[str, Sequence[_Item]]], metric: str) -> tuple[PartScore, ...]:
    groups = _mmlu_groups()
    return tuple(
        PartScore(
            name.removeprefix("mmlu_"),
            groups[name],
            *mean_and_error([item.outcomes[metric] for item in those]),
            len(those),
        )
        for name, those in parts
    )


def _groups(subjects: Sequence[PartScore], items: Sequence[float]) -> tuple[PartScore, ...]:
    clusters = [subject for subject in subjects for _ in range(subject.n)]
    scores = []
    for group in dict.fromkeys(subject.group for subject in subjects):
        own = [(item, one.name) for item, one in zip(items, clusters, strict=True) if one.group == group]
        value, error = clustered_mean_and_error([item for item, _ in own], [name for _, name in own])
        scores.append(PartScore(group, group, value, error, len(own)))
    return tuple(scores)
