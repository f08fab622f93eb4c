"""A tiny fine-tuning whose every step follows from its number, to be saved, killed and gone on with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.recipe.training import CheckpointSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.optimizer import build_optimizer
from genesis_sft.training.processes.parallel import Ranks, Trainable, full
from genesis_sft.training.saving.checkpoints import Checkpoints
from genesis_sft.training.step import micro_batches_of_step, train_step
from tests.conftest import build_llama

ALONE = Ranks(0, 1, 1, torch.device("cpu"))
AT_ONCE = CheckpointSection(asynchronous=False)
MANY = CheckpointSection(asynchronous=False, keep=10)
SECTION = TrainingSection(
    batch=BatchSection(sequences=4), learning_rate=1e-2, weight_decay=0.1, precision="float32", device="cpu"
)


class Conversations:
    """Stands where a token store's table does: conversation i is a random one of its own seed."""

    def num_tokens(self, index: int) -> int:
        return 6 + index % 5

    def input_ids(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng(index).integers(0, 100, self.num_tokens(index))

    def trained(self, index: int) -> list[tuple[int, int]]:
        return [(2, self.num_tokens(index) - index % 2)]


@dataclass
class Tuning:
    """A model in training, and what trains it."""

    trainable: Trainable
    optimizer: torch.optim.Optimizer
    ranks: Ranks

    def steps(self, start: int, stop: int) -> None:
        """Train steps ``start`` to ``stop``, counted from 0; each has four conversations of its own."""
        for step in range(start, stop):
            indices = list(range(4 * step, 4 * step + 4))
            batches = micro_batches_of_step(indices, Conversations(), 16, self.ranks)  # type: ignore[arg-type]
            train_step(self.trainable, self.optimizer, batches, self.ranks, max_grad_norm=1.0)

    def state(self) -> dict[str, torch.Tensor]:
        """Copy every weight and optimizer state, whole; all processes have to ask."""
        named = dict(self.trainable.objective.named_parameters())
        values = {name: full(parameter.detach()).clone() for name, parameter in named.items()}
        for name, parameter in named.items():
            states = self.optimizer.state.get(parameter, {})
            values |= {f"{name}:{key}": full(value).clone() for key, value in states.items()}
        return values

    def restore(self, checkpoints: Checkpoints, *, resume: Any = "auto", logged_steps: int = 99) -> int:
        return checkpoints.restore(self.trainable, self.optimizer, resume=resume, logged_steps=logged_steps)

    def save(self, checkpoints: Checkpoints, step: int, held_out_loss: float | None = None) -> None:
        checkpoints.save(step, self.trainable, self.optimizer, held_out_loss=held_out_loss)


def tuning(
    ranks: Ranks = ALONE,
    section: TrainingSection = SECTION,
    *,
    tied: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tuning:
    """A fresh one."""
    model = build_llama(100, tied=tied, seed=seed).to(dtype).train()
    model.set_attn_implementation(SEGMENT_ATTENTION)
    trainable = Trainable(Objective(model), ranks, section)
    return Tuning(trainable, build_optimizer(trainable.module, section), ranks)


def checkpoints_in(folder: Path, section: CheckpointSection = AT_ONCE, ranks: Ranks = ALONE) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", ranks, section)


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names of what is not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def saved_at(folder: Path, *steps: int, section: CheckpointSection = MANY) -> Tuning:
    """Leave checkpoints of a run after these steps."""
    run, checkpoints, done = tuning(), checkpoints_in(folder, section), 0
    for step in steps:
        run.steps(done, step)
        run.save(checkpoints, step)
        done = step
    checkpoints.wait()
    return run


def flip_a_bit(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def cut(folder: Path, name: str) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size // 2)
