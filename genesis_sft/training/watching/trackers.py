"""Metrics sent to experiment trackers as well, by name: TensorBoard, Weights & Biases, trackio.

What is sent is the numbers of each step, and the settings that the caller gives; no source code, command line,
environment, console output or list of packages. A tracker that cannot be started is an error at the start; one that
fails later is reported once, and the run goes on without it: ``metrics.jsonl`` has everything anyway.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genesis_sft.console import say
from genesis_sft.errors import InputError

PROJECT = "genesis-sft"
"""The project that runs stand under, unless ``WANDB_PROJECT`` or ``TRACKIO_PROJECT`` names another."""

_FINISH_SECONDS = 60.0

Log = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run when it is opened.

    Attributes:
        folder: Where the tracker may keep files of its own.
        name: What the run is called there.
        settings: What it was started with, as plain JSON values.
        first_step: 1, or where an interrupted run goes on.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    first_step: int


class Tracker(Protocol):
    """Takes the numbers of a run, step by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Write or send what is still held back."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing; costs nothing, so that it can be asked before hours of other work.

    Raises:
        InputError: A package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"expected the package {name} for training.monitor.trackers; it is not installed",
                hint=f"pip install 'genesis-sft[{name}]', or leave {name} out.",
            )


@contextmanager
def open_trackers(
    names: Sequence[str], folder: Path, run_name: str, settings: Mapping[str, Any], *, first_step: int = 1
) -> Iterator[Log]:
    """Open trackers by name, and give a function that logs to all of them.

    Args:
        names: Of ``TRACKERS``; none is fine.
        folder: For files of their own. Not within a stage's folder: trackers' own tools change these files later.
        run_name: What the run is called there.
        settings: What the run was started with, as plain JSON values.
        first_step: The first step that will be logged, from 1: later ones, left by a killed run, are replaced where the
            tracker can do so, and stand there twice, equal, where it cannot.

    Raises:
        InputError: A tracker cannot be started: its package or an API key is missing.
    """
    require_trackers(names)
    run, trackers = TrackedRun(folder, run_name, settings, first_step), _Trackers()
    try:
        for name in names:
            trackers.add(name, run)
        yield trackers.log
    finally:
        trackers.close()


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of a row under one name each; what is no number is left out, and so is ``step``.

    Example:
        >>> flat_numbers({"step": 3, "loss": 1.5, "mfu": None, "health": {"norm": 0.2}})
        {'loss': 1.5, 'health/norm': 0.2}
    """
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value) and name != "step":
            numbers[f"{prefix}{name}"] = float(value)
    return numbers


class _Trackers:
    """The open trackers; one that fails is left out from then on."""

    def __init__(self) -> None:
        self._open: dict[str, Tracker] = {}

    def add(self, name: str, run: TrackedRun) -> None:
        try:
            with redirect_stdout(sys.stderr):
                self._open[name] = TRACKERS[name](run)
        except InputError:
            raise
        except Exception as error:  # whatever a foreign package raises
            raise InputError(
                f"{name} could not be started: {type(error).__name__}: {error}",
                hint=f"Leave {name} out of training.monitor.trackers, or mend its set-up.",
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, values)
            except Exception as error:  # no tracker stops a run
                self._give_up(name, error)

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            closing = threading.Thread(target=self._close, args=(name, tracker), daemon=True)
            with redirect_stdout(sys.stderr):  # stdout is for results
                closing.start()
                closing.join(_FINISH_SECONDS)
            if closing.is_alive():
                say(f"{name} did not finish within {_FINISH_SECONDS:.0f} s; its last numbers may be missing there")

    def _close(self, name: str, tracker: Tracker) -> None:
        try:
            tracker.close()
        except Exception as error:
            self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        say(f"{name} failed ({type(error).__name__}: {error}); the run goes on without it, metrics.jsonl has all")


class _TensorBoard:
    """Event files in ``tensorboard/``; ``tensorboard --logdir RUN`` shows them."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(run.folder / "tensorboard"), purge_step=run.first_step, flush_secs=10)
        self._writer.add_text("settings", f"```\n{json.dumps(run.settings, indent=2)}\n```", run.first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases, with ``WANDB_MODE=offline`` in ``wandb/``, for ``wandb sync`` later."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise InputError(
                "expected an API key for wandb, found none",
                hint="Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline and `wandb sync` later.",
            )
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_run_id(run),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            save_code=False,
            settings=wandb.Settings(
                console="off",
                silent=True,
                symlink=False,
                disable_git=True,
                disable_code=True,
                finish_timeout=_FINISH_SECONDS / 2,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric="step")  # wandb's own counter takes no step twice: not after a resume

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run in trackio's own data base, where ``trackio show`` finds it, or wherever ``TRACKIO_SPACE_ID`` says."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._run = copy_context().run(  # so that trackio does not finish it a second time at the interpreter's end
            trackio.init,
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=run.name,
            config=dict(run.settings),
            resume="allow" if run.first_step > 1 else "never",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
"""Name in ``training.monitor.trackers`` and of the package, to what opens it."""


def _run_id(run: TrackedRun) -> str:
    """Return the id of a wandb run: the one before where a run goes on, a new one where it starts."""
    path = run.folder / "wandb_run_id.txt"
    if run.first_step == 1 or not path.exists():
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8")
