"""Checkpoints within a training run: written whole or not at all, and found again after a kill.

A checkpoint holds weights and optimizer states under the model's parameter names, in pieces that fit any number of
processes and any way of sharing the work. Nothing else is needed: order, learning rate and random numbers of a step
follow from (recipe, seed, step).
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from genesis_sft.console import say
from genesis_sft.errors import InputError, RunDirError
from genesis_sft.recipe.training import CheckpointSection
from genesis_sft.run_dir import sync_folder
from genesis_sft.training.processes.parallel import Ranks, Trainable
from genesis_sft.training.saving.storage import (
    WHEN_FULL,
    Reader,
    SavedState,
    Writer,
    disk_errors,
    is_intact,
    read_state,
    write_state,
)

_NAME = re.compile(r"step-[0-9]{6,}")


class Checkpoints:
    """The checkpoints of one run. All processes call every method, and all see the same folder.

    Args:
        folder: Holds ``step-000120/`` and the like, nothing else.
        ranks: The processes.
        section: The recipe's section on checkpoints.
        timeout_seconds: How long a process waits for the slowest one to write its part.
    """

    def __init__(self, folder: Path, ranks: Ranks, section: CheckpointSection, *, timeout_seconds: int = 600) -> None:
        self.folder, self._ranks, self._section = folder, ranks, section
        self._saving: tuple[Path, Future[Any]] | None = None
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            # a group of its own: what is said in the background must not come between the gradients
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    def restore(
        self,
        trainable: Trainable,
        optimizer: torch.optim.Optimizer,
        *,
        resume: Literal["auto", "required", "never"],
        logged_steps: int,
    ) -> int:
        """Load the newest undamaged checkpoint, if there is one; return the number of steps it has done.

        Args:
            trainable: Gets the weights.
            optimizer: Gets its states; its settings stay those of the recipe.
            resume: ``required`` refuses to start without a checkpoint, ``never`` removes all there are.
            logged_steps: Steps that the metrics have rows of; a checkpoint beyond them is left aside.

        Raises:
            InputError: A checkpoint is required and there is none.
            RunDirError: An undamaged checkpoint cannot be read, or is of another model; or metrics are lost.
        """
        found, beyond = self._ranks.from_first(
            self._clear_and_find(resume, logged_steps) if self._ranks.is_first else (None, None)
        )
        if found is None and beyond is not None:  # starting anew would overwrite what can still be saved
            raise RunDirError(
                f"expected metrics.jsonl to reach the checkpoints in {self.folder}; found {logged_steps} whole lines, "
                f"and the earliest undamaged checkpoint is of step {beyond}",
                hint="Put metrics.jsonl back as it was, or set training.resume to never to start anew.",
            )
        if found is None and resume == "required":
            raise InputError(
                f"expected a checkpoint to go on from in {self.folder} (training.resume is required); found none",
                hint="Set training.resume to auto to start at step 1.",
            )
        if found is None:
            self._say("  starting at step 1")
            return 0
        weights, states = _weights(trainable), _optimizer_states(trainable, optimizer)
        self._load(found, {"model": weights, "optimizer": states["state"]})
        set_model_state_dict(trainable.module, weights)
        set_optimizer_state_dict(trainable.module, optimizer, states)
        self._say(f"  going on after step {found.step} (checkpoint sha256 {found.sha256[:12]})")
        return int(found.step)

    def save(
        self,
        step: int,
        trainable: Trainable,
        optimizer: torch.optim.Optimizer,
        *,
        held_out_loss: float | None = None,
    ) -> None:
        """Write a checkpoint of the state after ``step`` steps, then remove those that are not kept.

        It is written under a temporary name, its hashes last, and renamed: a kill at any moment leaves the checkpoint
        before it or this one. Where it is asynchronous, the call returns when the state is copied to main memory, and
        training may change it.

        Args:
            step: Steps done.
            trainable: Holds the weights.
            optimizer: Holds its states; its settings are the recipe's and are not saved.
            held_out_loss: Nats per token, where they were just measured.

        Raises:
            RunDirError: This one, or the one before, could not be written; earlier checkpoints are as they were.
        """
        self.wait()
        temporary = self._place(step, temporary=True)
        writer = Writer(temporary, partial(self._put_in_place, step, held_out_loss))
        state = {"model": _weights(trainable), "optimizer": _optimizer_states(trainable, optimizer)["state"]}
        with self._writing(temporary):
            if self._section.asynchronous:
                future = async_save(state, storage_writer=writer, process_group=self._group)
                assert isinstance(future, Future)  # the writer copies at once; there is no second future for that
                self._saving = (temporary, future)
            else:
                save(state, storage_writer=writer, process_group=self._group)

    @property
    def failed(self) -> bool:
        """Whether what is written in the background has failed in this process; `wait` says why. Never waits."""
        future = self._saving[1] if self._saving else None
        return future is not None and future.done() and future.exception() is not None

    def wait(self) -> None:
        """Wait until what is written in the background is on disk.

        Raises:
            RunDirError: It could not be written.
        """
        if self._saving is not None:
            (temporary, future), self._saving = self._saving, None
            with self._writing(temporary):
                future.result()

    def restore_best(self, trainable: Trainable) -> int | None:
        """Load the weights of the checkpoint with the lowest held-out loss; return its step, None where there is none.

        Raises:
            RunDirError: It cannot be read.
        """
        self.wait()
        found = self._ranks.from_first(self._find_best() if self._ranks.is_first else None)
        if found is None:
            return None
        weights = _weights(trainable)
        self._load(found, {"model": weights})
        set_model_state_dict(trainable.module, weights)
        self._say(f"  the weights are those after step {found.step}, held-out loss {found.held_out_loss:.4f}")
        return int(found.step)

    def remove(self) -> None:
        """Remove all checkpoints, when the run is over."""
        self.wait()
        if self._ranks.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _clear_and_find(self, resume: str, logged_steps: int) -> tuple[SavedState | None, int | None]:
        """Remove what a kill left half written, or everything.

        Returns:
            The newest checkpoint that is of use; and the step of the earliest one that would be, had it its metrics.
        """
        beyond: int | None = None
        if resume == "never":
            shutil.rmtree(self.folder, ignore_errors=True)
        for half in self.folder.glob(".step-*"):
            shutil.rmtree(half, ignore_errors=True)
        for folder in sorted(self._folders(), key=_number, reverse=True):
            if (state := self._read_intact(folder)) is None:
                continue
            if state.step <= logged_steps:
                return state, beyond
            say(f"  checkpoint {folder.name} lies beyond the {logged_steps} steps in the metrics and is left aside")
            beyond = state.step
        return None, beyond

    def _find_best(self) -> SavedState | None:
        measured = [state for state in self._saved() if state.held_out_loss is not None]
        for state in sorted(measured, key=_loss):
            if self._read_intact(self._place(state.step)) is not None:
                return state
        return None

    def _read_intact(self, folder: Path) -> SavedState | None:
        state = read_state(folder)
        if state is None or not is_intact(folder, state):
            say(f"  checkpoint {folder.name} is damaged and is left aside")
            return None
        return state

    def _load(self, found: SavedState, state: dict[str, Any]) -> None:
        """Read tensors into those of a state dict, in place."""
        folder = self._place(found.step)
        _allow_one_process()
        with disk_errors(f"could not go on from {folder}", hint="Set training.resume to never to start anew."):
            load(state, storage_reader=Reader(folder, found.files), process_group=self._group)

    def _put_in_place(self, step: int, held_out_loss: float | None, names: list[str]) -> None:
        """Make a checkpoint of what all processes have written. In the first process, maybe in the background."""
        temporary, target = self._place(step, temporary=True), self._place(step)
        write_state(temporary, names, step=step, held_out_loss=held_out_loss)
        outdated = self.folder / f".{target.name}.outdated"
        if target.exists():  # damaged, or of a path that the metrics have lost
            target.rename(outdated)
        temporary.rename(target)
        sync_folder(self.folder)
        shutil.rmtree(outdated, ignore_errors=True)
        self._remove_older(step)

    def _remove_older(self, step: int) -> None:
        """Keep the newest up to a step, those beyond it, and the best where that is wanted."""
        saved = [state for state in self._saved() if state.step <= step]
        kept = {state.step for state in saved[-self._section.keep :]}
        measured = [state for state in saved if state.held_out_loss is not None]
        if self._section.use == "best" and measured:
            kept.add(min(measured, key=_loss).step)
        for folder in self._folders():
            if _number(folder) <= step and _number(folder) not in kept:
                shutil.rmtree(folder)

    def _saved(self) -> list[SavedState]:
        """Return the checkpoints that say what they are, in the order of their steps."""
        states = (read_state(folder) for folder in self._folders())
        return sorted((state for state in states if state is not None), key=lambda state: state.step)

    def _folders(self) -> list[Path]:
        """Return the folders of checkpoints; what else lies there is somebody else's and is left alone."""
        return [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]

    def _place(self, step: int, *, temporary: bool = False) -> Path:
        name = f"step-{step:06d}"
        return self.folder / (f".{name}.tmp" if temporary else name)

    @contextmanager
    def _writing(self, temporary: Path) -> Iterator[None]:
        _allow_one_process()
        try:
            with disk_errors(f"could not write to {temporary}", hint=WHEN_FULL):
                yield
        except RunDirError:
            if self._ranks.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _say(self, line: str) -> None:
        if self._ranks.is_first:
            say(line)


def _weights(trainable: Trainable) -> dict[str, Any]:
    """Return the weights by name: this process's part of the tensors themselves, no copies."""
    return get_model_state_dict(trainable.module)


def _optimizer_states(trainable: Trainable, optimizer: torch.optim.Optimizer) -> OptimizerStateType:
    """Return the optimizer's states by the names of the weights, not copied, and its settings."""
    fresh = not optimizer.state
    if fresh:  # no step was done, or every one was skipped; gradients that are left would keep states from being made
        optimizer.zero_grad(set_to_none=True)
    states = get_optimizer_state_dict(trainable.module, optimizer)
    if fresh:  # they were made by a step with learning rate 0, which is not to be counted
        for state in optimizer.state.values():
            state["step"].zero_()
    return states


def _allow_one_process() -> None:
    """Keep PyTorch from warning that there is one process only, also in the thread that writes in the background."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def _number(folder: Path) -> int:
    """Return the step that a folder is named after."""
    return int(folder.name.removeprefix("step-"))


def _loss(state: SavedState) -> float:
    assert state.held_out_loss is not None
    return state.held_out_loss
