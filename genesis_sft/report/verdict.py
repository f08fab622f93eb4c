"""What the numbers allow one to say, by rules that stand here and nowhere else.

A *claim* ("rose", "fell") is made when all of these hold:

- the difference is more than ``CLAIM`` = 2 standard errors of the paired difference;
- there are at least ``FEWEST_ITEMS`` = 10 items: below, a standard error is itself too uncertain;
- where items are right or wrong (ended or not), McNemar's exact test gives p < ``ALPHA`` = 0.05 as well: with few flips
  the standard error alone is too bold (4 flips of 24, all one way, are 2.1 standard errors but p = 0.13).

Each rule below is a function that says when it fires; ``judge`` calls them in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genesis_sft.report import numbers
from genesis_sft.report.compare import Comparison, HeldOutChange, StopChange, TaskChange
from genesis_sft.report.statistics import wilson

CLAIM = 2.0
FEWEST_ITEMS = 10
ALPHA = 0.05
MANY_EMPTY = 0.1
"""Share of empty answers after training from which on they are warned of."""

BROKEN_NATS_PER_WORD = 9.0
"""A working model of 135M parameters needs about 4 nats for LAMBADA's last word; guessing uniformly among 49,152 pieces
costs 10.8 nats a piece; exports with a wrong RoPE layout, shifted ids or a lost head measured 9.8 to 28."""

Kind = Literal["better", "worse", "open", "chance", "warning", "note"]

KIND_WORDS: dict[Kind, str] = {
    "warning": "Warning",
    "better": "Better",
    "worse": "Worse",
    "open": "Cannot be told",
    "chance": "Says nothing",
    "note": "Keep in mind",
}


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict. ``subject`` is what it is about; ``open`` means that it cannot be told."""

    kind: Kind
    subject: str
    text: str


def judge(comparison: Comparison, skipped: str = "") -> tuple[Finding, ...]:
    """Return the verdict: warnings, better, worse, what cannot be told, what says nothing, notes.

    Args:
        comparison: What was measured.
        skipped: What there is to say of skipped training steps; see :func:`say_skipped`.
    """
    found = [
        *_warn_of_broken_base(comparison),
        *([Finding("warning", "training", skipped)] if skipped else []),
        *_judge_held_out(comparison),
        *_judge_stop(comparison.stop),
        *(_judge_task(task) for task in comparison.tasks),
        *_note_many_tasks(comparison),
        *(Finding("note", "settings", text) for text in comparison.notes),
    ]
    order = list(KIND_WORDS)
    return tuple(sorted(found, key=lambda finding: order.index(finding.kind)))


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


def headline(findings: tuple[Finding, ...]) -> str:
    """Return the verdict in one sentence, by counting the findings."""
    counts = {kind: sum(one.kind == kind for one in findings) for kind in ("better", "worse", "open", "chance")}
    total = sum(counts.values())
    if not total:
        return "Nothing was measured before and after."
    parts = [f"{counts['better']} better", f"{counts['worse']} worse", f"{counts['open']} cannot be told"]
    if counts["chance"]:
        parts.append(f"{counts['chance']} at chance, saying nothing")
    return f"Of {total} measurement{'s' if total > 1 else ''}: {', '.join(parts)}."


def task_kind(task: TaskChange) -> Kind:
    """Return what may be said of a benchmark.

    ``chance``: chance is known and the score is not above it (by two standard errors) before nor after; this goes
    before any claim. ``better`` or ``worse``: a claim, as the module defines it. Else ``open``.
    """
    if task.before_above_chance is False and task.after_above_chance is False:
        return "chance"
    if not _is_claim(task.difference, task.standard_error, task.n, task.p_value):
        return "open"
    return "better" if task.gain > 0 else "worse"


def held_out_kind(change: HeldOutChange) -> Kind:
    """Return what may be said of a held-out loss; n is the number of conversations."""
    if not _is_claim(change.difference, change.standard_error, change.n_conversations):
        return "open"
    return "better" if change.difference < 0 else "worse"


def stop_kind(stop: StopChange) -> Kind:
    """Return what may be said of the stop rate: McNemar's exact test on the prompts whose answer flipped."""
    if stop.p_value >= ALPHA:
        return "open"
    return "better" if stop.to_ended > stop.to_not_ended else "worse"


def _is_claim(difference: float, standard_error: float | None, n: int, p_value: float | None = None) -> bool:
    if standard_error is None or n < FEWEST_ITEMS:
        return False
    return abs(difference) > CLAIM * standard_error and (p_value is None or p_value < ALPHA)


def _judge_task(task: TaskChange) -> Finding:
    kind = task_kind(task)
    name = f"{task.task} ({task.metric})"
    if kind == "chance":
        text = (
            f"{name} is not above chance ({numbers.percent(task.chance)}) before ({numbers.percent(task.before)}) "
            f"nor after ({numbers.percent(task.after)}): it says nothing about this run."
        )
    elif kind == "open":
        text = (
            f"{name}: {_value(task, task.before)} before, {_value(task, task.after)} after; {_difference(task)} cannot "
            f"be told from no change. {_could_have_seen(task)}"
        )
    else:
        text = (
            f"{name} {'rose' if task.difference > 0 else 'fell'} from {_value(task, task.before)} to "
            f"{_value(task, task.after)}: {_difference(task)} (n = {task.n:,}{_flips(task)}).{_crossed_chance(task)}"
        )
    return Finding(kind, name, text)


def _value(task: TaskChange, value: float) -> str:
    return numbers.percent(value) if task.unit == "share" else numbers.perplexity(value)


def _difference(task: TaskChange) -> str:
    if task.unit == "share":
        return f"{numbers.points(task.difference, task.standard_error)} points"
    return f"{numbers.nats_difference(task.difference, task.standard_error)} nats per word"


def _flips(task: TaskChange) -> str:
    if task.to_right is None or task.to_wrong is None:
        return ""
    return f"; {task.to_right:,} went to right, {task.to_wrong:,} to wrong"


def _could_have_seen(task: TaskChange) -> str:
    """Say what so few items can show; by ``smallest_visible``, or that no difference could have been seen at all."""
    items = f"{task.n:,} item{'s' if task.n > 1 else ''}"
    if task.smallest_visible is None or (task.unit == "share" and task.smallest_visible >= 1):
        return f"With {items} no difference could have been seen."
    if task.unit == "share":
        return f"With {items} only differences above {task.smallest_visible * 100:.1f} points could have been seen."
    return f"With {items} only differences above {task.smallest_visible:.3f} nats per word could have been seen."


def _crossed_chance(task: TaskChange) -> str:
    """Fires on a claim whose score was above chance on one side only."""
    if task.before_above_chance is False:
        return " Before, it was not above chance."
    if task.after_above_chance is False:
        return " It is no longer above chance."
    return ""


def _judge_held_out(comparison: Comparison) -> Iterator[Finding]:
    """The total always; a single source only where it moved against the total, by a claim of its own."""
    total = comparison.held_out_total
    if total is None:
        return
    kind = held_out_kind(total)
    yield Finding(kind, "held-out loss", _held_out_sentence("Held-out loss", total, kind))
    for change in comparison.held_out:
        own = held_out_kind(change)
        if own in ("better", "worse") and own != kind:
            yield Finding(own, change.source, _held_out_sentence(f"Held-out loss on {change.source}", change, own))


def _held_out_sentence(name: str, change: HeldOutChange, kind: Kind) -> str:
    size = f"{change.n_conversations:,} conversations, {change.n_tokens:,} trained tokens"
    difference = numbers.nats_difference(change.difference, change.standard_error)
    if kind == "open":
        few = (
            f" Fewer than {FEWEST_ITEMS} conversations allow no claim." if change.n_conversations < FEWEST_ITEMS else ""
        )
        return (
            f"{name}: {numbers.nats(change.before)} before, {numbers.nats(change.after)} after; "
            f"{difference} nats per token cannot be told from no change ({size}).{few}"
        )
    verb = "fell" if change.difference < 0 else "rose"
    return (
        f"{name} {verb} from {numbers.nats(change.before)} to {numbers.nats(change.after)} nats per token: "
        f"{difference} ({size})."
    )


def _judge_stop(stop: StopChange | None) -> Iterator[Finding]:
    """The stop rate; a warning of empty answers, and one when hardly half of the answers end at all.

    The second fires when the upper end of the interval after training is below one half. There an empty answer counts
    as ended: a model that says nothing has learned to stop.
    """
    if stop is None:
        return
    kind = stop_kind(stop)
    words = {
        "better": "more often than before",
        "worse": "less often than before",
        "open": "as far as can be told no change",
    }
    text = (
        f"{stop.after.count} of {stop.after.n} prompts got an answer that ends by itself, before {stop.before.count} "
        f"of {stop.before.n}: {words[kind]} (95 % intervals {stop_interval(stop, 'after')}, before "
        f"{stop_interval(stop, 'before')})."
    )
    yield Finding(kind, "stop rate", text)
    if stop.after_empty > MANY_EMPTY * stop.after.n:
        yield Finding(
            "warning",
            "empty answers",
            f"{stop.after_empty} of {stop.after.n} answers are empty after training, before {stop.before_empty}. Read "
            "the sample conversations before anything else: a model that says nothing may be destroyed.",
        )
    if wilson(stop.after.count + stop.after_empty, stop.after.n).high < 0.5:
        yield Finding(
            "warning",
            "stop rate",
            "Fewer than half of the answers end by themselves after training. A model that was not trained on the end "
            "of its turn (tokens.train_on without end_of_turn) does not learn to stop.",
        )


def stop_interval(stop: StopChange, side: Literal["before", "after"]) -> str:
    """Return a Wilson interval: ``83–99 %``."""
    share = stop.before if side == "before" else stop.after
    return f"{share.low * 100:.0f}–{share.high * 100:.0f} %"


def _warn_of_broken_base(comparison: Comparison) -> Iterator[Finding]:
    """Fires when a word of a perplexity task cost ``BROKEN_NATS_PER_WORD`` or more before training."""
    for task in comparison.tasks:
        if task.unit == "nats per word" and task.before >= BROKEN_NATS_PER_WORD:
            yield Finding(
                "warning",
                task.task,
                f"Before training {task.task} cost {task.before:.1f} nats per word (perplexity "
                f"{numbers.perplexity(task.before)}). Guessing uniformly among 49,152 pieces costs 10.8 nats a piece, "
                "and a working model of 135M parameters needs about 4 a word: the base looks broken as exported. See "
                "the base check before reading anything else.",
            )


def _note_many_tasks(comparison: Comparison) -> Iterator[Finding]:
    """Fires from two benchmark scores on."""
    k = len(comparison.tasks)
    if k >= 2:
        yield Finding(
            "note",
            "benchmarks",
            f"{k} benchmark scores were compared. Where nothing changed, about one in twenty would still differ by two "
            "standard errors by chance alone.",
        )
