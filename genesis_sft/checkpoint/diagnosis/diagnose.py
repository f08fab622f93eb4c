"""Diagnosis: which conventions a stored model was trained by, what was taken wrongly, and what cannot be told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from genesis_sft.checkpoint.diagnosis.causes import name_cause, name_weights_that_are_no_numbers
from genesis_sft.checkpoint.diagnosis.cost import ProbeText, probe_text
from genesis_sft.checkpoint.diagnosis.findings import Probes, Search
from genesis_sft.checkpoint.diagnosis.predictions import Predictions, look_at_predictions
from genesis_sft.checkpoint.diagnosis.search import search
from genesis_sft.checkpoint.llama.conventions import Conventions, describe
from genesis_sft.checkpoint.opened import MUST_BE_KNOWN, OpenedLlama
from genesis_sft.checkpoint.plausibility import FEWEST_TOKENS, REFUSED, Verdict, entropy, judge, sample_passages
from genesis_sft.errors import ModelError

PROBE_TOKENS, PROBE_WINDOW = 512, 128
STARTS_WINDOW = 32
LONG_TOKENS, LONG_WINDOW = 4096, 2048
UNKNOWN_CONTEXT = 256
"""Longest window where nobody states the context: beyond its context even a right model predicts badly."""

LONG_ENOUGH = 1024
"""Tokens of a window from which on theta's frequencies show: those of theta 10,000 and 500,000 turn alike before."""

_MOST_RANKED = 12


@dataclass(frozen=True)
class Diagnosis:
    """What a diagnosis found.

    Attributes:
        causes: What was taken wrongly, the dearest first; empty if nothing was.
        conventions: The ones that were chosen.
        unknown: Fields of them that nobody had stated.
        untold: Fields of ``unknown`` that have to be known and that the text cannot tell.
        context: Longest sequence in training, tokens; None if nobody says.
        on_sample: Whether the text is the English sample that ships with the program.
        search: Costs and ranking behind it.
        verdict: What the cost of the chosen conventions says, in words.
        predictions: What the model predicts, right or wrong, where no convention makes it predict text.
    """

    causes: tuple[str, ...]
    conventions: Conventions
    unknown: frozenset[str]
    untold: tuple[str, ...]
    context: int | None
    on_sample: bool
    search: Search
    verdict: Verdict
    predictions: Predictions | None

    @property
    def is_clear(self) -> bool:
        """Whether a corrected folder can be written: the model predicts text, and each correction is clearly needed."""
        return self.verdict not in REFUSED and self.search.is_clear and not self.untold

    def first_line(self) -> str:
        """Return the finding in one line."""
        if not self.causes:
            return "no cause found: no other convention predicts the text better than what is stated"
        more = f" (and {len(self.causes) - 1} more)" if len(self.causes) > 1 else ""
        return f"cause: {self.causes[0]}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return ``cause``, ``conventions``, ``margin``, ``ranking`` and what stands behind them, as plain values."""
        found = self.search
        return {
            "cause": self.causes[0] if self.causes else None,
            "causes": list(self.causes),
            "conventions": conventions_to_json(self.conventions),
            "stated": conventions_to_json(found.stated),
            "unknown": sorted(self.unknown),
            "untold": list(self.untold),
            "margin": {"nats": found.margin.nats, "standard_error": _finite(found.margin.standard_error)},
            "is_clear": self.is_clear,
            "verdict": self.verdict,
            "nats_per_token": {"stated": found.nats_stated, "chosen": found.nats_chosen},
            "unigram": found.unigram,
            "num_tokens": found.num_tokens,
            "ranking": [
                {
                    "change": {name: _plain(value) for name, value in tried.change.items()},
                    "words": tried.words,
                    "nats_per_token": tried.nats_per_token,
                    "margin": tried.margin.nats,
                    "standard_error": _finite(tried.margin.standard_error),
                    "num_tokens": tried.num_tokens,
                }
                for tried in found.ranking
            ],
        }

    def table(self) -> str:
        """Return the finding for the terminal: causes, costs, the ranking, what cannot be told."""
        found = self.search
        lines = [self.first_line(), *(f"  also: {cause}" for cause in self.causes[1:]), ""]
        lines += [
            f"{found.nats_stated:7.3f} nats a token as stated",
            f"{found.nats_chosen:7.3f} as chosen: {self.verdict} (token frequencies alone: {found.unigram:.3f})",
            f"  {found.margin!s:>18}  between them, over {found.num_tokens:,} tokens",
            "",
            "one change at a time: nats a token more than what was chosen, ± standard error where it was tried on",
            "enough text to have one; told apart from 4 standard errors on",
        ]
        lines += [f"  {tried.margin!s:>18}  {tried.words}" for tried in found.ranking[:_MOST_RANKED]]
        if more := len(found.ranking) - _MOST_RANKED:
            lines.append(f"  and {more} more, all dearer" if more > 0 else "")
        lines += self.notes()
        return "\n".join(lines)

    def advice(self) -> str:
        """Return what to do about it, in one sentence."""
        if self.is_clear and self.causes:
            return "State it rightly, or let `genesis-sft base diagnose` write the corrected folder with --write OUT."
        notes = self.notes()
        return notes[0] if notes else "genesis-sft base diagnose shows all that was tried."

    def notes(self) -> list[str]:
        """Return what cannot be told, and why."""
        notes = []
        if self.on_sample and self.verdict in REFUSED:
            notes.append(
                "this was measured on the English sample that ships with the program, which a model of another "
                "language or another kind of text fails: give text of its own kind (--text FILE, or base.text) first"
            )
        if self.context is None:
            notes.append(
                f"nobody states the context of the pretraining: only windows of {UNKNOWN_CONTEXT} tokens were tried; "
                "state it (--context, or base.conventions.context)"
            )
        if self.untold:
            named = ", ".join(describe(name, getattr(self.conventions, name)) for name in self.untold)
            notes.append(f"cannot be told from this text: {named} (assumed). State it, or give longer text.")
        if self.search.longest_window < min(LONG_ENOUGH, self.context or UNKNOWN_CONTEXT):
            notes.append(
                f"the longest piece of text has {self.search.longest_window} tokens: a wrong RoPE theta or norm "
                "epsilon may cost less than can be seen here; long documents (--text) tell more, and logits of the "
                "training code itself (base verify --reference) tell all"
            )
        return notes


def diagnose(
    opened: OpenedLlama,
    texts: Mapping[str, str] | None,
    *,
    fixed: Collection[str] = (),
    joint: bool = True,
    num_tokens: int = PROBE_TOKENS,
) -> Diagnosis:
    """Find the conventions under which a text costs a stored model least, and say what was taken wrongly.

    Args:
        opened: The model.
        texts: Name to text; held out from its training, of the kind that it was trained on. The sample when None.
        fixed: Conventions that are not in doubt.
        joint: Whether pairs of faults are looked for, where single ones do not explain the cost.
        num_tokens: Tokens for gross faults; fine ones take up to eight times as many.

    Raises:
        ModelError: The texts are too short to tell anything.
    """
    on_sample = texts is None
    texts = texts or sample_passages()
    longest = min(opened.context or UNKNOWN_CONTEXT, LONG_WINDOW)
    probe = _probe(opened, texts, min(PROBE_WINDOW, longest), num_tokens)
    long_probe = _probe(opened, texts, longest, LONG_TOKENS // PROBE_TOKENS * num_tokens)
    if long_probe.num_tokens < FEWEST_TOKENS:
        raise ModelError(
            f"expected text of at least {FEWEST_TOKENS} tokens to try conventions on; found {long_probe.num_tokens}",
            hint="Give more text (--text FILE, or base.text): a page or two of the pretraining's own kind.",
        )
    starts = _probe(opened, texts, min(STARTS_WINDOW, longest), num_tokens)
    unigram = entropy(Counter(id_ for window in probe.windows for id_ in window[1:]).values())
    found = search(
        opened.stored,
        opened.stated,
        Probes(probe, long_probe, starts),
        unigram=unigram,
        unknown=opened.unknown,
        fixed=fixed,
        joint=joint,
    )
    verdict = judge(found.nats_chosen, uniform=math.log(opened.stored.sizes.vocab_size), unigram=found.unigram)
    predictions = None
    if verdict in REFUSED:  # then what the search prefers means nothing
        predictions = look_at_predictions(opened.stored, opened.stated, probe)
        causes = [
            name_weights_that_are_no_numbers(opened.stored)
            or _too_short(opened.unknown, found)
            or predictions.likely_cause
        ]
    else:
        causes = [
            name_cause(tried.change, found.chosen)
            for tried in found.changed
            if not set(tried.change) <= opened.unknown and tried.margin.is_clear
        ]
    return Diagnosis(
        causes=(*opened.faults, *causes),
        conventions=found.chosen,
        unknown=opened.unknown,
        untold=tuple(found.untold(name for name in MUST_BE_KNOWN if name in opened.unknown)),
        context=opened.context,
        on_sample=on_sample,
        search=found,
        verdict=verdict,
        predictions=predictions,
    )


def _too_short(unknown: Collection[str], found: Search) -> str | None:
    """Return what keeps the text from telling what nobody states: too few tokens for any margin to be clear."""
    if not unknown or math.isfinite(found.margin.standard_error):
        return None
    return f"the text is too short ({found.num_tokens} tokens) to find what nobody states: {', '.join(sorted(unknown))}"


def found_by_trying(found: Diagnosis, assumed: Conventions) -> list[str]:
    """Return what nobody stated and the text told: what must be known, and other fields that changed."""
    return sorted(
        name
        for name in found.unknown
        if name in MUST_BE_KNOWN or getattr(found.conventions, name) != getattr(assumed, name)
    )


def conventions_to_json(conventions: Conventions) -> dict[str, Any]:
    """Return the conventions as plain values."""
    return {field.name: _plain(getattr(conventions, field.name)) for field in fields(conventions)}


def _probe(opened: OpenedLlama, texts: Mapping[str, str], window: int, num_tokens: int) -> ProbeText:
    probe = probe_text(
        texts,
        opened.tokenizer.backend_tokenizer,
        bos_id=opened.tokenizer.bos_token_id,
        window=window,
        num_tokens=num_tokens,
    )
    largest = max(map(max, probe.windows), default=0)
    if largest >= opened.stored.sizes.vocab_size:
        raise ModelError(
            f"the tokenizer gives ids up to {largest}, but the model has only {opened.stored.sizes.vocab_size} rows",
            hint="This tokenizer belongs to another model.",
        )
    return probe


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
