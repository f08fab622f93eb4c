"""A record as plain text lines, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from genesis_sft.evals.record import EvalRecord, PartScore, TaskRecord

_HEADER = ("task", "metric", "value", "± error", "chance", "n", "")


def format_record(record: EvalRecord) -> str:
    """Return the scores, one line each, each with its standard error; the error is one standard error, not an interval.

    Example::

        task      metric     value  ± error  chance   n
        piqa      acc       0.5359   0.0116  0.5000  1838
        mmlu      acc       0.2567   0.0037  0.2500  14042  not above chance
    """
    rows: list[tuple[str, ...]] = [_HEADER] if record.tasks else []
    for task in record.tasks:
        rows += [_task_row(task), *(_group_row(group, task) for group in task.groups)]
    lines = _aligned(rows)
    for one in record.held_out:
        lines.append(
            f"held-out {one.source}: {one.nats_per_token:.4f} ± {one.standard_error:.4f} nats/token "
            f"({one.n_conversations:,} conversations, {one.n_tokens:,} trained tokens)"
        )
    if rate := record.stop_rate:
        ended, empty = sum(answer.answered for answer in record.chat), sum(answer.empty for answer in record.chat)
        lines.append(
            f"chat prompts answered to the end: {ended} of {rate.n} (95 % interval {rate.low:.0%} to {rate.high:.0%})"
            + (f"; {empty} empty answers" if empty else "")
        )
    if truncated := sum(task.num_truncated for task in record.tasks):
        lines.append(f"note: {truncated:,} requests were longer than the model's context and lost their beginning")
    return "\n".join(lines)


def _task_row(task: TaskRecord) -> tuple[str, ...]:
    if task.metric == "perplexity":
        return (task.task, task.metric, f"{task.value:.4g}", f"{task.standard_error:.2g}", "-", str(task.n), "")
    chance = "-" if task.chance is None else f"{task.chance:.4f}"
    note = "not above chance" if task.above_chance is False else ""
    return (task.task, task.metric, f"{task.value:.4f}", f"{task.standard_error:.4f}", chance, str(task.n), note)


def _group_row(group: PartScore, task: TaskRecord) -> tuple[str, ...]:
    error = f"{group.standard_error:.4f}"
    return (f"  {group.name}", task.metric, f"{group.value:.4f}", error, f"{task.chance:.4f}", str(group.n), "")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names on the left of their column, numbers on the right."""
    return [
        cell.rjust(width) if 2 <= place <= 5 else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
