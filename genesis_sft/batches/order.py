"""Which conversations a step trains on: a pure function of (seed, epoch, step), so that a resume stores one integer."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

from genesis_sft.recipe import BatchSection

Ints = NDArray[np.int64]


class StepPlan:
    """The order of a whole run.

    Args:
        lengths: Tokens of each conversation, (conversations,).
        batch: How much one optimizer step trains on: conversations, or tokens at most.
        epochs: How often each conversation is seen.
        drop_last: Leave out the last step of an epoch where it is smaller than ``batch.sequences``, or, with
            ``batch.tokens``, where the conversations ended before the step was full.
        max_steps: Stop after so many steps, if given.
        seed: The recipe's seed.

    Attributes:
        num_steps: Optimizer steps in the run.

    Example:
        >>> StepPlan(np.full(10, 7), BatchSection(sequences=4)).num_steps
        3
        >>> StepPlan(np.full(10, 7), BatchSection(tokens=20)).num_steps
        5
    """

    def __init__(
        self,
        lengths: Ints,
        batch: BatchSection,
        *,
        epochs: int = 1,
        drop_last: bool = False,
        max_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        self._lengths, self._batch, self._drop_last, self._seed = lengths, batch, drop_last, seed
        self._starts: list[Ints] = []  # of each epoch: offsets of its steps into its order, and the end of the last one
        first_steps = [0]
        while len(self._starts) < epochs and (max_steps is None or first_steps[-1] < max_steps):
            self._starts.append(self._cut_epoch(len(self._starts)))
            first_steps.append(first_steps[-1] + len(self._starts[-1]) - 1)
        self._first_steps = np.array(first_steps)  # of each epoch, and the number of steps of them all
        self.num_steps = first_steps[-1] if max_steps is None else min(first_steps[-1], max_steps)

    def examples_of_step(self, step: int) -> Ints:
        """Return the indices of the conversations of a step, counted from 0."""
        epoch = int(np.searchsorted(self._first_steps, step, side="right")) - 1
        start, stop = self._starts[epoch][step - self._first_steps[epoch] :][:2]
        return epoch_order(len(self._lengths), self._seed, epoch)[start:stop]

    def _cut_epoch(self, epoch: int) -> Ints:
        if self._batch.sequences is not None:
            starts = np.arange(0, len(self._lengths), self._batch.sequences)
            full = len(self._lengths) % self._batch.sequences == 0
        else:
            order = epoch_order(len(self._lengths), self._seed, epoch)
            starts, full = _fill(self._lengths[order], self._batch.tokens or 0), False
        ends = np.append(starts, len(self._lengths))
        return ends[:-1] if self._drop_last and not full and len(starts) else ends


def _fill(lengths: Ints, max_tokens: int) -> Ints:
    """Return where steps of at most ``max_tokens`` tokens start; a conversation longer than that is a step alone."""
    ends, starts = np.cumsum(lengths), [0]
    while starts[-1] < len(lengths):
        before = ends[starts[-1] - 1] if starts[-1] else 0
        starts.append(max(starts[-1] + 1, int(np.searchsorted(ends, before + max_tokens, side="right"))))
    return np.array(starts[:-1])


@functools.lru_cache(maxsize=2)
def epoch_order(num_examples: int, seed: int, epoch: int) -> Ints:
    """Return a permutation of ``range(num_examples)``, another one for each seed and epoch.

    The generator's seed is a hash of both numbers, so that neighbouring seeds and epochs are unrelated.
    """
    digest = hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return generator.permutation(num_examples)
