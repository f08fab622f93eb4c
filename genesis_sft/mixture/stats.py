"""What the examples of a finished mixture look like: lengths, turns, how much is trained; source by source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genesis_sft.errors import DataError
from genesis_sft.mixture.select import Ints
from genesis_sft.mixture.store import TokenStore, TokenTable

BLOCKS = "▁▂▃▄▅▆▇█"
NUM_BINS = 40


@dataclass(frozen=True)
class SourceStats:
    """The examples of one source, or of all.

    Attributes:
        examples, tokens, trained_tokens: As in the ledger.
        trained_share: Share of the tokens that is trained.
        min, median, mean, p95, max: Lengths in tokens; p95: 95 % of the examples are no longer.
        at_max_length: Share of the examples that have exactly ``tokens.max_length`` tokens.
        turns: Mean number of answers in an example.
    """

    examples: int
    tokens: int
    trained_tokens: int
    trained_share: float
    min: int
    median: float
    mean: float
    p95: float
    max: int
    at_max_length: float
    turns: float


@dataclass(frozen=True)
class MixtureStats:
    """All sources.

    Attributes:
        sources: By name; those without an example are left out.
        total: Over all of them.
        max_length: ``tokens.max_length``.
        lengths: Lengths of the examples of each source, in tokens, int64.
        trained_shares: For each source the trained share of each example.
    """

    sources: dict[str, SourceStats]
    total: SourceStats
    max_length: int
    lengths: dict[str, Ints]
    trained_shares: dict[str, np.ndarray[Any, np.dtype[np.float64]]]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "max_length": self.max_length,
            "sources": {name: asdict(stats) for name, stats in self.sources.items()},
            "total": asdict(self.total),
        }


def measure(store: TokenStore) -> MixtureStats:
    """Read every example to train on, and measure it.

    Raises:
        DataError: There is none, or its part is damaged.
    """
    table, index = store.train, store.train.index
    if not len(table):
        raise DataError(f"expected examples to train on in {store.path}, found none")
    max_length = int(store.ledger.settings["max_length"])
    turns = _count_turns(table, int(store.ledger.settings["im_end_id"]))
    where = {name: index.source == number for number, name in enumerate(index.names)}
    where = {name: mask for name, mask in where.items() if mask.any()}
    shares = index.num_trained / index.num_tokens
    return MixtureStats(
        sources={name: _measure(table, mask, turns, max_length) for name, mask in where.items()},
        total=_measure(table, np.ones(len(table), bool), turns, max_length),
        max_length=max_length,
        lengths={name: index.num_tokens[mask] for name, mask in where.items()},
        trained_shares={name: shares[mask] for name, mask in where.items()},
    )


def histogram(lengths: Ints, max_length: int) -> str:
    """Return a line of blocks: how many examples have each length, from 0 on the left to ``max_length``.

    Example:
        >>> histogram(np.array([1, 1, 1, 1, 99]), 100)
        '█                                      ▂'
    """
    counts, _ = np.histogram(lengths, bins=NUM_BINS, range=(0, max_length))
    heights = np.ceil(counts / max(1, counts.max()) * len(BLOCKS)).astype(int)
    return "".join(BLOCKS[height - 1] if height else " " for height in heights)


def _measure(table: TokenTable, mask: Any, turns: Ints, max_length: int) -> SourceStats:
    lengths, trained = table.num_tokens_per_row[mask], table.num_trained_per_row[mask]
    p95 = float(np.quantile(lengths, 0.95, method="inverted_cdf"))  # a length that occurs
    return SourceStats(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        trained_tokens=int(trained.sum()),
        trained_share=float(trained.sum() / lengths.sum()),
        min=int(lengths.min()),
        median=float(np.median(lengths)),
        mean=float(lengths.mean()),
        p95=p95,
        max=int(lengths.max()),
        at_max_length=float((lengths == max_length).mean()),
        turns=float(turns[mask].mean()),
    )


def _count_turns(table: TokenTable, im_end_id: int) -> Ints:
    """Return how many answers each example has: half of its messages, a system message not counted."""
    ends = [int(np.count_nonzero(table.input_ids(index) == im_end_id)) for index in range(len(table))]
    return np.array(ends, np.int64) // 2
