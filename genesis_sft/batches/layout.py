"""How the conversations of a step are laid out: whole, in forward passes within a budget, spread over processes."""

from __future__ import annotations

from collections.abc import Sequence

ATTENTION_TOKENS = 6 * 1024
"""Length at which a conversation's attention costs as much as its other matrix products: about twelve times the hidden
size (Kaplan et al., 2020, arXiv:2001.08361, section 2.1), halved by causality twice over; for hidden size 1024."""


def lay_out(lengths: Sequence[int], max_tokens: int, ranks: int = 1) -> list[list[list[int]]]:
    """Return the micro-batches of each process: indices into ``lengths``, every one exactly once.

    All processes get the same number of micro-batches, of about the same cost at the same turn, so that none waits for
    another; some are empty where there are fewer conversations than places. A conversation longer than the budget gets
    a micro-batch of its own: the budget bounds memory, and ``tokens.max_length`` the longest conversation.

    Args:
        lengths: Tokens of each conversation.
        max_tokens: Budget of a micro-batch.
        ranks: Number of processes.

    Example:
        >>> lay_out([60, 30, 50, 40], max_tokens=100)
        [[[0, 3], [1, 2]]]
        >>> lay_out([60, 30, 50, 40], max_tokens=100, ranks=2)
        [[[0, 1]], [[2, 3]]]
    """
    groups = _balance(lengths, max_tokens, -(-len(_pack(lengths, max_tokens)) // ranks) * ranks)
    groups.sort(key=lambda group: (-_cost(group, lengths), group))
    spread: list[list[list[int]]] = [[] for _ in range(ranks)]
    total = [0.0] * ranks
    for turn in range(0, len(groups), ranks):
        # of the micro-batches of one turn, the dearest goes to the process that has had least to do
        for rank, group in zip(sorted(range(ranks), key=total.__getitem__), groups[turn : turn + ranks], strict=True):
            spread[rank].append(group)
            total[rank] += _cost(group, lengths)
    return spread


def _cost(group: Sequence[int], lengths: Sequence[int]) -> float:
    """Cost of a forward pass in tokens: linear in length, and attention's share, which is quadratic."""
    return sum(lengths[index] * (1 + lengths[index] / ATTENTION_TOKENS) for index in group)


def _balance(lengths: Sequence[int], max_tokens: int, count: int) -> list[list[int]]:
    """Return ``count`` groups within the budget, of costs as equal as taking the longest first makes them.

    Longest processing time first (Graham, 1969). Where that leaves a conversation without room, packing tightly does
    not, and the rest of the groups stay empty.
    """
    groups: list[list[int]] = [[] for _ in range(count)]
    tokens, costs = [0] * count, [0.0] * count
    for index in _longest_first(lengths):
        free = [g for g in range(count) if not groups[g] or tokens[g] + lengths[index] <= max_tokens]
        if not free:
            tight = _pack(lengths, max_tokens)
            return tight + [[] for _ in range(count - len(tight))]
        best = min(free, key=lambda g: (costs[g], g))
        groups[best].append(index)
        tokens[best] += lengths[index]
        costs[best] += _cost([index], lengths)
    return [sorted(group) for group in groups]


def _pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return as few groups as first-fit decreasing (Johnson, 1973) finds."""
    groups: list[list[int]] = []
    room: list[int] = []
    for index in _longest_first(lengths):
        for group, left in enumerate(room):
            if lengths[index] <= left:
                groups[group].append(index)
                room[group] -= lengths[index]
                break
        else:
            groups.append([index])
            room.append(max_tokens - lengths[index])
    return [sorted(group) for group in groups]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
