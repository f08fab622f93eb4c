"""Conversations laid end to end: what one forward pass reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Span = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Conversations laid end to end, without padding. T tokens, S conversations, N trained tokens.

    Whoever computes the loss shifts nothing: ``predict_from[i]`` is the position whose output predicts ``targets[i]``.

    Attributes:
        input_ids: (T,) token ids.
        position_ids: (T,) positions, from 0 in each conversation.
        segment_starts: S + 1 offsets; conversation s is ``input_ids[segment_starts[s]:segment_starts[s + 1]]``.
        predict_from: (N,) positions in [0, T) whose next token is trained.
        targets: (N,) the token ids that are trained.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_starts: tuple[int, ...]
    predict_from: torch.Tensor
    targets: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.input_ids.numel()

    @property
    def num_trained(self) -> int:
        """N."""
        return self.targets.numel()

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.segment_starts,
            self.predict_from.to(device),
            self.targets.to(device),
        )


def collate(examples: Sequence[tuple[NDArray[np.int64], Sequence[Span]]]) -> Batch:
    """Lay conversations end to end.

    Args:
        examples: Token ids and trained spans ([start, stop) positions within the conversation) of each conversation.
            A span never holds position 0: nothing predicts the first token.

    Example:
        Ids ``[5, 6, 7]`` with span (1, 3), and ``[8, 9]`` with span (1, 2):

        >>> batch = collate([(np.array([5, 6, 7]), [(1, 3)]), (np.array([8, 9]), [(1, 2)])])
        >>> batch.input_ids.tolist(), batch.position_ids.tolist(), batch.segment_starts
        ([5, 6, 7, 8, 9], [0, 1, 2, 0, 1], (0, 3, 5))
        >>> batch.predict_from.tolist(), batch.targets.tolist()
        ([0, 1, 3], [6, 7, 9])
    """
    starts = np.cumsum([0, *(len(ids) for ids, _ in examples)])
    trained = [
        np.arange(offset + start, offset + stop)
        for offset, (_, spans) in zip(starts, examples, strict=False)
        for start, stop in spans
    ]
    labels = np.concatenate(trained) if trained else np.zeros(0, dtype=np.int64)
    assert not np.isin(labels, starts).any(), "the first token of a conversation cannot be trained"
    input_ids = torch.from_numpy(np.concatenate([ids for ids, _ in examples]).astype(np.int64))
    return Batch(
        input_ids=input_ids,
        position_ids=torch.cat([torch.arange(len(ids)) for ids, _ in examples]),
        segment_starts=tuple(int(start) for start in starts),
        predict_from=torch.from_numpy(labels - 1),
        targets=input_ids[torch.from_numpy(labels)],
    )
