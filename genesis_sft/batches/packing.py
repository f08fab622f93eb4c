"""How the conversations of a step are spread over forward passes: whole, without padding, within a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group conversations into micro-batches of at most ``max_tokens`` tokens, few of them and evenly filled.

    First-fit decreasing (Johnson, 1973): the longest conversation first, each into the first micro-batch with room.
    A conversation longer than the budget gets a micro-batch of its own: the budget bounds memory, and the longest
    conversation is bounded by ``tokens.max_length`` already.

    Args:
        lengths: Tokens of each conversation.
        max_tokens: Budget of a micro-batch.

    Returns:
        Indices into ``lengths``, ascending within a micro-batch; every index exactly once.

    Example:
        >>> pack([60, 30, 50, 40], max_tokens=100)
        [[0, 3], [1, 2]]
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for group, left in enumerate(room):
            if lengths[index] <= left:
                groups[group].append(index)
                room[group] -= lengths[index]
                break
        else:
            groups.append([index])
            room.append(max_tokens - lengths[index])
    return sorted(sorted(group) for group in groups)
