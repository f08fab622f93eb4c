"""A search over conventions: one change at a time while that helps, then pairs; margins decide, not the order.

A forward pass over a few hundred tokens tells most gross faults (RoPE layout, head count, a lost output head, swapped
or transposed matrices, shifted ids), whose cost is tenths of a nat to many nats; what it leaves open is tried on more.
RoPE's theta and the norms' epsilon are tried again on the longest windows that there are: they cost hundredths on short
text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import combinations
from typing import TypeVar

import torch

from genesis_sft.checkpoint.diagnosis.candidates import FINE, Change, apply, changes
from genesis_sft.checkpoint.diagnosis.cost import ProbeText, margin, token_costs
from genesis_sft.checkpoint.diagnosis.findings import Probes, Search, Tried
from genesis_sft.checkpoint.diagnosis.predictions import look_at_predictions
from genesis_sft.checkpoint.llama.conventions import Conventions, Head
from genesis_sft.checkpoint.llama.stored import StoredLlama
from genesis_sft.console import progress

T = TypeVar("T")
MOST_ROUNDS = 6
SHORT_TOKENS = 128
"""Every candidate is tried on this many tokens; one that is ``HOPELESS_NATS`` dearer there is tried no further."""

HOPELESS_NATS = 0.3
_LEAST_NATS = {"bos": 0.3}
"""Over the first 32 tokens of a text. A model that never saw BOS may still read a little better behind one, as any
first token serves as attention's sink (Xiao et al. 2023, arXiv:2309.17453): 0.09 nats for SmolLM2-135M."""


def search(
    stored: StoredLlama,
    stated: Conventions,
    probes: Probes,
    *,
    unigram: float,
    unknown: Collection[str] = (),
    fixed: Collection[str] = (),
    joint: bool = True,
) -> Search:
    """Return the conventions under which a text costs a stored model least.

    Args:
        stored: The model; keep its tensors in memory.
        stated: Where to start.
        probes: The text.
        unigram: Entropy of the text's own token frequencies, in nats; at 0.8 of it or more, pairs are tried.
        unknown: Conventions that nobody stated, for which the text has to tell.
        fixed: Conventions that are not to be changed.
        joint: Whether pairs of changes are tried at all.
    """
    costs = _Costs(stored)
    has_bos = probes.first.bos_id is not None

    def options(current: Conventions) -> list[Change]:
        found = changes(stored, current, has_bos=has_bos)
        return [change for change in found if not set(change) & set(fixed)]

    is_text_predicted = costs.mean(stated, costs.short(probes.first)) < 0.8 * unigram
    costs.are_flat = not is_text_predicted and not costs.depend_on_context((stated,), probes)
    chosen = _descend(costs, stated, probes, options)
    is_explained = costs.mean(chosen, probes.first) < 0.8 * unigram
    if joint and not is_explained and costs.depend_on_context((chosen, stated), probes):
        for start in dict.fromkeys((chosen, stated)):
            better = _best_pair(costs, start, probes.first, options(start))
            if margin(costs(chosen, probes.first), costs(better, probes.first)).is_clear:
                chosen = _descend(costs, better, probes, options)
    chosen = _take_back(costs, stated, chosen, probes)
    # what nobody stated cannot have been stated wrongly
    stated = replace(stated, **{name: getattr(chosen, name) for name in unknown})
    around = _with_progress("ranking", options(chosen))
    ranking = [_try(costs, chosen, change, probes, unknown) for change in around]
    changed = [_tried(costs, chosen, change, probes.decisive(change)) for change in _differences(chosen, stated)]
    return Search(
        stated=stated,
        chosen=chosen,
        nats_stated=costs.mean(stated, probes.long),
        nats_chosen=costs.mean(chosen, probes.long),
        margin=margin(costs(stated, probes.long), costs(chosen, probes.long)),
        unigram=unigram,
        changed=tuple(sorted(changed, key=lambda tried: -tried.margin.nats)),
        ranking=tuple(sorted(ranking, key=lambda tried: tried.margin.nats)),
        num_tokens=probes.long.num_tokens,
        longest_window=max(map(len, probes.long.windows)),
    )


class _Costs:
    """Costs of conventions on a text, computed once each.

    Attributes:
        are_flat: The model predicts about the same whatever the context. Most likely it is untrained or lost, and no
            reading of it is worth more than the first tokens, unless it is far better there.
    """

    def __init__(self, stored: StoredLlama) -> None:
        self.are_flat = False
        self._stored = stored
        self._short: dict[int, ProbeText] = {}
        self._known: dict[tuple[Conventions, int], torch.Tensor] = {}

    def __call__(self, conventions: Conventions, text: ProbeText) -> torch.Tensor:
        key = (conventions, id(text))
        if key not in self._known:
            self._known[key] = token_costs(self._stored, conventions, text)
        return self._known[key]

    def short(self, text: ProbeText) -> ProbeText:
        """The first tokens of a text."""
        if id(text) not in self._short:
            windows = _first_tokens(text.windows, SHORT_TOKENS)
            # a window that is cut no longer ends as its text with the other start does
            starts = {
                place: ids
                for place, ids in text.other_starts.items()
                if windows[place:][:1] == text.windows[place:][:1]
            }
            self._short[id(text)] = ProbeText(windows, starts, text.bos_id, text.dummy_prefix)
        return self._short[id(text)]

    def depend_on_context(self, starts: Iterable[Conventions], probes: Probes) -> bool:
        """Whether a pair of faults can explain the model at all: not if its predictions are alike by either head."""
        heads: tuple[Head, ...] = ("own", "embedding") if self._stored.sizes.has_head else ("embedding",)
        readings = dict.fromkeys(replace(start, head=head) for start in starts for head in heads)
        text = self.short(probes.first)
        return any(not look_at_predictions(self._stored, one, text).ignore_context for one in readings)

    def is_hopeless(self, other: Conventions, current: Conventions, text: ProbeText) -> bool:
        """Whether a few tokens are enough to see that a candidate is no better."""
        short = self.short(text)
        dearer = self.mean(other, short) - self.mean(current, short)
        return dearer > (-HOPELESS_NATS if self.are_flat else HOPELESS_NATS)

    def mean(self, conventions: Conventions, text: ProbeText) -> float:
        return float(self(conventions, text).mean())


def _descend(
    costs: _Costs, start: Conventions, probes: Probes, options: Callable[[Conventions], list[Change]]
) -> Conventions:
    """Make the best single change while one is clearly better; which is best, the long windows say.

    In short ones a wrong RoPE layout makes up for a part of what a wrong theta costs. Of changes that cannot be told
    from the best one, the first is made: ``changes`` yields the likelier fault first.
    """
    current = start
    for _ in range(MOST_ROUNDS):
        tried = _with_progress("trying other readings", options(current))
        better = [apply(current, change) for change in tried if _is_better(costs, current, change, probes)]
        if not better:
            break
        best = min(better, key=lambda one: costs.mean(one, probes.long))
        current = next(one for one in better if not margin(costs(one, probes.long), costs(best, probes.long)).is_clear)
    return current


def _is_better(costs: _Costs, current: Conventions, change: Change, probes: Probes) -> bool:
    """Whether a change is clearly better on a text, or on a longer one where the first leaves it open."""
    other = apply(current, change)
    texts = probes.in_turn(change)
    if costs.is_hopeless(other, current, texts[0]):
        return False
    least = max(_LEAST_NATS.get(name, 0.0) for name in change)
    for text in texts:
        gain = margin(costs(current, text), costs(other, text))
        if gain.is_clear and gain.nats > least:
            return True
        error = gain.standard_error if math.isfinite(gain.standard_error) else 0.0  # a few tokens leave all open
        if gain.nats < error and not set(change) & set(FINE):
            return False
    return False


def _best_pair(costs: _Costs, start: Conventions, text: ProbeText, options: list[Change]) -> Conventions:
    """Return the best of all pairs of changes of different conventions, by the first tokens of the text."""
    short = costs.short(text)
    pairs = [
        apply(apply(start, one), other) for one, other in combinations(options, 2) if set(one).isdisjoint(set(other))
    ]
    cost = {pair: costs.mean(pair, short) for pair in _with_progress("trying pairs", list(dict.fromkeys(pairs)))}
    ranked = sorted(cost, key=lambda pair: cost[pair])
    return min(ranked[:3] or [start], key=lambda pair: costs.mean(pair, text))


def _take_back(costs: _Costs, stated: Conventions, chosen: Conventions, probes: Probes) -> Conventions:
    """Undo the changes that are not clearly needed."""
    for change in _differences(chosen, stated):
        text, without = probes.decisive(change), apply(chosen, change)
        if not margin(costs(without, text), costs(chosen, text)).is_clear:
            chosen = without
    return chosen


def _try(costs: _Costs, chosen: Conventions, change: Change, probes: Probes, unknown: Collection[str]) -> Tried:
    """Try a change on the first tokens, and on more where those leave open what has to be known."""
    texts = probes.in_turn(change)
    if costs.is_hopeless(apply(chosen, change), chosen, texts[0]):
        return _tried(costs, chosen, change, costs.short(texts[0]), is_hopeless=True)
    tried = _tried(costs, chosen, change, texts[0])
    must_be_told = set(change) & set(unknown) and not tried.is_worse
    return _tried(costs, chosen, change, texts[-1]) if must_be_told else tried


def _tried(costs: _Costs, chosen: Conventions, change: Change, text: ProbeText, *, is_hopeless: bool = False) -> Tried:
    other = apply(chosen, change)
    difference = margin(costs(other, text), costs(chosen, text))
    return Tried(change, costs.mean(other, text), difference, text.num_tokens, is_hopeless)


def _differences(one: Conventions, other: Conventions) -> list[Change]:
    """Return the changes that lead from one to the other, head counts together."""
    names = [field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)]
    heads = [name for name in names if name in ("num_heads", "num_kv_heads")]
    single: list[Change] = [{name: getattr(other, name)} for name in names if name not in heads]
    return ([{name: getattr(other, name) for name in heads}] if heads else []) + single


def _with_progress(label: str, candidates: Sequence[T]) -> Iterator[T]:
    """Yield candidates under a progress bar."""
    with progress(label, len(candidates), "readings") as bar:
        for candidate in candidates:
            yield candidate
            bar.advance()


def _first_tokens(windows: tuple[tuple[int, ...], ...], num_tokens: int) -> tuple[tuple[int, ...], ...]:
    taken, left = [], num_tokens
    for window in windows:
        if left < 2:
            break
        taken.append(window[:left])
        left -= len(window)
    return tuple(taken)
