"""What is seen of a run while it lasts: metrics, held-out losses, samples, health, alarms; on screen and on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from genesis_sft.training.flops import Utilization, step_flops
from genesis_sft.training.held_out import choose_evenly, held_out_losses
from genesis_sft.training.memory import measured_line, peak_memory
from genesis_sft.training.proof.textbook import stock_attention
from genesis_sft.training.setup import Prepared, say_first
from genesis_sft.training.step import StepResult
from genesis_sft.training.watching.alarms import Alarm, find_alarms
from genesis_sft.training.watching.display import Display, training_display
from genesis_sft.training.watching.health import Health, data_facts, row_facts
from genesis_sft.training.watching.metrics import (
    EVENTS_FILE,
    METRICS_FILE,
    EventsLog,
    MetricsLog,
    read_events,
    read_metrics,
)
from genesis_sft.training.watching.trackers import Log, flat_numbers, open_trackers


@dataclass(frozen=True)
class Sample:
    """An answer of the model in training.

    Attributes:
        prompt: What was asked.
        answer: What it wrote.
        ended: Whether it ended its turn.
    """

    prompt: str
    answer: str
    ended: bool


Sampler = Callable[[PreTrainedModel], Sequence[Sample]]


@dataclass(frozen=True)
class _Logs:
    """Where things are written and shown; in the first process only."""

    metrics: MetricsLog
    events: EventsLog
    display: Display
    track: Log


class Monitor:
    """Watches a run. All processes call every method; the first one writes and shows.

    Args:
        run: What is trained.
        first_step: The first step that will be done, from 1.
        earlier: Rows of the steps before.
        facts: What was known before the first of all steps, see `find_alarms`.
        logs: In the first process.
        sampler: Answers prompts, if samples are wanted.
    """

    def __init__(
        self,
        run: Prepared,
        first_step: int,
        earlier: Sequence[dict[str, Any]],
        facts: Mapping[str, Any],
        logs: _Logs | None,
        sampler: Sampler | None,
    ) -> None:
        self._run, self._first_step, self._logs, self._sampler = run, first_step, logs, sampler
        self._rows = list(earlier)
        section = run.section.monitor
        self._health = Health(run.trainable, run.control_ids, run.ranks, every_steps=section.health_every_steps)
        self._facts = facts
        self._held_out = choose_evenly(run.store.held_out, section.held_out_tokens)
        self._utilization = Utilization(
            run.ranks.device, run.section.precision, run.trainable.objective.model.config.hidden_size
        )
        self._alarms: list[Alarm] = []
        self._look_for_alarms(0)

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of the alarms so far; in the first process."""
        return tuple(alarm.name for alarm in self._alarms)

    def health_of(self, step: int) -> Health:
        """Return what looks at the update of a step, counted from 1."""
        self._health.start(step)
        return self._health

    def step(self, step: int, result: StepResult, learning_rate: float, elapsed_seconds: float) -> None:
        """Write and show a step that is done, counted from 1."""
        health = self._health.take()
        if (last := step == self._run.plan.num_steps) or step == self._first_step:
            measured = peak_memory(self._run.ranks.device)
            say_first(self._run.ranks, measured_line(measured, self._run.estimate if last else None))
        if self._logs is None:
            return
        row = _deterministic(step, result, learning_rate) | ({"health": health} if health else {})
        row |= self._speed(step, result, elapsed_seconds)
        self._rows.append(row)
        self._logs.metrics.write(row)
        self._logs.display.step(row)
        self._logs.track(step, flat_numbers(row))
        if health or result.skipped:
            self._look_for_alarms(step)

    def look_closer(self, step: int) -> float | None:
        """Measure the held-out loss and ask for samples where it is time; return the loss, nats per trained token."""
        section, last = self._run.section.monitor, step == self._run.plan.num_steps
        if section.samples_every_steps and (last or step % section.samples_every_steps == 0):
            self._ask_for_samples(step)
        if not (self._held_out and self._held_out_is_due(step)):
            return None
        losses = held_out_losses(
            self._run.trainable,
            self._run.store.held_out,
            self._held_out,
            self._run.section.micro_batch_tokens,
            self._run.ranks,
        )
        loss = losses.pop("")
        if self._logs is not None:
            self._logs.events.write(step, "held_out", loss=loss, sources=losses)
            self._logs.display.held_out(step, loss, losses)
            self._logs.track(step, flat_numbers({"held_out": {"all": loss, **losses}}))
        return loss if math.isfinite(loss) else None

    def sync(self) -> None:
        """See onto the disk what was written: a checkpoint without its metrics is of no use."""
        if self._logs is not None:
            self._logs.metrics.sync()
            self._logs.events.sync()

    def _held_out_is_due(self, step: int) -> bool:
        every, checkpoints = self._run.section.monitor.held_out_every_steps, self._run.section.checkpoints
        compared = checkpoints.use == "best" and step % checkpoints.every_steps == 0
        return every is not None and (compared or step % every == 0 or step == self._run.plan.num_steps)

    def _ask_for_samples(self, step: int) -> None:
        if self._logs is None or self._sampler is None or self._run.trainable.kind in ("fsdp", "hybrid"):
            return
        model = self._run.trainable.objective.model
        model.eval()
        # decoding has shapes of its own, which would all be compiled
        stance = torch.compiler.set_stance("force_eager") if self._run.recompilations else nullcontext()
        with stock_attention(model), stance:
            samples = self._sampler(model)
        model.train()
        for sample in samples:
            self._logs.events.write(step, "sample", prompt=sample.prompt, answer=sample.answer, ended=sample.ended)
            self._logs.display.sample(step, sample.prompt, sample.answer, sample.ended)

    def _look_for_alarms(self, step: int) -> None:
        if self._logs is None:
            return
        known = self.alarms
        self._alarms = find_alarms(self._rows, self._facts)
        for alarm in self._alarms:
            if alarm.name not in known:
                self._logs.events.write(alarm.step, "alarm", name=alarm.name, message=alarm.message)
                if alarm.step >= step:  # the others were shown before the run was interrupted
                    self._logs.display.alarm(f"step {alarm.step}: {alarm.message}")

    def _speed(self, step: int, result: StepResult, elapsed_seconds: float) -> dict[str, Any]:
        lengths = self._run.store.train.num_tokens_per_row[self._run.plan.examples_of_step(step - 1)]
        flops = step_flops(self._run.trainable.objective.model, lengths.tolist())
        return {
            "elapsed_seconds": round(elapsed_seconds, 3),
            "tokens_per_second": round(result.num_tokens / elapsed_seconds, 1),
            "mfu": self._utilization.of_step(flops, elapsed_seconds, self._run.ranks.world_size),
            "memory_bytes": peak_memory(self._run.ranks.device),
        }


@contextmanager
def open_monitor(
    run: Prepared, out: Path, first_step: int, sampler: Sampler | None, tracking: Path, name: str
) -> Iterator[Monitor]:
    """Watch a run while the block lasts.

    Args:
        run: What is trained.
        out: Folder of the run's training.
        first_step: The first step that will be done, from 1; rows of it and later ones, left by a kill, are dropped.
        sampler: Answers prompts, if samples are wanted.
        tracking: Folder for trackers' own files.
        name: What the run is called by trackers.
    """
    earlier = [row for row in read_metrics(out / METRICS_FILE) if row["step"] < first_step]
    facts = row_facts(run.trainable.objective.model, run.control_ids)  # all processes, where weights are cut
    if not run.ranks.is_first:
        yield Monitor(run, first_step, earlier, facts, None, sampler)
        return
    known = read_events(out / EVENTS_FILE, "facts") if first_step > 1 else []
    facts = known[-1]["facts"] if known else facts | data_facts(run.store.train, run.end_of_turn)
    facts |= {"num_steps": run.plan.num_steps}
    tokens = [
        int(run.store.train.num_tokens_per_row[run.plan.examples_of_step(step)].sum())
        for step in range(run.plan.num_steps)
    ]
    settings = run.section.model_dump(mode="json")
    with ExitStack() as stack:
        track = stack.enter_context(
            open_trackers(run.section.monitor.trackers, tracking, name, settings, first_step=first_step)
        )
        metrics = stack.enter_context(MetricsLog(out / METRICS_FILE, first_step))
        events = stack.enter_context(EventsLog(out / EVENTS_FILE, first_step))
        display = stack.enter_context(
            training_display(run.plan.num_steps, sum(tokens), sum(tokens[: first_step - 1]), earlier=earlier)
        )
        events.write(0, "plan", num_steps=run.plan.num_steps)
        events.write(0, "facts", facts=facts)
        yield Monitor(run, first_step, earlier, facts, _Logs(metrics, events, display, track), sampler)


def _deterministic(step: int, result: StepResult, learning_rate: float) -> dict[str, Any]:
    """What is the same, bit for bit, however often the run was interrupted."""
    return {
        "step": step,
        "loss": _finite(result.loss),
        "learning_rate": learning_rate,
        "grad_norm": _finite(result.grad_norm),
        "tokens": result.num_tokens,
        "trained_tokens": result.num_trained,
        "skipped": result.skipped,
        "end_probability": result.end_probability,
        "end_rank": result.end_rank,
        "elsewhere_probability": result.elsewhere_probability,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
