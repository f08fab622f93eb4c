"""Numbers that a working model does not give: they point to a broken export or tokenizer, or a destroyed model.

- A perplexity per word so high that the model hardly does better than guessing uniformly among the tokenizer's pieces,
  by the rule of :mod:`genesis_sft.report.judge_lambada`.
- An accuracy below chance, by the rule of :mod:`genesis_sft.report.judge_chance`: guessing does better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from genesis_sft.report.changes import TaskChange
from genesis_sft.report.findings import Finding
from genesis_sft.report.judge_chance import against_chance, correct
from genesis_sft.report.judge_lambada import MOST_NATS, Yardstick, judge_perplexity
from genesis_sft.report.scores import JudgedRow, ScoreRow

_SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")


def warn_of_guessing(tasks: Sequence[TaskChange]) -> Iterator[Finding]:
    """Yield a warning for every perplexity, on the raw surface, that a broken model would have."""
    accuracies = {(one.task, one.num_fewshot): one for one in tasks if one.surface == "raw" and one.metric == "acc"}
    for task in tasks:
        if task.unit != "nats per word" or task.surface != "raw":
            continue
        yardstick = Yardstick(vocab_size=task.vocab_size, pieces_per_word=task.pieces_per_word)
        other = accuracies.get((task.task, task.num_fewshot))
        for side in _SIDES:
            nats: float = getattr(task, side)
            accuracy = getattr(other, side) if other else None
            kind, text = judge_perplexity(math.exp(min(nats, MOST_NATS)), accuracy, yardstick)
            if kind in ("broken", "doubtful"):
                what = "the base looks broken as exported" if side == "before" else "the tuned model looks broken"
                yield Finding("warning", task.label, f"{_side(side)} {task.label} is {text}: {what}.")
                break  # a broken base stays broken


def warn_below_chance(tasks: Sequence[TaskChange]) -> Iterator[Finding]:
    """Yield a warning for every accuracy, on the raw surface, that lies below chance before training, or else after."""
    scores = [task for task in tasks if task.chance is not None and task.surface == "raw"]
    rows = [correct([_row(task, side) for task in scores]) for side in _SIDES]
    for task, *both in zip(scores, *rows, strict=True):
        for side, row in zip(_SIDES, both, strict=True):
            if row.kind == "below":
                yield Finding("warning", task.name, f"{_side(side)} {task.name} is {row.text}")
                break


def _row(task: TaskChange, side: Literal["before", "after"]) -> JudgedRow:
    error = task.before_standard_error if side == "before" else task.after_standard_error
    return against_chance(ScoreRow(task.task, task.metric, getattr(task, side), error, task.n, task.chance))


def _side(side: Literal["before", "after"]) -> str:
    return f"{side.capitalize()} training"


def say_skipped(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence on the training steps that were skipped; ``""`` where none was.

    Args:
        metrics: Rows with ``step``, and ``skipped`` where a gradient was not finite.
    """
    steps = [row["step"] for row in metrics if row.get("skipped")]
    if not steps:
        return ""
    return (
        f"{len(steps):,} of {len(metrics):,} training steps were skipped (the first: step {steps[0]:,}), as their "
        "gradient was not finite and the weights were left as they were. The learning rate may be too high."
    )
