"""The ledger of a mixture: where every row of every source went. The columns add up, or there is no ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceLedger:
    """What became of the rows of one source.

    Attributes:
        name: Name of the source in the recipe.
        origin: Name of the file, or name on the Hub.
        revision: Pinned revision of a Hub data set.
        licence: Licence as the recipe states it.
        format: Format of the rows, as stated or as found.
        sha256: Hex SHA-256 of the file; of a Hub data set, its pinned name.
        take: How many conversations were asked for; ``None`` for all.
        rows_read: Rows in the source.
        rejected: Reason to number of rows that are no conversation.
        duplicates: Rows with the same messages as an earlier row of this source or of one before it.
        held_out: Rows kept back for the held-out loss.
        not_taken: Rows left over by ``take``.
        kept: Rows to train on.
    """

    name: str
    origin: str
    revision: str | None
    licence: str
    format: str
    sha256: str
    take: int | None
    rows_read: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    held_out: int = 0
    not_taken: int = 0
    kept: int = 0

    def __post_init__(self) -> None:
        gone = self.num_rejected + self.duplicates + self.held_out + self.not_taken
        assert self.rows_read == gone + self.kept, f"the ledger of {self.name} does not add up: {self}"

    @property
    def num_rejected(self) -> int:
        """Rows that are no conversation, for whatever reason."""
        return sum(self.rejected.values())

    @property
    def missing(self) -> int:
        """How many conversations ``take`` asked for beyond what there is."""
        return max(0, (self.take or 0) - self.kept)

    def line(self) -> str:
        """Return the source's line for the console."""
        parts = [f"{self.rows_read:,} rows read", f"{self.kept:,} kept", f"{self.held_out:,} held out"]
        parts += [f"{self.not_taken:,} not taken"] if self.not_taken else []
        parts += [f"{self.duplicates:,} duplicates"] if self.duplicates else []
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items())
        parts += [f"{self.num_rejected:,} rejected ({reasons})"] if self.rejected else []
        parts += [f"{self.take:,} were asked for, so all there are were taken"] if self.missing else []
        return f"{self.name} ({self.format or 'no known format'}): {'; '.join(parts)}"


@dataclass(frozen=True)
class Ledger:
    """What became of all rows, source by source, in the order of the recipe."""

    sources: tuple[SourceLedger, ...]

    @property
    def rows_read(self) -> int:
        """Rows in all sources."""
        return sum(source.rows_read for source in self.sources)

    @property
    def kept(self) -> int:
        """Conversations to train on."""
        return sum(source.kept for source in self.sources)

    @property
    def held_out(self) -> int:
        """Conversations kept back for the held-out loss."""
        return sum(source.held_out for source in self.sources)

    def __getitem__(self, name: str) -> SourceLedger:
        return next(source for source in self.sources if source.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger as plain JSON values, with the totals."""
        totals = {
            "rows_read": self.rows_read,
            "rejected": sum(source.num_rejected for source in self.sources),
            "duplicates": sum(source.duplicates for source in self.sources),
            "held_out": self.held_out,
            "not_taken": sum(source.not_taken for source in self.sources),
            "kept": self.kept,
        }
        return {"sources": [asdict(source) for source in self.sources], "total": totals}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """Read what `to_dict` gave."""
        return cls(tuple(SourceLedger(**source) for source in values["sources"]))
