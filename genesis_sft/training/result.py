"""What a finished training run came to, as later stages read it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genesis_sft.run_dir import write_json
from genesis_sft.training.watching.metrics import METRICS_FILE, read_metrics

WEIGHTS_FILE = "weights.safetensors"
SUMMARY_FILE = "training.json"


@dataclass(frozen=True)
class TrainingState:
    """A finished training run.

    Attributes:
        folder: Holds weights and metrics.
        num_steps: Optimizer steps.
        num_tokens: Tokens seen.
        num_trained: Trained tokens seen.
        first_loss: Mean loss over the first tenth of the steps, nats per trained token.
        last_loss: The same over the last tenth.
        skipped_steps: Steps whose gradient was not finite.
        vocab_size: Rows of embedding and head in the weights; None in a run of an earlier version.
        padded_vocab_size: Rows that they had while training; see ``training.pad_vocab_to_multiple_of``.
        weights_of_step: The step that the weights are of, where that is not the last.
        alarms: Names of the alarms that the run raised.
    """

    folder: Path
    num_steps: int
    num_tokens: int
    num_trained: int
    first_loss: float
    last_loss: float
    skipped_steps: int
    vocab_size: int | None = None
    padded_vocab_size: int | None = None
    weights_of_step: int | None = None
    alarms: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> TrainingState:
        """Read a finished run."""
        values = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        return cls(folder=folder, **values | {"alarms": tuple(values.get("alarms", ()))})

    def write(self) -> None:
        """Write ``training.json``; with it, the run is finished."""
        values = asdict(self)
        del values["folder"]
        write_json(self.folder / SUMMARY_FILE, values)

    def summary(self) -> str:
        """Return the plain line of result."""
        skipped = f", {self.skipped_steps} steps skipped" if self.skipped_steps else ""
        best = f", weights of step {self.weights_of_step}" if self.weights_of_step is not None else ""
        alarms = f"; alarms: {', '.join(self.alarms)}" if self.alarms else ""
        return (
            f"{self.num_steps} steps, {self.num_tokens:,} tokens ({self.num_trained:,} trained), "
            f"loss {self.first_loss:.3f} -> {self.last_loss:.3f}{skipped}{best}{alarms}"
        )

    @property
    def weights(self) -> Path:
        """The tuned weights."""
        return self.folder / WEIGHTS_FILE

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``."""
        return read_metrics(self.folder / METRICS_FILE)


def summarize(
    folder: Path, *, vocab_size: int, padded_vocab_size: int, weights_of_step: int | None, alarms: Sequence[str]
) -> TrainingState:
    """Add up the metrics of a run that has done its last step."""
    rows = read_metrics(folder / METRICS_FILE)
    tenth = max(1, len(rows) // 10)
    return TrainingState(
        folder=folder,
        num_steps=len(rows),
        num_tokens=sum(row["tokens"] for row in rows),
        num_trained=sum(row["trained_tokens"] for row in rows),
        first_loss=_mean_loss(rows[:tenth]),
        last_loss=_mean_loss(rows[-tenth:]),
        skipped_steps=sum(row["skipped"] for row in rows),
        vocab_size=vocab_size,
        padded_vocab_size=padded_vocab_size,
        weights_of_step=weights_of_step,
        alarms=tuple(alarms),
    )


def _mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    done = [row for row in rows if row["loss"] is not None]
    trained = sum(row["trained_tokens"] for row in done)
    return float(sum(row["loss"] * row["trained_tokens"] for row in done) / trained) if trained else math.nan
