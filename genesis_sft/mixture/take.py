"""How often each usable conversation stands in the mixture: by take, share and epochs of its source, and the seed.

Every conversation of a source draws a number; the smallest come first, whatever the other sources are. A larger part
therefore keeps what a smaller one has taken, and a repeat begins where the first round began.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genesis_sft.mixture.select import Ints
from genesis_sft.recipe import SourceSection


class Supply(NamedTuple):
    """A source's usable conversations: its section, and the labels of each, int64 (rows,), all above 0."""

    section: SourceSection
    trained: Ints

    @property
    def most(self) -> int:
        """How many conversations the source can give at most, repeats counted."""
        return round(self.section.epochs * len(self.trained))


def draw_order(num_rows: int, seed: int, source: str) -> Ints:
    """Return the rows in the order in which they are taken: int64 (num_rows,)."""
    key = hashlib.sha256(f"{seed}:{source}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(key))).random(num_rows)
    return np.argsort(draw, kind="stable")


def copies(supplies: Sequence[Supply], seed: int) -> list[Ints]:
    """Return how often each usable conversation is taken: for each source int64 (rows,).

    Sources with a share are filled last, up to their share of all trained tokens T: with F trained tokens in the
    sources without one, T = F / (1 - sum of shares). Where every source has a share, T is the largest that each can
    fill. A source that has too little gives what it has.

    Example:
        ``take: 3`` of two conversations with ``epochs: 2``: ``[2, 1]`` or ``[1, 2]``, as they drew.
    """
    orders = [draw_order(len(supply.trained), seed, supply.section.name) for supply in supplies]
    fixed = {
        number: spread(_num_fixed(supply), order)
        for number, (supply, order) in enumerate(zip(supplies, orders, strict=True))
        if supply.section.share is None
    }
    total = _total_trained(supplies, orders, fixed)
    return [
        fixed[number]
        if number in fixed
        else spread(min(nearest(supply.trained[order], _wanted(supply, total)), supply.most), order)
        for number, (supply, order) in enumerate(zip(supplies, orders, strict=True))
    ]


def spread(count: int, order: Ints) -> Ints:
    """Return how often each row is taken when ``count`` are, round after round in the same order.

    Example:
        >>> spread(5, np.array([2, 0, 1])).tolist()
        [2, 1, 2]
    """
    rounds, rest = divmod(count, len(order)) if len(order) else (0, 0)
    taken = np.full(len(order), rounds, np.int64)
    taken[order[:rest]] += 1
    return taken


def nearest(trained: Ints, wanted: float) -> int:
    """Return how many rows, round after round, have nearest to ``wanted`` trained tokens; of two, the smaller number.

    Args:
        trained: Labels of the rows in the order in which they are taken, int64 (rows,).
        wanted: Trained tokens.

    Example:
        >>> nearest(np.array([10, 20, 30]), wanted=66.0)
        4
    """
    if not len(trained):
        return 0
    sums = np.concatenate([[0], np.cumsum(trained)])
    rounds = math.floor(wanted / int(sums[-1]))
    rest = wanted - rounds * int(sums[-1])
    above = min(int(np.searchsorted(sums, rest)), len(trained))
    is_nearer_below = above > 0 and rest - int(sums[above - 1]) <= int(sums[above]) - rest
    return rounds * len(trained) + above - is_nearer_below


def _num_fixed(supply: Supply) -> int:
    take = supply.section.take
    return supply.most if take is None else min(take, supply.most)


def _total_trained(supplies: Sequence[Supply], orders: Sequence[Ints], fixed: dict[int, Ints]) -> float:
    """Return the trained tokens that the whole mixture shall have, where some source has a share."""
    if fixed:
        trained = sum(int(taken @ supplies[number].trained) for number, taken in fixed.items())
        return trained / (1 - math.fsum(supply.section.share or 0 for supply in supplies))
    return min(
        int(spread(supply.most, order) @ supply.trained) / (supply.section.share or 1)
        for supply, order in zip(supplies, orders, strict=True)
    )


def _wanted(supply: Supply, total: float) -> float:
    assert supply.section.share is not None
    return supply.section.share * total
