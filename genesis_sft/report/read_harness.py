"""Scores out of lm-evaluation-harness's results, as JSON.

::

    {"results": {"piqa": {"alias": "piqa", "acc,none": 0.5359, "acc_stderr,none": 0.0116, "acc_norm,none": 0.5305}},
     "group_subtasks": {"mmlu": ["mmlu_stem", ...], ...}, "n-samples": {"piqa": {"original": 1838, "effective": 1838}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genesis_sft.report.scores import ScoreRow, as_number, metric_name, shown, task_name

_DEEPEST_GROUP = 50


def harness_rows(whole: Mapping[str, Any], path: Path) -> Iterator[ScoreRow]:
    """Yield every score, those of groups too.

    Raises:
        InputError: A score is no finite number.
    """
    for part in ("results", "groups"):
        yield from _rows(whole.get(part), whole, path)


def _rows(results: Any, whole: Mapping[str, Any], path: Path) -> Iterator[ScoreRow]:
    """Yield the scores of tasks, and of tasks within tasks."""
    for task, scores in results.items() if isinstance(results, dict) else ():
        if not isinstance(scores, dict):
            continue
        yield from _rows({name: inner for name, inner in scores.items() if isinstance(inner, dict)}, whole, path)
        for key, value in scores.items():
            metric, _, filter_ = key.partition(",")
            if isinstance(value, dict | str | bool | None) or metric.endswith("_stderr") or metric == "sample_len":
                continue  # an alias, a note, a length
            where = f"{metric} of {shown(task)} in {path}"
            error = scores.get(f"{metric}_stderr,{filter_}" if filter_ else f"{metric}_stderr")
            yield ScoreRow(
                task_name(task),
                metric_name(metric),
                as_number(value, where),
                None if isinstance(error, str | None) else as_number(error, f"the standard error of {where}"),
                _num_items(task, whole, set()) or None,
                written=str(value),
            )


def _num_items(task: str, whole: Mapping[str, Any], seen: set[str], depth: int = 0) -> int:
    """Return the items that were asked; of a group, those of its members; 0 where the file does not say."""
    if task in seen or depth > _DEEPEST_GROUP:
        return 0
    seen.add(task)
    counts, members = whole.get("n-samples"), whole.get("group_subtasks")
    count = counts.get(task) if isinstance(counts, dict) else None
    if isinstance(count, dict) and type(count.get("effective")) is int:
        return max(0, int(count["effective"]))
    inner = members.get(task) if isinstance(members, dict) else None
    names = [name for name in inner if isinstance(name, str)] if isinstance(inner, list) else []
    parts = [_num_items(name, whole, seen, depth + 1) for name in names]
    return sum(parts) if all(parts) else 0
