"""Checkpoints within a training run: written whole or not at all, and found again after a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel

from genesis_sft.console import say
from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import hash_file, write_json

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in a folder of their own; the newest is kept.

    Attributes:
        folder: Holds ``step-000120/`` and the like.
    """

    folder: Path

    def save(self, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint of the state after ``step`` steps, then remove the older ones.

        It is written under a temporary name, its hashes last, and renamed: a kill at any moment leaves the checkpoint
        before it or this one.
        """
        target = self.folder / f"step-{step:06d}"
        temporary = self.folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_weights(model, temporary / _WEIGHTS)
        with _disk_errors(temporary):
            torch.save({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, temporary / _OPTIMIZER)
        hashes = {name: hash_file(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)}
        write_json(temporary / _STATE, {"step": step, "sha256": hashes})
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        for older in self._steps():
            if older.name < target.name:
                shutil.rmtree(older)

    def restore(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, *, logged_steps: int) -> int:
        """Load the newest undamaged checkpoint, if there is one; return the number of steps it has done.

        Args:
            model: Gets the weights.
            optimizer: Gets its state.
            logged_steps: Steps that the metrics have rows of; a checkpoint beyond them is left aside.
        """
        for folder in reversed(self._steps()):
            state = _read_state(folder)
            if state is None or state["step"] > logged_steps:
                say(f"  checkpoint {folder.name} is damaged and is left aside")
                continue
            load_model(model, folder / _WEIGHTS)
            # weights_only: nothing but tensors and plain containers is unpickled
            saved = torch.load(folder / _OPTIMIZER, weights_only=True)
            optimizer.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["rng"])
            say(f"  going on after step {state['step']} (weights sha256 {state['sha256'][_WEIGHTS][:12]})")
            return int(state["step"])
        return 0

    def remove(self) -> None:
        """Remove all checkpoints, when the run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def save_weights(model: PreTrainedModel, path: Path) -> None:
    """Write a model's weights as safetensors; tied tensors once. The data is on disk when the call returns."""
    with _disk_errors(path):
        save_model(model, str(path))
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Name the place when a library cannot write: each of them raises an error of its own kind on a full disk."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunDirError(
            f"could not write to {path}: {error}",
            hint="Is the disk full? When there is room, the same command goes on from the last checkpoint.",
        ) from None


def _read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a checkpoint whose files are what they were when it was written."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        intact = folder.name == f"step-{state['step']:06d}"
        intact = intact and all(hash_file(folder / name) == state["sha256"][name] for name in (_WEIGHTS, _OPTIMIZER))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return state if intact else None
