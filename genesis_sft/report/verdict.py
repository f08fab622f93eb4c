"""What the numbers allow one to say, by rules that stand here and nowhere else; the record alone decides.

A *claim* ("rose", "fell") needs ``FEWEST_ITEMS`` = 10 items, and a p-value below ``ALPHA`` = 5 %:

- of a benchmark score, after Holm's correction over all scores of its surface, so that of a whole table without a true
  change 95 of 100 hold no claim at all;
- of a check of the chat answers, after the same correction over the checks;
- of a loss, and of the share of answers that end, by itself: each is one question.

Before any claim: a benchmark that is not above chance (by two standard errors) before nor after says nothing. The raw
surface is the primary one; what is said of the chat surface says so, and comes after. Alarms stand in
:mod:`genesis_sft.report.alarms`, tests and intervals in :mod:`genesis_sft.report.paired`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from genesis_sft.evals.error_bars import wilson
from genesis_sft.evals.table import counted
from genesis_sft.report import numbers
from genesis_sft.report.alarms import warn_below_chance, warn_of_guessing
from genesis_sft.report.changes import Comparison, HeldOutChange, RateChange, StopChange, TaskChange
from genesis_sft.report.findings import KIND_WORDS, Finding, Kind
from genesis_sft.report.paired import ALPHA, FEWEST_ITEMS

MANY_EMPTY = 0.1
"""Share of empty answers after training from which on they are warned of."""

_TOLD_BY_STOP_RATE = ("ends its turn", "is empty")


def judge(comparison: Comparison, skipped: str = "") -> tuple[Finding, ...]:
    """Return the verdict: warnings, better, worse, what cannot be told, what says nothing, notes.

    Args:
        comparison: What was measured.
        skipped: What there is to say of skipped training steps; see :func:`say_skipped`.
    """
    raw, chat = ([task for task in comparison.tasks if task.surface == surface] for surface in ("raw", "chat"))
    found = [
        *warn_of_guessing(comparison.tasks),
        *warn_below_chance(comparison.tasks),
        *([Finding("warning", "training", skipped)] if skipped else []),
        *_judge_loss("Held-out loss", "held-out loss", comparison.held_out_total, comparison.held_out),
        *_judge_loss("Loss on plain text", "plain text", comparison.plain_text_total),
        *_judge_stop(comparison.stop),
        *_judge_rates(comparison.rates),
        *_judge_tasks(raw),
        *_judge_tasks(chat),
        *_note_many_tasks(raw, "raw"),
        *_note_many_tasks(chat, "chat"),
        *(Finding("note", "settings", text) for text in comparison.notes),
    ]
    order = list(KIND_WORDS)
    return tuple(sorted(found, key=lambda finding: order.index(finding.kind)))


def task_kind(task: TaskChange) -> Kind:
    """Return what may be said of a benchmark: ``chance`` before any claim; ``better`` or ``worse``; else ``open``."""
    if task.before_above_chance is False and task.after_above_chance is False:
        return "chance"
    if not _is_claim(task.p_holm, task.n):
        return "open"
    return "better" if task.gain > 0 else "worse"


def held_out_kind(change: HeldOutChange) -> Kind:
    """Return what may be said of a loss; n is the number of conversations, or of passages."""
    if not _is_claim(change.p_value, change.n_conversations):
        return "open"
    return "better" if change.difference < 0 else "worse"


def stop_kind(stop: StopChange) -> Kind:
    """Return what may be said of the stop rate: McNemar's exact test on the prompts whose answer flipped."""
    if not _is_claim(stop.p_value, stop.after.n):
        return "open"
    return "better" if stop.to_ended > stop.to_not_ended else "worse"


def rate_kind(rate: RateChange) -> Kind:
    """Return what may be said of a check of the chat answers."""
    if not _is_claim(rate.p_holm, rate.after.n):
        return "open"
    return "better" if (rate.to_yes > rate.to_no) == (rate.better == "more") else "worse"


def _is_claim(p_value: float | None, n: int) -> bool:
    return p_value is not None and p_value < ALPHA and n >= FEWEST_ITEMS


def _judge_tasks(tasks: Sequence[TaskChange]) -> Iterator[Finding]:
    """The scores of one surface; those at chance in one sentence."""
    yield from (_judge_task(task) for task in tasks if task_kind(task) != "chance")
    if at_chance := [task for task in tasks if task_kind(task) == "chance"]:
        listed = "; ".join(
            f"{task.name}, {numbers.percent(task.before)} then {numbers.percent(task.after)} where guessing gives "
            f"{numbers.percent(task.chance)}"
            for task in at_chance
        )
        if len(at_chance) == 1:
            text = f"This benchmark is not above chance before nor after: it says nothing about this run. {listed}."
        else:
            text = (
                f"These {len(at_chance)} benchmarks are not above chance before nor after: they say nothing about this "
                f"run. {listed}."
            )
        yield Finding("chance", "at chance", text, len(at_chance))


def _judge_task(task: TaskChange) -> Finding:
    kind, name = task_kind(task), task.name
    if kind == "open":
        text = (
            f"{name}: {_value(task, task.before)} before, {_value(task, task.after)} after; {_difference(task)} cannot "
            f"be told from no change{_by_itself(task)}.{_could_have_seen(task)}"
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
        return f"{numbers.points_interval(task.difference, task.low, task.high)} points"
    return f"{numbers.nats_interval(task.difference, task.low, task.high)} nats per word"


def _by_itself(task: TaskChange) -> str:
    """Say so where the score alone would have been a claim, and the number of scores is why it is none."""
    if not _is_claim(task.p_value, task.n):
        return ""
    return (
        f" among so many scores (p = {numbers.p_value(task.p_value)} by itself, {numbers.p_value(task.p_holm)} with "
        "Holm's correction)"
    )


def _flips(task: TaskChange) -> str:
    if task.to_right is None or task.to_wrong is None:
        return ""
    return f"; {task.to_right:,} went to right, {task.to_wrong:,} to wrong"


def _could_have_seen(task: TaskChange) -> str:
    """Say what so few items can show, by ``smallest_visible``; nothing where the difference itself was large enough.

    That is so where only the number of scores, or too few subjects, keep it from being a claim.
    """
    if task.n < FEWEST_ITEMS:
        return f" Fewer than {FEWEST_ITEMS} items allow no claim."
    if task.smallest_visible is None or (task.unit == "share" and task.smallest_visible >= 1):
        return f" With {task.n:,} items no difference could have been seen."
    if task.smallest_visible == 0:
        return " No item changed at all."
    if _by_itself(task) or abs(task.difference) > task.smallest_visible:
        return ""
    if task.unit == "share":
        smallest = f"{task.smallest_visible * 100:.1f} points"
    else:
        smallest = f"{task.smallest_visible:.3f} nats per word"
    return f" With {task.n:,} items only differences above {smallest} could have been seen."


def _crossed_chance(task: TaskChange) -> str:
    """Fires on a claim whose score was above chance on one side only."""
    if task.before_above_chance is False:
        return " Before, it was not above chance."
    if task.after_above_chance is False:
        return " It is no longer above chance."
    return ""


def _judge_loss(
    name: str, subject: str, total: HeldOutChange | None, parts: Sequence[HeldOutChange] = ()
) -> Iterator[Finding]:
    """The total always; a single part only where it moved against the total, by a claim of its own."""
    if total is None:
        return
    kind = held_out_kind(total)
    forgot = " What the base knew is partly forgotten." if subject == "plain text" and kind == "worse" else ""
    yield Finding(kind, subject, _loss_sentence(name, total, kind) + forgot)
    for change in parts:
        own = held_out_kind(change)
        if own in ("better", "worse") and own != kind:
            yield Finding(own, change.source, _loss_sentence(f"{name} on {change.source}", change, own))


def _loss_sentence(name: str, change: HeldOutChange, kind: Kind) -> str:
    unit = "passage" if name == "Loss on plain text" else "conversation"
    size = f"{counted(change.n_conversations, unit)}, {counted(change.n_tokens, 'token')}"
    difference = numbers.nats_interval(change.difference, change.low, change.high)
    if kind == "open":
        few = f" Fewer than {FEWEST_ITEMS} {unit}s allow no claim." if change.n_conversations < FEWEST_ITEMS else ""
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
    return numbers.share_interval(share.low, share.high)


def _judge_rates(rates: Sequence[RateChange]) -> Iterator[Finding]:
    """A sentence for each check that changed; one for all that moved and cannot be told; none where nothing moved."""
    told = [rate for rate in rates if rate.name not in _TOLD_BY_STOP_RATE]
    unclear = [rate for rate in told if rate_kind(rate) == "open" and rate.to_yes + rate.to_no]
    for rate in told:
        if (kind := rate_kind(rate)) != "open":
            often = "more" if rate.to_yes > rate.to_no else "less"
            yield Finding(kind, rate.name, f"Chat answers, {_counts(rate)}: {often} often than before.")
    if unclear:
        listed = "; ".join(map(_counts, unclear))
        yield Finding("open", "chat checks", f"Chat answers, {listed}: cannot be told from no change.", len(unclear))


def _counts(rate: RateChange) -> str:
    return f"“{rate.name}”: {rate.after.count} of {rate.after.n}, before {rate.before.count}"


def _note_many_tasks(tasks: Sequence[TaskChange], surface: str) -> Iterator[Finding]:
    """Fires from two benchmark scores of a surface on."""
    if len(tasks) >= 2:
        yield Finding(
            "note",
            f"benchmarks, {surface}",
            f"{len(tasks)} benchmark scores were compared on the {surface} surface; the claims allow for their number "
            "(Holm's correction), the intervals of single differences do not.",
        )
