"""Which conversations a step trains on: a pure function of (seed, epoch, step), so that a resume stores one integer."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StepPlan:
    """The order of a whole run.

    Attributes:
        num_examples: Conversations in the store.
        sequences: Conversations in one optimizer step.
        epochs: How often each conversation is seen.
        drop_last: Leave out the conversations that do not fill the last step of an epoch.
        max_steps: Stop after so many steps, if given.
        seed: The recipe's seed.

    Example:
        >>> StepPlan(num_examples=10, sequences=4, epochs=1, drop_last=False, max_steps=None, seed=0).num_steps
        3
    """

    num_examples: int
    sequences: int
    epochs: int
    drop_last: bool
    max_steps: int | None
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the conversations."""
        whole, rest = divmod(self.num_examples, self.sequences)
        return whole if self.drop_last or rest == 0 else whole + 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps in the run."""
        steps = self.steps_per_epoch * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def examples_of_step(self, step: int) -> NDArray[np.int64]:
        """Return the indices of the conversations of a step, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.sequences
        return epoch_order(self.num_examples, self.seed, epoch)[start : start + self.sequences]


@functools.lru_cache(maxsize=2)
def epoch_order(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(num_examples)``, another one for each seed and epoch.

    The generator's seed is a hash of both numbers, so that neighbouring seeds and epochs are unrelated.
    """
    digest = hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return generator.permutation(num_examples)
