"""The ledger of a mixture: where every row of every source went. The columns add up, or there is no ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

ROWS = (
    "rejected",
    "duplicates",
    "near_duplicates",
    "contaminated",
    "held_out",
    "over_length",
    "untrained",
    "not_taken",
    "kept",
)
"""What becomes of a row; they add up to the rows read. Of ``held_out``, only what could be trained on counts."""

EXAMPLES = ("examples", "tokens", "trained_tokens")
"""What the index holds of a source."""


class _Settings(BaseModel, strict=True):
    """The settings that a mixture is read by; others are there for people."""

    held_out: float
    max_length: PositiveInt
    im_end_id: NonNegativeInt
    newline_length: NonNegativeInt


@dataclass(frozen=True)
class SourceLedger:
    """What became of the rows of one source.

    Attributes:
        name: Name of the source in the recipe.
        origin: Name of the files, or name on the Hub.
        revision: Pinned revision of a Hub data set.
        licence: Licence as the recipe states it.
        format: Format of the rows, as stated or as found.
        sha256: Hex SHA-256 of the file; of several, the SHA-256 of theirs in hex, joined.
        files: ``{"name", "sha256", "first_row", "rows"}`` of each file.
        key: Hash of all that decides the source's tokens.
        engine: What encoded the text.
        take, share, epochs: What the recipe asks for.
        repaired: Rule to number of rows that were repaired by it.
        rows_read: Rows in the source.
        rejected: Reason to number of rows that are no conversation.
        duplicates: Rows with the same messages as an earlier row of this source or of one before it.
        near_duplicates: Rows that resemble an earlier row.
        contaminated: Rows left out because they hold a benchmark item.
        held_out: Rows kept back for the held-out loss.
        over_length: Rows too long, of which nothing fits; on either side.
        untrained: Rows in which nothing is trained; on either side.
        not_taken: Rows left over by take, share or epochs.
        kept: Rows to train on.
        marked: Rows that hold a benchmark item and were not left out for it.
        taken: Conversations in the mixture: the rows kept, repeats counted.
        examples: Examples to train on: the conversations taken, a long one counted once a piece.
        tokens, trained_tokens: Of the examples.
        cut, split: Rows kept of which not all exchanges fit, and those that became several examples.
        lost_exchanges: Exchanges of rows kept that stand in no example.
        held_out_examples, held_out_tokens, held_out_trained_tokens: The same on the other side.

    Raises:
        ValueError: The counts do not add up.
    """

    name: str
    origin: str = ""
    revision: str | None = None
    licence: str | None = None
    format: str = ""
    sha256: str = ""
    files: Sequence[Mapping[str, Any]] = ()
    key: str = ""
    engine: str = ""
    take: int | None = None
    share: float | None = None
    epochs: float = 1.0
    repaired: Mapping[str, int] = field(default_factory=dict)
    rows_read: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    near_duplicates: int = 0
    contaminated: int = 0
    held_out: int = 0
    over_length: int = 0
    untrained: int = 0
    not_taken: int = 0
    kept: int = 0
    marked: int = 0
    taken: int = 0
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut: int = 0
    split: int = 0
    lost_exchanges: int = 0
    held_out_examples: int = 0
    held_out_tokens: int = 0
    held_out_trained_tokens: int = 0

    def __post_init__(self) -> None:
        counts = {name: self.num_rejected if name == "rejected" else getattr(self, name) for name in ROWS}
        if self.rows_read != sum(counts.values()) or min(counts.values()) < 0:
            terms = " + ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"
            raise ValueError(
                f"the ledger of {self.name} does not add up: {self.rows_read} rows read, but {terms} is "
                f"{sum(counts.values())}"
            )
        if not self.kept <= self.taken <= self.examples:
            raise ValueError(
                f"the ledger of {self.name} has rows without examples: {self.kept} kept, {self.taken} taken, "
                f"{self.examples} examples"
            )
        for side in ("", "held_out_"):
            tokens, trained = getattr(self, f"{side}tokens"), getattr(self, f"{side}trained_tokens")
            if not 0 <= trained <= tokens:
                raise ValueError(f"the ledger of {self.name} has {trained} {side}trained_tokens of {tokens} tokens")

    @property
    def num_rejected(self) -> int:
        """Rows that are no conversation, for whatever reason."""
        return sum(self.rejected.values())

    @property
    def missing(self) -> int:
        """How many conversations ``take`` asked for beyond what there is."""
        return max(0, (self.take or 0) - self.taken)

    def line(self) -> str:
        """Return the source's line for the console."""
        left = {name.replace("_", " "): getattr(self, name) for name in ROWS[1:-1]}
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items())
        parts = [f"{self.rows_read:,} rows read", f"{self.kept:,} kept"]
        parts += [f"{self.taken - self.kept:,} repeats"] if self.taken > self.kept else []
        parts += [f"{count:,} {name}" for name, count in left.items() if count]
        parts += [f"{self.num_rejected:,} rejected ({reasons})"] if self.rejected else []
        parts += [f"{count:,} repaired ({rule})" for rule, count in self.repaired.items()]
        parts += [f"{self.cut:,} cut"] if self.cut else []
        parts += [f"{self.split:,} split"] if self.split else []
        parts += [f"{self.take:,} were asked for, so all there are were taken"] if self.missing else []
        return f"{self.name} ({self.format or 'no known format'}): {'; '.join(parts)}"


@dataclass(frozen=True)
class Ledger:
    """What became of all rows, source by source, in the order of the recipe.

    Attributes:
        sources: One entry a source.
        expected_total: How many conversations there should be, where the recipe says so.
        settings: What else decided the mixture: seed, lengths, rules; plain JSON values.
    """

    sources: tuple[SourceLedger, ...]
    expected_total: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def total(self, name: str) -> int:
        """Return a count over all sources, e.g. ``total("kept")``."""
        return sum(source.num_rejected if name == "rejected" else getattr(source, name) for source in self.sources)

    @property
    def rows_read(self) -> int:
        """Rows in all sources."""
        return self.total("rows_read")

    @property
    def kept(self) -> int:
        """Rows to train on."""
        return self.total("kept")

    @property
    def held_out(self) -> int:
        """Rows kept back for the held-out loss."""
        return self.total("held_out")

    def __getitem__(self, name: str) -> SourceLedger:
        return next(source for source in self.sources if source.name == name)

    def reached_share(self, source: SourceLedger) -> float:
        """Return a source's share of the trained tokens; 0 where there are none."""
        return source.trained_tokens / max(1, self.total("trained_tokens"))

    def lines(self) -> list[str]:
        """Return the lines for the console: one a source, with its share reached where it has one, and the total."""
        lines = []
        for source in self.sources:
            wanted = source.share
            share = f"; {percent(self.reached_share(source))} of {wanted * 100:g} %" if wanted is not None else ""
            lines.append(source.line() + share)
        if self.expected_total is not None and (difference := self.total("taken") - self.expected_total):
            lines.append(
                f"{self.total('taken'):,} conversations, {abs(difference):,} {'more' if difference > 0 else 'fewer'} "
                f"than the {self.expected_total:,} expected"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger as plain JSON values, with the totals."""
        counted = ("rows_read", *ROWS, "marked", "taken", *EXAMPLES, "cut", "split", "lost_exchanges")
        sides = tuple(f"held_out_{name}" for name in EXAMPLES)
        return {
            "sources": [asdict(source) for source in self.sources],
            "total": {name: self.total(name) for name in counted + sides},
            "expected_total": self.expected_total,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """Read what `to_dict` gave.

        Raises:
            ValueError: It is something else, or does not add up; the message names the first fault.
        """
        needed = {"sources", "expected_total", "settings"}
        if missing := sorted(needed - (values.keys() if isinstance(values, Mapping) else set())):
            raise ValueError(f"no {', '.join(missing)}")
        try:
            _Settings.model_validate_json(json.dumps(values["settings"]))
        except ValidationError as error:
            raise ValueError(_first_fault("settings", error)) from None
        try:
            sources = _SOURCES.validate_json(json.dumps(values["sources"]), strict=True)
        except ValidationError as error:
            raise ValueError(_first_fault("sources", error)) from None
        if unknown := {name for source in values["sources"] for name in source} - SourceLedger.__annotations__.keys():
            raise ValueError(f"unknown columns {', '.join(sorted(unknown))}")
        return cls(sources, values["expected_total"], values["settings"])


_SOURCES = TypeAdapter(tuple[SourceLedger, ...])


def _first_fault(part: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, (part, *first["loc"])))
    own = first.get("ctx", {}).get("error")  # what a ledger says of itself names its source
    return str(own) if isinstance(own, ValueError) else f"{where}: {first['msg']}"


def percent(share: float) -> str:
    """Return a share of 1 as a percentage: ``12.3 %``."""
    return f"{share * 100:.1f} %"
