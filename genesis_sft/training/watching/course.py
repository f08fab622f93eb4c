"""The course of a run as arrays over steps, as alarms look at it: means of windows, and how certain they are.

Every number of a step rests on the rows up to that step only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Row = Mapping[str, Any]

WINDOW = 25
"""Steps that are averaged: the noise of a step's loss is a fifth of it then."""

START = 5
"""Steps that are what the base could do: a learning rate that is too high does its damage in the next ones."""

SETTLED_STEPS = 1000
"""Steps after the warmup by which new rows are learned at usual rates: SmolLM2-135M, given the mean of all rows for
``<|im_end|>`` and trained at 1e-4, raised its probability from 1e-7 by a factor of 1.2 a step (31 were made)."""


@dataclass(frozen=True)
class Course:
    """The rows of a run; S steps, NaN where a number is not known.

    Comparisons are with the first `WINDOW` steps. A later window is compared from step 2 * `WINDOW` on; NaN before.

    Attributes:
        facts: What was known before the first step.
        skipped: (S,) 1 for a step that was skipped.
        looks: (step, what `Health.take` returned) of the steps in which something was measured.
        steps_since_peak: (S,) steps since the learning rate was last higher than ever before.
        share_of_peak: (S,) learning rate over the highest so far.
        first_loss: Mean of the first window, nats.
        recent_loss: (S,) mean of the window that ends with the step.
        fall: (S,) ``first_loss - recent_loss``.
        fall_error: (S,) its standard error, from the spread within both windows.
        start_loss: Mean of the first `START` steps, nats.
        rise: (S,) ``recent_loss - start_loss``.
        rise_error: (S,) its standard error, from the spread within the window.
        first_end_probability: Mean of the first window.
        end_probability, elsewhere_probability: (S,) means of the window that ends with the step.
        largest_update: (S,) largest median update of a look so far; NaN before the first look.
    """

    facts: Mapping[str, Any]
    skipped: Floats
    looks: Sequence[tuple[int, Mapping[str, Any]]]
    steps_since_peak: Floats
    share_of_peak: Floats
    first_loss: float
    recent_loss: Floats
    fall: Floats
    fall_error: Floats
    start_loss: float
    rise: Floats
    rise_error: Floats
    first_end_probability: float
    end_probability: Floats
    elsewhere_probability: Floats
    largest_update: Floats

    @classmethod
    def of(cls, rows: Sequence[Row], facts: Mapping[str, Any]) -> Course:
        """Read rows of ``metrics.jsonl``, from step 1 on, without a gap."""
        rate = np.nan_to_num(_column(rows, "learning_rate"))
        peak = np.maximum.accumulate(rate) if len(rate) else rate
        numbers = np.arange(len(rate), dtype=np.float64)
        last_peak = np.where(np.diff(peak, prepend=0.0) > 0, numbers, 0.0)
        looks = [(number, row["health"]) for number, row in enumerate(rows, 1) if row.get("health")]
        loss, loss_error = _window_means(_column(rows, "loss"))
        ends, elsewhere = (_window_means(_column(rows, f"{where}_probability"))[0] for where in ("end", "elsewhere"))
        start_loss = float(np.mean(_column(rows, "loss")[:START])) if len(rows) >= START else float("nan")
        first_loss, first_error = _at(loss, WINDOW), _at(loss_error, WINDOW)
        compared = np.where(numbers >= 2 * WINDOW - 1, loss, np.nan)
        return cls(
            facts=facts,
            skipped=np.nan_to_num(_column(rows, "skipped")),
            looks=looks,
            steps_since_peak=numbers - (np.maximum.accumulate(last_peak) if len(rate) else last_peak),
            share_of_peak=np.divide(rate, peak, out=np.zeros_like(rate), where=peak > 0),
            first_loss=first_loss,
            recent_loss=loss,
            fall=first_loss - compared,
            fall_error=np.hypot(loss_error, first_error),
            start_loss=start_loss,
            rise=compared - start_loss,
            rise_error=loss_error * np.sqrt(1 + WINDOW / START),
            first_end_probability=_at(ends, WINDOW),
            end_probability=ends,
            elsewhere_probability=elsewhere,
            largest_update=_largest_updates(looks, len(rate)),
        )

    @property
    def end_row(self) -> str | None:
        """Name of the token that ends a turn."""
        ids = self.facts.get("control_ids", {})
        return next((name for name, number in ids.items() if number == self.facts.get("end_of_turn")), None)

    @property
    def ends_low(self) -> Bools:
        """(S,) Whether ends of turns are trained and their probability is below 0.1."""
        return np.asarray(bool(self.facts.get("trained_turn_ends")) & (self.end_probability < 0.1))

    @property
    def ends_rising(self) -> Bools:
        """(S,) Whether it is above what it is elsewhere, and has grown by 15 % since the window before."""
        before = np.concatenate([np.full(WINDOW, np.nan), self.end_probability])[: len(self.end_probability)]
        grown = self.end_probability >= 1.15 * before
        return np.asarray(grown & (self.end_probability > self.elsewhere_probability))

    @property
    def settled(self) -> Bools:
        """(S,) Whether it is time to have learned something: half of the run, or `SETTLED_STEPS` after the warmup."""
        numbers = np.arange(1, len(self.steps_since_peak) + 1)
        half = numbers * 2 >= self.facts.get("num_steps", np.inf)
        late = (self.steps_since_peak >= SETTLED_STEPS) | (half & (self.steps_since_peak >= WINDOW))
        return np.asarray(late & (numbers >= 2 * WINDOW))

    @property
    def untaught(self) -> bool:
        """Whether the base did not end its turns from the start, as one does that was tuned on conversations before."""
        return not self.first_end_probability >= 0.5

    def smallest_fall(self, errors: float) -> Floats:
        """(S,) How far the loss has fallen at least, as a share of the first, so many standard errors in doubt."""
        return np.asarray((self.fall - errors * self.fall_error) / self.first_loss)

    def largest_fall(self, errors: float) -> Floats:
        """(S,) How far the loss has fallen at most."""
        return np.asarray((self.fall + errors * self.fall_error) / self.first_loss)

    def sum_of_last(self, values: Floats, count: int) -> Floats:
        """(S,) Sums over the last ``count`` steps, fewer at the beginning."""
        sums = np.concatenate([np.zeros(count), np.cumsum(values)])
        return np.asarray(sums[count:] - sums[:-count])


def first_step(holds: Bools) -> int | None:
    """Return the first step, counted from 1, at which something holds."""
    return int(np.argmax(holds)) + 1 if holds.any() else None


def median_update(look: Mapping[str, Any]) -> float | None:
    """Return the median over matrices of the size of the update relative to the weights."""
    return _median(matrix["update"] for matrix in look["matrices"].values())


def weight_growth(course: Course) -> list[tuple[int, float]]:
    """Return, for each look, its step and the median over matrices of their norm relative to the first look."""
    if not course.looks:
        return []
    first = course.looks[0][1]["matrices"]
    growth = []
    for step, look in course.looks:
        ratio = _median(
            matrix["rms"] / first[name]["rms"]
            for name, matrix in look["matrices"].items()
            if matrix["rms"] is not None and name in first and first[name]["rms"]
        )
        growth += [(step, ratio)] if ratio is not None else []
    return growth


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _largest_updates(looks: Sequence[tuple[int, Mapping[str, Any]]], num_steps: int) -> Floats:
    largest = np.full(num_steps, np.nan)
    for step, look in looks:
        update = median_update(look)
        largest[step - 1] = np.nan if update is None else update
    return np.fmax.accumulate(largest) if num_steps else largest


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([np.nan if (value := row.get(name)) is None else value for row in rows], dtype=np.float64)


def _at(values: Floats, step: int) -> float:
    return float(values[step - 1]) if len(values) >= step else float("nan")


def _window_means(values: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard error of the window that ends with each step; half of its values have to be known."""
    mean, error = np.full(len(values), np.nan), np.full(len(values), np.nan)
    if len(values) < WINDOW:
        return mean, error
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW)  # (steps - WINDOW + 1, WINDOW)
    known = np.isfinite(windows)
    count = known.sum(axis=1)
    enough = np.where(count * 2 >= WINDOW, count, np.nan)
    mean[WINDOW - 1 :] = np.where(known, windows, 0.0).sum(axis=1) / enough
    squares = np.where(known, windows - mean[WINDOW - 1 :, None], 0.0) ** 2
    error[WINDOW - 1 :] = np.sqrt(squares.sum(axis=1) / (enough - 1) / enough)
    return mean, error
