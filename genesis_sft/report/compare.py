"""The same questions before and after: differences with the standard error of *paired* items.

Both models answered the same items, so an item's difficulty cancels in the difference; the standard error of the
difference comes from the item differences and is mostly much smaller than that of two separate samples. That holds only
for the very same items: records of other tasks, documents, conversations or prompts are refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from genesis_sft.errors import InputError
from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord, TaskRecord
from genesis_sft.report import statistics
from genesis_sft.report.same_evaluation import (
    note_other_rounding,
    refuse,
    refuse_other_settings,
    refuse_unless_same,
)
from genesis_sft.report.statistics import Share
from genesis_sft.run_dir import canonical_json

FEWEST_FLIPS = 6
"""The exact test needs this many flips, all in one direction, to reach 5 %: 2 / 2**6 = 0.031, 2 / 2**5 = 0.063."""

TOTAL = "all sources"


@dataclass(frozen=True)
class TaskChange:
    """One benchmark before and after.

    Attributes:
        unit: ``"share"`` of right answers, 0 to 1; or ``"nats per word"``, the log of a perplexity; less is better.
        before, after: Mean over the items.
        difference: ``after - before``.
        standard_error: Of the difference, from the item differences; None for fewer than two items.
        chance: What guessing scores, where the record states it.
        before_above_chance, after_above_chance: Whether the value less two of its standard errors is above chance, as
            ``TaskRecord.above_chance`` has it; a single item never is.
        to_right, to_wrong: Items that were wrong before and right after, and the other way round; None for nats.
        p_value: Of McNemar's exact test on these flips; None for nats.
        smallest_visible: True difference that these items would have shown four times out of five.
    """

    task: str
    metric: str
    unit: Literal["share", "nats per word"]
    n: int
    before: float
    after: float
    before_standard_error: float | None
    after_standard_error: float | None
    difference: float
    standard_error: float | None
    chance: float | None
    before_above_chance: bool | None
    after_above_chance: bool | None
    to_right: int | None
    to_wrong: int | None
    p_value: float | None
    smallest_visible: float | None

    @property
    def gain(self) -> float:
        """Return the difference, positive where the change is for the better."""
        return -self.difference if self.unit == "nats per word" else self.difference


@dataclass(frozen=True)
class HeldOutChange:
    """Loss on held-out conversations of one source (or of all), in nats per trained token; less is better."""

    source: str
    n_conversations: int
    n_tokens: int
    before: float
    after: float
    difference: float
    standard_error: float | None


@dataclass(frozen=True)
class StopChange:
    """How many chat answers ended with an answer: by themselves, within the token limit, and with some text.

    Attributes:
        before, after: Answers that did.
        before_empty, after_empty: Answers without any text, whether they ended or not; they count as not ended.
    """

    before: Share
    after: Share
    to_ended: int
    to_not_ended: int
    p_value: float
    before_median_tokens: float
    after_median_tokens: float
    before_empty: int
    after_empty: int


@dataclass(frozen=True)
class Comparison:
    """All that changed between two records of the same evaluation; ``notes`` is what to keep in mind beside it."""

    tasks: tuple[TaskChange, ...]
    held_out: tuple[HeldOutChange, ...]
    held_out_total: HeldOutChange | None
    stop: StopChange | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return verdict and tables as plain text lines."""
        from genesis_sft.report.text_page import render_comparison

        return render_comparison(self)


def compare(before: EvalRecord, after: EvalRecord) -> Comparison:
    """Compare two records of the same evaluation, item by item.

    Raises:
        InputError: The records are not of the same evaluation; the first difference is named.
    """
    refuse_other_settings(before.settings, after.settings)
    refuse_unless_same("task", [_task_name(one) for one in before.tasks], [_task_name(one) for one in after.tasks])
    refuse_unless_same(
        "held-out source", [one.source for one in before.held_out], [one.source for one in after.held_out]
    )
    tasks_after = {_task_name(one): one for one in after.tasks}
    held_out_after = {one.source: one for one in after.held_out}
    pairs = [(one, held_out_after[one.source]) for one in before.held_out]
    return Comparison(
        tasks=tuple(_compare_task(one, tasks_after[_task_name(one)]) for one in before.tasks),
        held_out=tuple(_compare_held_out(one.source, [(one, other)]) for one, other in pairs),
        held_out_total=_compare_held_out(TOTAL, pairs) if pairs else None,
        stop=_compare_stop(before.chat, after.chat),
        notes=note_other_rounding(before.settings, after.settings),
    )


def _compare_task(before: TaskRecord, after: TaskRecord) -> TaskChange:
    name = _task_name(before)
    if before.n != after.n:
        refuse(name, f"{before.n} items", f"{after.n}")
    old, new = _paired_items(name, before, after)
    unit: Literal["share", "nats per word"] = "nats per word" if before.metric == "perplexity" else "share"
    differences = [y - x for x, y in zip(old, new, strict=True)]
    paired_error = statistics.standard_error(differences)
    flips = _count_flips(old, new) if unit == "share" else None
    return TaskChange(
        task=before.task,
        metric=before.metric,
        unit=unit,
        n=len(old),
        before=statistics.mean(old),
        after=statistics.mean(new),
        before_standard_error=statistics.standard_error(old),
        after_standard_error=statistics.standard_error(new),
        difference=statistics.mean(differences),
        standard_error=paired_error,
        chance=before.chance,
        before_above_chance=_above_chance(old, before.chance),
        after_above_chance=_above_chance(new, before.chance),
        to_right=flips[0] if flips else None,
        to_wrong=flips[1] if flips else None,
        p_value=statistics.sign_test(*flips) if flips else None,
        smallest_visible=statistics.smallest_visible(paired_error, floor=FEWEST_FLIPS / len(old) if flips else 0.0),
    )


def _paired_items(name: str, before: TaskRecord, after: TaskRecord) -> tuple[list[float], list[float]]:
    """Return the outcomes of both records in one order: by document, not by line."""
    old, new = _by_document(name, before), _by_document(name, after)
    refuse_unless_same(f"a document of {name},", old, new)
    return list(old.values()), [new[document] for document in old]


def _by_document(name: str, record: TaskRecord) -> dict[str, float]:
    """Return document to outcome; a document that stands twice in a task is numbered, as both records have it twice."""
    if not record.items or len(record.items) != len(record.doc_hashes):
        raise InputError(
            f"{name}: expected one outcome per document, found {len(record.items)} outcomes "
            f"and {len(record.doc_hashes)} documents",
            hint="The record is damaged; evaluate the model again.",
        )
    seen: Counter[str] = Counter()
    outcomes = {}
    for doc_hash, outcome in zip(record.doc_hashes, record.items, strict=True):
        seen[doc_hash] += 1
        document = doc_hash if seen[doc_hash] == 1 else f"{doc_hash} ({seen[doc_hash]})"
        outcomes[document] = _cost(outcome) if record.metric == "perplexity" else outcome
    return outcomes


def _cost(log_likelihood: float) -> float:
    """Return nats per word; an item of a perplexity is the log-likelihood of its word."""
    return -log_likelihood


def _count_flips(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """Return how many items went to right and to wrong."""
    to_right = sum(1 for x, y in zip(before, after, strict=True) if y > x)
    to_wrong = sum(1 for x, y in zip(before, after, strict=True) if y < x)
    return to_right, to_wrong


def _above_chance(outcomes: Sequence[float], chance: float | None) -> bool | None:
    if chance is None:
        return None
    error = statistics.standard_error(outcomes)
    return error is not None and statistics.mean(outcomes) - 2 * error > chance


def _compare_held_out(name: str, pairs: Sequence[tuple[HeldOutRecord, HeldOutRecord]]) -> HeldOutChange:
    """Compare the loss as a ratio of sums: nats of all conversations over tokens of all conversations."""
    old: list[float] = []
    new: list[float] = []
    tokens: list[int] = []
    for before, after in pairs:
        if (before.rows, before.tokens) != (after.rows, after.tokens):
            refuse(
                f"held-out source {before.source}",
                f"{before.n_conversations} conversations with {before.n_tokens} trained tokens",
                f"{after.n_conversations} with {after.n_tokens}, or other ones",
            )
        old += before.losses
        new += after.losses
        tokens += before.tokens
    total = sum(tokens)
    differences = [y - x for x, y in zip(old, new, strict=True)]
    return HeldOutChange(
        source=name,
        n_conversations=len(tokens),
        n_tokens=total,
        before=math.fsum(old) / total,
        after=math.fsum(new) / total,
        difference=math.fsum(differences) / total,
        standard_error=statistics.ratio_standard_error(differences, tokens),
    )


def _compare_stop(before: Sequence[ChatAnswer], after: Sequence[ChatAnswer]) -> StopChange | None:
    refuse_unless_same("chat prompt", [_prompt(answer) for answer in before], [_prompt(answer) for answer in after])
    if not before:
        return None
    by_prompt = {_prompt(answer): answer for answer in after}
    pairs = [(answer, by_prompt[_prompt(answer)]) for answer in before]
    to_ended = sum(1 for one, other in pairs if other.answered and not one.answered)
    to_not_ended = sum(1 for one, other in pairs if one.answered and not other.answered)
    return StopChange(
        before=statistics.wilson(sum(one.answered for one, _ in pairs), len(pairs)),
        after=statistics.wilson(sum(other.answered for _, other in pairs), len(pairs)),
        to_ended=to_ended,
        to_not_ended=to_not_ended,
        p_value=statistics.sign_test(to_ended, to_not_ended),
        before_median_tokens=statistics.median([one.num_tokens for one, _ in pairs]),
        after_median_tokens=statistics.median([other.num_tokens for _, other in pairs]),
        before_empty=sum(one.empty for one, _ in pairs),
        after_empty=sum(other.empty for _, other in pairs),
    )


def _task_name(record: TaskRecord) -> str:
    return f"{record.task} ({record.metric})"


def _prompt(answer: ChatAnswer) -> str:
    """Return what was asked, as text that is equal for equal prompts."""
    return f"{answer.id}: {canonical_json(answer.messages)}"
