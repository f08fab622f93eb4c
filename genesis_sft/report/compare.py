"""The same questions before and after: differences with the uncertainty of *paired* items.

Both models answered the same items, so an item's difficulty cancels in the difference; the standard error of the
difference comes from the item differences and is mostly much smaller than that of two separate samples. That holds only
for the very same items: records of other tasks, documents, prompts, conversations or surfaces are refused. Tests and
intervals stand in :mod:`genesis_sft.report.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from genesis_sft.evals.answer_checks import CHECKS, Check
from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error, wilson
from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord, bits_per_byte
from genesis_sft.evals.task_record import TaskRecord
from genesis_sft.report import paired
from genesis_sft.report.changes import (
    Comparison,
    GroupChange,
    HeldOutChange,
    RateChange,
    StopChange,
    TaskChange,
)
from genesis_sft.report.pairing import PairedItems, pair_items
from genesis_sft.report.same_evaluation import (
    note_other_rounding,
    refuse,
    refuse_other_questions,
    refuse_other_settings,
    refuse_unless_same,
    score_name,
    shared_scores,
)
from genesis_sft.run_dir import canonical_json

ALL_SOURCES, ALL_PASSAGES = "all sources", "all passages"


def compare(before: EvalRecord, after: EvalRecord) -> Comparison:
    """Compare two records of the same evaluation, item by item.

    Where one of them was read from lm-evaluation-harness's own output, the scores that both have are compared, and
    ``notes`` name the others.

    Raises:
        InputError: The records are not of the same evaluation; the first difference is named.
    """
    before, after, notes = shared_scores(before, after)
    refuse_other_questions(before.tasks, after.tasks)
    refuse_other_settings(before.settings, after.settings)
    refuse_unless_same("task", map(score_name, before.tasks), map(score_name, after.tasks))
    tasks_after = {score_name(one): one for one in after.tasks}
    held_out = _pairs("held-out source", before.held_out, after.held_out)
    plain_text = [
        (_as_one_unit(old), _as_one_unit(new))
        for old, new in _pairs("passage of plain text", before.plain_text, after.plain_text)
    ]
    answers = _answer_pairs(before.chat, after.chat)
    return Comparison(
        tasks=_corrected([_compare_task(one, tasks_after[score_name(one)]) for one in before.tasks]),
        held_out=tuple(_compare_losses(pair[0].source, [pair]) for pair in held_out),
        held_out_total=_compare_losses(ALL_SOURCES, held_out) if held_out else None,
        stop=_compare_stop([pair for pair in answers if not pair[0].rules]),
        plain_text=tuple(_compare_losses(pair[0].source, [pair]) for pair in plain_text),
        plain_text_total=_compare_losses(ALL_PASSAGES, plain_text) if plain_text else None,
        rates=_compare_rates(answers),
        notes=(*notes, *note_other_rounding(before.settings, after.settings)),
    )


def _compare_task(before: TaskRecord, after: TaskRecord) -> TaskChange:
    items = pair_items(before, after)
    nats = before.metric == "perplexity"
    found = _difference(items, nats=nats)
    flips = None if nats else paired.count_flips(items.before, items.after)
    (old, old_error), (new, new_error) = (_value(one, items) for one in (items.before, items.after))
    return TaskChange(
        task=before.task,
        metric=before.metric,
        unit="nats per word" if nats else "share",
        n=len(items.before),
        before=old,
        after=new,
        before_standard_error=old_error,
        after_standard_error=new_error,
        difference=found.value,
        standard_error=found.standard_error,
        chance=before.chance,
        before_above_chance=_above_chance(old, old_error, before.chance),
        after_above_chance=_above_chance(new, new_error, before.chance),
        to_right=flips[0] if flips else None,
        to_wrong=flips[1] if flips else None,
        p_value=found.p_value,
        smallest_visible=paired.smallest_visible(
            found.standard_error, floor=paired.FEWEST_FLIPS / len(items.before) if flips else 0.0
        ),
        surface=before.surface,
        num_fewshot=before.num_fewshot,
        low=found.low,
        high=found.high,
        groups=tuple(_compare_group(name, items.of_group(name)) for name in dict.fromkeys(items.groups)),
        vocab_size=before.vocab_size,
        pieces_per_word=before.pieces_per_word,
    )


def _difference(items: PairedItems, *, nats: bool) -> paired.PairedDifference:
    if nats:
        return paired.compare_totals(items.before, items.after, [1] * len(items.before))
    if items.subjects:
        return paired.compare_in_clusters(items.before, items.after, items.subjects)
    return paired.compare_outcomes(items.before, items.after)


def _value(outcomes: Sequence[float], items: PairedItems) -> tuple[float, float | None]:
    """Return mean and standard error; no error of a single item."""
    value, error = clustered_mean_and_error(outcomes, items.subjects) if items.subjects else mean_and_error(outcomes)
    return value, error if len(outcomes) > 1 else None


def _above_chance(value: float, standard_error: float | None, chance: float | None) -> bool | None:
    if chance is None:
        return None
    return standard_error is not None and value - 2 * standard_error > chance


def _compare_group(name: str, items: PairedItems) -> GroupChange:
    found = paired.compare_in_clusters(items.before, items.after, items.subjects)
    old, new = (mean_and_error(one)[0] for one in (items.before, items.after))
    return GroupChange(name, len(items.before), old, new, found.value, found.low, found.high)


def _corrected(changes: Sequence[TaskChange]) -> tuple[TaskChange, ...]:
    """Return the changes with Holm's p-values, raw scores as one family and chat scores as another."""
    p_holm: dict[int, float | None] = {}
    for surface in dict.fromkeys(change.surface for change in changes):
        family = [place for place, change in enumerate(changes) if change.surface == surface]
        p_holm |= zip(family, paired.holm([changes[place].p_value for place in family]), strict=True)
    return tuple(replace(change, p_holm=p_holm[place]) for place, change in enumerate(changes))


def _pairs(
    what: str, before: Sequence[HeldOutRecord], after: Sequence[HeldOutRecord]
) -> list[tuple[HeldOutRecord, HeldOutRecord]]:
    """Return the losses of both sides, by name; refuse those of other text."""
    refuse_unless_same(what, [one.source for one in before], [one.source for one in after])
    by_name = {one.source: one for one in after}
    pairs = [(one, by_name[one.source]) for one in before]
    for old, new in pairs:
        if (old.rows, old.tokens, old.num_bytes) != (new.rows, new.tokens, new.num_bytes):
            refuse(
                f"{what} {old.source}",
                f"{old.n_conversations} conversations with {old.n_tokens} trained tokens",
                f"{new.n_conversations} with {new.n_tokens}, or other ones",
            )
    return pairs


def _as_one_unit(passage: HeldOutRecord) -> HeldOutRecord:
    """Return a passage with its paragraphs as one: they move together, so only passages are independent."""
    return replace(
        passage,
        n_conversations=1,
        rows=(0,),
        losses=(math.fsum(passage.losses),),
        tokens=(sum(passage.tokens),),
        num_bytes=(sum(passage.num_bytes),) if passage.num_bytes else (),
    )


def _compare_losses(name: str, pairs: Sequence[tuple[HeldOutRecord, HeldOutRecord]]) -> HeldOutChange:
    """Compare the loss as a ratio of sums: nats of all conversations over tokens of all conversations."""
    old = [loss for before, _ in pairs for loss in before.losses]
    new = [loss for _, after in pairs for loss in after.losses]
    tokens = [count for before, _ in pairs for count in before.tokens]
    num_bytes = sum(count for before, _ in pairs for count in before.num_bytes)
    num_bytes *= all(before.num_bytes for before, _ in pairs)  # some records do not state them
    found = paired.compare_totals(old, new, tokens)
    return HeldOutChange(
        source=name,
        n_conversations=len(tokens),
        n_tokens=sum(tokens),
        before=math.fsum(old) / sum(tokens),
        after=math.fsum(new) / sum(tokens),
        difference=found.value,
        standard_error=found.standard_error,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        before_bits_per_byte=bits_per_byte(math.fsum(old), num_bytes),
        after_bits_per_byte=bits_per_byte(math.fsum(new), num_bytes),
    )


def _answer_pairs(before: Sequence[ChatAnswer], after: Sequence[ChatAnswer]) -> list[tuple[ChatAnswer, ChatAnswer]]:
    refuse_unless_same("chat prompt", map(_prompt, before), map(_prompt, after))
    by_prompt = {_prompt(answer): answer for answer in after}
    return [(answer, by_prompt[_prompt(answer)]) for answer in before]


def _compare_stop(pairs: Sequence[tuple[ChatAnswer, ChatAnswer]]) -> StopChange | None:
    if not pairs:
        return None
    old, new = [one.answered for one, _ in pairs], [other.answered for _, other in pairs]
    to_ended, to_not_ended = paired.count_flips(old, new)
    return StopChange(
        before=wilson(sum(old), len(pairs)),
        after=wilson(sum(new), len(pairs)),
        to_ended=to_ended,
        to_not_ended=to_not_ended,
        p_value=paired.mcnemar(to_ended, to_not_ended),
        before_median_tokens=median(one.num_tokens for one, _ in pairs),
        after_median_tokens=median(other.num_tokens for _, other in pairs),
        before_empty=sum(one.empty for one, _ in pairs),
        after_empty=sum(other.empty for _, other in pairs),
    )


def _compare_rates(pairs: Sequence[tuple[ChatAnswer, ChatAnswer]]) -> tuple[RateChange, ...]:
    rates = [rate for check in CHECKS.values() if (rate := _compare_rate(check, pairs))]
    p_holm = paired.holm([rate.p_value for rate in rates])
    return tuple(replace(rate, p_holm=corrected) for rate, corrected in zip(rates, p_holm, strict=True))


def _compare_rate(check: Check, pairs: Sequence[tuple[ChatAnswer, ChatAnswer]]) -> RateChange | None:
    """Compare a check over the prompts for which its question arises on both sides; None where there are none."""
    both = [(check.holds(one), check.holds(other)) for one, other in pairs]
    kept = [(old, new) for old, new in both if old is not None and new is not None]
    if not kept:
        return None
    to_yes, to_no = paired.count_flips([old for old, _ in kept], [new for _, new in kept])
    return RateChange(
        name=check.name,
        better=check.better,
        before=wilson(sum(old for old, _ in kept), len(kept)),
        after=wilson(sum(new for _, new in kept), len(kept)),
        to_yes=to_yes,
        to_no=to_no,
        p_value=paired.mcnemar(to_yes, to_no),
    )


def _prompt(answer: ChatAnswer) -> str:
    """Return what was asked, as text that is equal for equal prompts."""
    return f"{answer.id}: {canonical_json(answer.messages)}"
