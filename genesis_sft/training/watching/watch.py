"""A training run as it stands on disk: live, stopped or finished, here or copied from another machine.

Nothing is written or locked: a copy is as good as the original, and a run does not notice that it is watched.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_sft.console import format_duration, visible
from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import MARKER
from genesis_sft.training.result import SUMMARY_FILE, TrainingState
from genesis_sft.training.watching.display import Figures
from genesis_sft.training.watching.metrics import EVENTS_FILE, METRICS_FILE, read_events, read_metrics

_RECENT_STEPS = 50
_IDLE_SECONDS = 60.0


@dataclass(frozen=True)
class WatchedRun:
    """What the files of a training run say.

    Attributes:
        folder: The folder that they lie in; where training has not begun, the one that was asked for.
        metrics: Rows of ``metrics.jsonl``, one a step.
        events: Rows of ``events.jsonl``.
        result: The line of result of a finished run.
        idle_seconds: How long ago the last step was written; None before the first one.
    """

    folder: Path
    metrics: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    result: str | None
    idle_seconds: float | None

    @classmethod
    def open(cls, path: Path) -> WatchedRun:
        """Read a run.

        Args:
            path: A run folder, or the folder of a training run in it; of several the one that was written to last.

        Raises:
            RunDirError: There is no run.
        """
        folder = find_training(path)
        written = _modified(folder / METRICS_FILE)
        return cls(
            folder,
            metrics=read_metrics(folder / METRICS_FILE),
            events=read_events(folder / EVENTS_FILE),
            result=_result(folder),
            idle_seconds=max(0.0, time.time() - written) if written is not None else None,
        )

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole run; None where they are not known."""
        if self.result is not None:
            return len(self.metrics)
        plans = [row["num_steps"] for row in self.of_kind("plan") if isinstance(row.get("num_steps"), int)]
        return plans[-1] if plans else None

    @property
    def step_seconds(self) -> float | None:
        """Seconds that a step took of late, on average; None before the first one."""
        recent = [row["elapsed_seconds"] for row in self.metrics[-_RECENT_STEPS:] if row.get("elapsed_seconds")]
        return sum(recent) / len(recent) if recent else None

    @property
    def is_idle(self) -> bool:
        """Whether there has been no step for so long that the run has probably stopped, or its copy is an old one."""
        return self.idle_seconds is not None and self.idle_seconds > max(_IDLE_SECONDS, 10 * (self.step_seconds or 0))

    @property
    def eta_seconds(self) -> float | None:
        """How long the rest will take if steps go on as of late; None where that cannot be said."""
        if self.num_steps is None or self.step_seconds is None or self.is_idle:
            return None
        return (self.num_steps - len(self.metrics)) * self.step_seconds

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the events of a kind, in order."""
        return [row for row in self.events if row["kind"] == kind]

    def status(self) -> list[str]:
        """Return how the run stands: a line on how far it is, its last figures, and a line for each alarm."""
        alarms = [f"alarm (step {row['step']}): {row.get('message')}" for row in self.of_kind("alarm")]
        last = [] if self.result or not self.metrics else ["  ".join(self._figures())]
        return [visible(" ".join(line.split("\n"))) for line in (f"{self.folder}: {self._progress()}", *last, *alarms)]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "folder": str(self.folder),
            "finished": self.result is not None,
            "steps": len(self.metrics),
            "num_steps": self.num_steps,
            "eta_seconds": self.eta_seconds,
            "idle_seconds": self.idle_seconds,
            "alarms": self.of_kind("alarm"),
            "held_out": self.of_kind("held_out"),
            "samples": self.of_kind("sample"),
            "metrics": list(self.metrics),
        }

    def _progress(self) -> str:
        if self.result is not None:
            return f"finished; {self.result}"
        if not self.metrics:
            return "no step is done yet"
        of_all = f" of {self.num_steps}" if self.num_steps is not None else ""
        if self.is_idle:
            rest = f", no new step for {format_duration(self.idle_seconds or 0)}"
        else:
            rest = f", ETA {format_duration(self.eta_seconds)}" if self.eta_seconds is not None else ""
        return f"step {len(self.metrics)}{of_all}{rest}"

    def _figures(self) -> list[str]:
        figures = Figures(len(self.metrics), 0, 0, self.metrics[:-1])
        figures.add(self.metrics[-1])
        return figures.of_step()


def find_training(path: Path) -> Path:
    """Return the folder of a training run: ``path`` itself, or in a run folder the one that was written to last.

    Raises:
        RunDirError: There is no run.
    """
    places = [path, path / "train", *sorted(path.glob("partial/train-*"))]
    written = {place: modified for place in places if (modified := _modified(place / METRICS_FILE)) is not None}
    if written:
        return max(written, key=written.__getitem__)
    if any((path / name).exists() for name in (MARKER, "partial", EVENTS_FILE)):
        return path
    there = "a folder without any of them" if path.is_dir() else "a file" if path.exists() else "nothing"
    raise RunDirError(
        f"expected a run at {path}: {METRICS_FILE}, train/{METRICS_FILE} or partial/train-*/{METRICS_FILE}; "
        f"found {there}",
        hint="Name the folder of a run, e.g. runs/quickstart, or a copy of it.",
    )


def _modified(path: Path) -> float | None:
    """When a file was last written to, in seconds since 1970; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _result(folder: Path) -> str | None:
    if not (folder / SUMMARY_FILE).exists():
        return None
    try:
        return TrainingState.open(folder).summary()
    except (OSError, ValueError, TypeError, AttributeError):  # a copy that is not complete
        return None
