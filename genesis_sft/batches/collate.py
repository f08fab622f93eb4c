"""Conversations laid end to end: what one forward pass reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

Span = tuple[int, int]
Example = tuple[NDArray[np.int64], Sequence[Span]]


@dataclass(frozen=True)
class Batch:
    """Conversations laid end to end. T tokens, S conversations, N trained tokens, E ends of assistant turns.

    Whoever computes the loss shifts nothing: ``predict_from[i]`` is the position whose output predicts ``targets[i]``.

    Attributes:
        input_ids: (T,) token ids.
        position_ids: (T,) positions, from 0 in each conversation.
        segment_starts: S + 1 offsets; conversation s is ``input_ids[segment_starts[s]:segment_starts[s + 1]]``.
        predict_from: (N,) positions in [0, T) whose next token is trained.
        targets: (N,) the token ids that are trained.
        turn_ends: (E,) positions in [0, T) whose next token ends an assistant's turn, whether that is trained or not.
        num_padding: How many of the T tokens are padding, at the ends of conversations, where causal attention keeps
            every other token from them.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_starts: tuple[int, ...]
    predict_from: torch.Tensor
    targets: torch.Tensor
    turn_ends: torch.Tensor
    num_padding: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of conversations: T without padding."""
        return self.input_ids.numel() - self.num_padding

    @property
    def num_trained(self) -> int:
        """N."""
        return self.targets.numel()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.segment_starts,
            self.predict_from.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.turn_ends.to(device, non_blocking=True),
            self.num_padding,
        )


def collate(examples: Sequence[Example], *, end_of_turn: int | None = None, pad_to: int | None = None) -> Batch:
    """Lay conversations end to end.

    Args:
        examples: Token ids and trained spans ([start, stop) positions within the conversation) of each conversation.
            A span never holds position 0: nothing predicts the first token.
        end_of_turn: Id of the token that ends a turn; without it no turn's end is known.
        pad_to: Fill every conversation up to this length with padding; a longer one stays as it is.

    Example:
        Ids ``[5, 6, 7]`` with span (1, 3), and ``[8, 9]`` with span (1, 2), where 7 ends a turn:

        >>> batch = collate([(np.array([5, 6, 7]), [(1, 3)]), (np.array([8, 9]), [(1, 2)])], end_of_turn=7)
        >>> batch.input_ids.tolist(), batch.position_ids.tolist(), batch.segment_starts
        ([5, 6, 7, 8, 9], [0, 1, 2, 0, 1], (0, 3, 5))
        >>> batch.predict_from.tolist(), batch.targets.tolist(), batch.turn_ends.tolist()
        ([0, 1, 3], [6, 7, 9], [1])

    No conversation at all makes one token of padding, for a process that has nothing to do in its turn.
    """
    if not examples:
        filler = collate([(np.zeros(1, dtype=np.int64), [])])
        return replace(filler, num_padding=1)
    padding = [max(0, (pad_to or 0) - len(ids)) for ids, _ in examples]
    lengths = [len(ids) + fill for (ids, _), fill in zip(examples, padding, strict=True)]
    starts = np.cumsum([0, *lengths])
    trained, ends = [np.zeros(0, dtype=np.int64)], []
    for offset, (ids, spans) in zip(starts, examples, strict=False):
        for start, stop in spans:
            trained.append(np.arange(offset + start, offset + stop))
            if ids[stop - 1] == end_of_turn:
                ends.append(offset + stop - 2)
            elif stop < len(ids) and ids[stop] == end_of_turn:
                ends.append(offset + stop - 1)
    labels = np.concatenate(trained)
    assert not np.isin(labels, starts).any(), "the first token of a conversation cannot be trained"
    input_ids = torch.zeros(int(starts[-1]), dtype=torch.int64)
    for offset, (ids, _) in zip(starts, examples, strict=False):
        input_ids[offset : offset + len(ids)] = torch.from_numpy(ids)
    return Batch(
        input_ids=input_ids,
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        segment_starts=tuple(int(start) for start in starts),
        predict_from=torch.from_numpy(labels - 1),
        targets=input_ids[torch.from_numpy(labels)],
        turn_ends=torch.tensor(ends, dtype=torch.int64),
        num_padding=sum(padding),
    )
