"""What a search is given and what it gives: the text cut in three ways, and the readings that were tried on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from genesis_sft.checkpoint.diagnosis.candidates import Change
from genesis_sft.checkpoint.diagnosis.cost import Margin, ProbeText
from genesis_sft.checkpoint.llama.conventions import Conventions, describe

_SEEN_AT_START = ("bos", "dummy_prefix")


@dataclass(frozen=True)
class Probes:
    """The text to try candidates on, cut in three ways.

    Attributes:
        first: Some hundred tokens in short windows; tells most gross faults.
        long: More, in long windows; for what the first leaves open, and for the fine conventions.
        starts: Many very short windows; for conventions that show at the start of a text only.
    """

    first: ProbeText
    long: ProbeText
    starts: ProbeText

    def in_turn(self, names: Iterable[str]) -> tuple[ProbeText, ...]:
        """Return the texts to try a change of these fields on, until one tells."""
        return (self.starts,) if set(names) & set(_SEEN_AT_START) else (self.first, self.long)

    def decisive(self, names: Iterable[str]) -> ProbeText:
        """Return the text that has the last word on these fields."""
        return self.in_turn(names)[-1]


@dataclass(frozen=True)
class Tried:
    """A change of the chosen conventions and what it would cost.

    Attributes:
        change: The fields and their values.
        nats_per_token: Cost with the change made, over the tokens that it was tried on.
        margin: How much dearer that is than what was chosen, over the same tokens.
        num_tokens: How many tokens that were.
        is_hopeless: Whether it was given up after the first tokens.
    """

    change: Change
    nats_per_token: float
    margin: Margin
    num_tokens: int
    is_hopeless: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether it is told from what was chosen."""
        return self.is_hopeless or self.margin.is_clear

    @property
    def words(self) -> str:
        """The change in words."""
        return ", ".join(describe(name, value) for name, value in self.change.items())


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        stated: Where it started; what nobody stated, as chosen.
        chosen: Where it ended: no single change of it is clearly better.
        nats_stated: Cost of the probe text as stated, nats per token.
        nats_chosen: The same as chosen.
        margin: Of the two.
        unigram: Entropy of the probe's own token frequencies, nats.
        changed: The changes that lead from stated to chosen, each with the margin of taking it back.
        ranking: Single changes of what was chosen, by margin.
        num_tokens: Predicted tokens of the probe.
        longest_window: Tokens of the longest window, on which the fine conventions were tried.
    """

    stated: Conventions
    chosen: Conventions
    nats_stated: float
    nats_chosen: float
    margin: Margin
    unigram: float
    changed: tuple[Tried, ...]
    ranking: tuple[Tried, ...]
    num_tokens: int
    longest_window: int

    @property
    def is_clear(self) -> bool:
        """Whether each change is clearly needed."""
        return all(tried.margin.is_clear for tried in self.changed)

    def untold(self, names: Iterable[str]) -> list[str]:
        """Return those conventions that the text cannot tell: another value is neither worse nor the same."""
        close = {name for tried in self.ranking if not tried.is_worse for name in tried.change}
        same = {name for tried in self.ranking if tried.margin.is_nothing for name in tried.change}
        return [name for name in names if name in close - same]
