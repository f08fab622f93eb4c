"""The training run: base model and token store in, weights and metrics out; goes on where a killed run stopped.

train/
  certificate.json       the proof, on the run's first batch, that loss and gradient are those of the textbook
  metrics.jsonl          one row a step
  events.jsonl           held-out losses, samples, alarms
  weights.safetensors    the tuned weights
  training.json          what the run came to
  checkpoints/           while the run lasts
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from genesis_sft.batches.collate import Batch
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import CheckFailed, Stopped
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import TrainingSection
from genesis_sft.training.optimizer import learning_rate_at, set_learning_rate
from genesis_sft.training.processes.parallel import join_ranks
from genesis_sft.training.processes.preflight import lost_peer
from genesis_sft.training.result import SUMMARY_FILE, WEIGHTS_FILE, TrainingState, summarize
from genesis_sft.training.saving.checkpoints import Checkpoints
from genesis_sft.training.saving.weights import write_weights
from genesis_sft.training.setup import Prepared, make_plan, prepare, say_first
from genesis_sft.training.step import micro_batches_of_step, train_step
from genesis_sft.training.stop import stop_requests
from genesis_sft.training.watching.metrics import METRICS_FILE, count_steps, read_metrics
from genesis_sft.training.watching.monitor import Monitor, Sampler, open_monitor

CHECKPOINTS = "checkpoints"
_MAX_SKIPPED_IN_A_ROW = 10


def train(
    section: TrainingSection,
    base: ModelDir,
    store: TokenStore,
    out: Path,
    *,
    seed: int,
    sampler: Sampler | None = None,
    tracking: Path | None = None,
    name: str = "train",
) -> TrainingState:
    """Fine-tune a base model on a token store.

    Under ``torchrun`` all processes call this; the first one writes.

    Args:
        section: The recipe's training section.
        base: The model to start from.
        store: Its training conversations, as tokens.
        out: Folder to write to; checkpoints found there are gone on from.
        seed: Decides the order of conversations.
        sampler: Answers prompts, for a look at the model while it is trained.
        tracking: Folder for the files of trackers; beside ``out`` when absent.
        name: What the run is called by trackers.

    Raises:
        DataError: The store is too small for a single step.
        ModelError: A conversation is longer than the model's context, or the model is of a kind that is not trained.
        CheckFailed: The certificate does not hold, ten steps in a row had a gradient that is not finite, or another
            process was lost.
        Stopped: It was asked to stop, and has saved.
    """
    try:
        with join_ranks(section) as ranks:
            if ranks.from_first((out / SUMMARY_FILE).exists()):  # killed between the end of training and the manifest
                if ranks.is_first:
                    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
                return TrainingState.open(out)
            plan = make_plan(section, store.train, seed)
            run = prepare(section, plan, base, store, ranks, out, seed=seed)
            return _train(
                run,
                out,
                seed,
                functools.partial(
                    open_monitor, run, out, sampler=sampler, tracking=tracking or out.parent / "tracking", name=name
                ),
            )
    except RuntimeError as error:
        if (lost := lost_peer(error)) is not None:
            raise lost from error
        raise


def _train(
    run: Prepared, out: Path, seed: int, watched: Callable[[int], AbstractContextManager[Monitor]]
) -> TrainingState:
    checkpoints = Checkpoints(
        out / CHECKPOINTS, run.ranks, run.section.checkpoints, timeout_seconds=run.section.timeout_seconds
    )
    logged = count_steps(out / METRICS_FILE)
    done = checkpoints.restore(run.trainable, run.optimizer, resume=run.section.resume, logged_steps=logged)
    with watched(done + 1) as monitor:
        stopping = _run_steps(run, range(done, run.plan.num_steps), seed, checkpoints, monitor)
    checkpoints.wait()
    if run.recompilations is not None:
        say_first(run.ranks, run.recompilations.summary())
    best = checkpoints.restore_best(run.trainable) if run.section.checkpoints.use == "best" else None
    _refuse_ruined_weights(run, read_metrics(out / METRICS_FILE))
    write_weights(run.trainable, out / WEIGHTS_FILE, run.rows)
    state = summarize(
        out,
        vocab_size=run.rows.vocab_size,
        padded_vocab_size=run.rows.padded_vocab_size,
        weights_of_step=best if best != run.plan.num_steps else None,
        alarms=monitor.alarms,
    )
    if run.ranks.is_first:
        state.write()
    run.ranks.barrier()
    checkpoints.remove()
    if stopping:
        raise Stopped("stopped on request after the last step; the weights are written")
    return state


def _run_steps(run: Prepared, steps: range, seed: int, checkpoints: Checkpoints, monitor: Monitor) -> bool:
    """Do the steps; return whether the last one was to be the last anyway, for a stop was asked for."""
    section, skipped_in_a_row, stopping = run.section, 0, False
    started = time.monotonic()
    with stop_requests() as stop:
        for step, batches in _micro_batches(run, steps):
            torch.manual_seed(_seed_of_step(seed, step))
            learning_rate = learning_rate_at(step, run.plan.num_steps, section)
            set_learning_rate(run.optimizer, learning_rate)
            result = train_step(
                run.trainable,
                run.optimizer,
                batches,
                run.ranks,
                max_grad_norm=section.max_grad_norm,
                watch=monitor.health_of(step + 1),
            )
            monitor.step(step + 1, result, learning_rate, time.monotonic() - started)
            skipped_in_a_row = skipped_in_a_row + 1 if result.skipped else 0
            _refuse_endless_skipping(skipped_in_a_row, step + 1)
            held_out_loss = monitor.look_closer(step + 1)
            stopping, failed = (count > 0 for count in run.ranks.sum([stop.is_set(), checkpoints.failed]))
            if failed:
                checkpoints.wait()  # says why
            last = step + 1 == run.plan.num_steps
            due = (step + 1) % section.checkpoints.every_steps == 0
            if last:  # the weights follow at once; they are saved here only to be compared with the best
                due = section.checkpoints.use == "best"
            if due or (stopping and not last):
                monitor.sync()
                checkpoints.save(step + 1, run.trainable, run.optimizer, held_out_loss=held_out_loss)
            if stopping and not last:
                checkpoints.wait()
                raise Stopped(f"stopped on request after step {step + 1} of {run.plan.num_steps}, which is saved")
            started = time.monotonic()  # the next step's time is with waiting for its batches
    return stopping


def _micro_batches(run: Prepared, steps: range) -> Iterator[tuple[int, list[Batch]]]:
    """Yield the forward passes of each step, those of the next one read while this one is computed."""

    def read(step: int) -> list[Batch]:
        return micro_batches_of_step(
            run.plan.examples_of_step(step).tolist(),
            run.store.train,
            run.section.micro_batch_tokens,
            run.ranks,
            end_of_turn=run.end_of_turn,
            pad_to=run.section.pad_to,
        )

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        waiting = [reader.submit(read, step) for step in steps[:1]]
        for step in steps:
            batches = waiting.pop().result()
            waiting = [reader.submit(read, following) for following in steps[step - steps.start + 1 :][:1]]
            yield step, batches


def _seed_of_step(seed: int, step: int) -> int:
    """Return what everything random in a step starts from: a resumed run needs no generator's state."""
    return int.from_bytes(hashlib.sha256(f"step:{seed}:{step}".encode()).digest()[:8], "little") >> 1


def _refuse_endless_skipping(skipped_in_a_row: int, step: int) -> None:
    if skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
        raise CheckFailed(
            f"the gradient of {skipped_in_a_row} steps in a row was not finite (last: step {step})",
            hint="Lower training.learning_rate, or set training.precision to float32.",
        )


def _refuse_ruined_weights(run: Prepared, rows: Sequence[dict[str, Any]]) -> None:
    if rows[-1]["skipped"]:
        raise CheckFailed(
            "the gradient of the last step was not finite: the weights before it are of no use",
            hint="Lower training.learning_rate, or set training.precision to float32.",
        )
    ruined = [name for name, value in run.trainable.objective.named_parameters() if not _is_finite(value)]
    if run.ranks.any(bool(ruined)):
        named = f" (first: {ruined[0].removeprefix('model.')})" if ruined else ""
        raise CheckFailed(
            f"training ended with weights that are not finite{named}",
            hint="Lower training.learning_rate; metrics.jsonl shows where it went wrong.",
        )


def _is_finite(value: torch.Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    local = value.to_local() if isinstance(value, DTensor) else value
    return bool(torch.isfinite(local).all())
