"""A record as plain text lines, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from genesis_sft.evals.error_bars import ratio_and_error, wilson_interval
from genesis_sft.evals.record import EvalRecord, HeldOutRecord
from genesis_sft.evals.task_record import DOUBTFUL_AS_CHAT, PartScore, TaskRecord

_HEADER = ("task", "metric", "value", "95 % interval", "chance", "n", "")
_Z_95 = 1.96


def format_record(record: EvalRecord) -> str:
    """Return the scores, one line each, with 95 % intervals; the raw surface and the chat surface apart.

    Example::

        task  metric   value    95 % interval  chance      n
        piqa  acc     0.5359  0.513 to 0.5586  0.5000   1838
        mmlu  acc     0.2567   0.249 to 0.264  0.2500  14042  not above chance

        not above chance: mmlu. Guessing may score as much: this score says nothing about this model.
    """
    lines = [*_tasks(record), *_notes(record), *_losses(record), *_chat(record)]
    return "\n".join(lines)


def interval_of(task: TaskRecord) -> tuple[float, float]:
    """Return the 95 % interval of a score.

    Wilson's for a share of independent items; value +- 1.96 standard errors for MMLU, whose error holds the spread
    between subjects, but Wilson's where all of them scored the same; the same on the logarithm for a perplexity.
    """
    if task.metric == "perplexity":
        factor = math.exp(_Z_95 * task.standard_error / task.value)
        return task.value / factor, task.value * factor
    if task.subjects:
        return _around(task)
    return wilson_interval(round(task.value * task.n), task.n)


def _tasks(record: EvalRecord) -> Iterator[str]:
    """Yield the lines of each surface, the raw one first; a heading says which where there are both."""
    of_surface = {name: [task for task in record.tasks if task.surface == name] for name in ("raw", "chat")}
    headings = {"raw": "raw: as plain text", "chat": "chat: as a conversation (not to be compared with raw)"}
    for name, tasks in of_surface.items():
        if not tasks:
            continue
        if name == "chat":
            yield from ([""] if of_surface["raw"] else [])
        if of_surface["chat"]:
            yield headings[name]
        rows: list[tuple[str, ...]] = [_HEADER]
        for task in tasks:
            rows += [_task_row(task), *(_group_row(group, task) for group in task.groups)]
        yield from _aligned(rows)


def _task_row(task: TaskRecord) -> tuple[str, ...]:
    low, high = interval_of(task)
    name = task.task + (f" {task.num_fewshot}-shot" if task.num_fewshot else "")
    if task.metric == "perplexity":
        return (name, task.metric, f"{task.value:.4g}", f"{low:.4g} to {high:.4g}", "-", str(task.n), "")
    chance = "-" if task.chance is None else f"{task.chance:.4f}"
    note = "not above chance" if task.above_chance is False else ""
    return (name, task.metric, f"{task.value:.4f}", f"{low:.4f} to {high:.4f}", chance, str(task.n), note)


def _group_row(group: PartScore, task: TaskRecord) -> tuple[str, ...]:
    low, high = _around(group)
    interval = f"{low:.4f} to {high:.4f}"
    return (f"  {group.name}", task.metric, f"{group.value:.4f}", interval, f"{task.chance:.4f}", str(group.n), "")


def _around(score: TaskRecord | PartScore) -> tuple[float, float]:
    if not score.standard_error:  # a single item, or all alike: that says nothing of how far the score may be off
        return wilson_interval(round(score.value * score.n), score.n)
    half = _Z_95 * score.standard_error
    return max(0.0, score.value - half), min(1.0, score.value + half)


def _notes(record: EvalRecord) -> Iterator[str]:
    if at_chance := [task.label for task in record.tasks if task.above_chance is False]:
        these = "this score says" if len(at_chance) == 1 else "these scores say"
        yield f"not above chance: {', '.join(at_chance)}. Guessing may score as much: {these} nothing about this model."
    chat = {task.task for task in record.tasks if task.surface == "chat"}
    if doubtful := sorted(chat & {*DOUBTFUL_AS_CHAT}):
        ask = "asks" if len(doubtful) == 1 else "ask"
        yield (
            f"note: on the chat surface {' and '.join(doubtful)} {ask} an assistant to go on with the user's text: a "
            "change there says little"
        )
    if truncated := sum(task.num_truncated for task in record.tasks):
        yield f"note: {truncated:,} requests were longer than the model's context and lost their beginning"


def _losses(record: EvalRecord) -> Iterator[str]:
    for one in record.held_out:
        bits = "" if one.bits_per_byte is None else f", {one.bits_per_byte:.3f} bits/byte"
        yield (
            f"held-out {one.source}: {one.nats_per_token:.4f} ± {one.standard_error:.4f} nats/token{bits} "
            f"({counted(one.n_conversations, 'conversation')}, {counted(one.n_tokens, 'trained token')})"
        )
    if record.plain_text:
        yield _plain_text(record.plain_text)


def _plain_text(records: Sequence[HeldOutRecord]) -> str:
    """Passages are the units: the paragraphs of one move together."""
    tokens = [sum(one.tokens) for one in records]
    loss, error = ratio_and_error([math.fsum(one.losses) for one in records], tokens)
    size = f"{counted(len(records), 'passage')}, {counted(sum(tokens), 'token')}"
    return f"plain text: {loss:.4f} ± {error:.4f} nats/token ({size})"


def counted(count: int, noun: str) -> str:
    """Return how many of what: ``"1 passage"``, ``"1,200 tokens"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _chat(record: EvalRecord) -> Iterator[str]:
    """Yield how many answers each check holds of, of those to which it applies."""
    if not record.chat:
        return
    from genesis_sft.evals.answer_checks import CHECKS

    if rate := record.stop_rate:
        yield f"chat prompts answered to the end: {_share(round(rate.value * rate.n), rate.n)}"
    for check in CHECKS.values():
        found = [held for held in map(check.holds, record.chat) if held is not None]
        if found:
            yield f"chat answers, {check.name} ({check.better} is better): {_share(sum(found), len(found))}"


def _share(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count} of {n} (95 % interval {low:.0%} to {high:.0%})"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names on the left of their column, numbers on the right."""
    return [
        cell.rjust(width) if 2 <= place <= 5 else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
