"""The training run: base model and token store in, weights and metrics out; goes on where a killed run stopped.

train/
  weights.safetensors    the tuned weights, float32
  metrics.jsonl          one row a step
  training.json          what the run came to
  checkpoints/           while the run lasts
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.batches.order import StepPlan
from genesis_sft.batches.packing import pack
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import progress
from genesis_sft.errors import CheckFailed, DataError, InputError, ModelError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.table import TokenTable
from genesis_sft.recipe import TrainingSection
from genesis_sft.run_dir import write_json
from genesis_sft.training.attention import SEGMENT_ATTENTION
from genesis_sft.training.metrics import METRICS_FILE, MetricsLog, count_steps, read_metrics
from genesis_sft.training.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from genesis_sft.training.padding import VocabRows, pad_vocab, remove_padding
from genesis_sft.training.state import Checkpoints, save_weights
from genesis_sft.training.step import train_step

WEIGHTS_FILE = "weights.safetensors"
_SUMMARY_FILE = "training.json"
_MAX_SKIPPED_IN_A_ROW = 10
_SMOOTHING = 0.9


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

    @classmethod
    def open(cls, folder: Path) -> TrainingState:
        """Read a finished run."""
        return cls(folder=folder, **json.loads((folder / _SUMMARY_FILE).read_text(encoding="utf-8")))

    def summary(self) -> str:
        """Return the plain line of result."""
        skipped = f", {self.skipped_steps} steps skipped" if self.skipped_steps else ""
        return (
            f"{self.num_steps} steps, {self.num_tokens:,} tokens ({self.num_trained:,} trained), "
            f"loss {self.first_loss:.3f} -> {self.last_loss:.3f}{skipped}"
        )

    @property
    def weights(self) -> Path:
        """The tuned weights."""
        return self.folder / WEIGHTS_FILE

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``."""
        return read_metrics(self.folder / METRICS_FILE)


def train(section: TrainingSection, base: ModelDir, store: TokenStore, out: Path, *, seed: int) -> TrainingState:
    """Fine-tune a base model on a token store.

    Args:
        section: The recipe's training section.
        base: The model to start from.
        store: Its training conversations, as tokens.
        out: Folder to write to; checkpoints found there are gone on from.
        seed: Decides the order of conversations.

    Raises:
        DataError: The store is too small for a single step.
        ModelError: A conversation is longer than the model's context, or the model cannot be padded.
        CheckFailed: Ten steps in a row had a gradient that is not finite.
    """
    if (out / _SUMMARY_FILE).exists():  # killed between the end of training and the stage's manifest
        return TrainingState.open(out)
    plan = StepPlan(
        len(store.train), section.batch.sequences, section.epochs, section.drop_last, section.max_steps, seed
    )
    device = _device(section)
    _check_plan(plan, section)
    model = base.load_model(dtype="float32", device=device.type, attention=SEGMENT_ATTENTION).train()
    for table in (store.train, store.held_out):
        _check_lengths(table, model)
    rows = pad_vocab(model, section.pad_vocab_to_multiple_of)
    optimizer = build_optimizer(model.parameters(), section)
    checkpoints = Checkpoints(out / "checkpoints")
    first_step = checkpoints.restore(model, optimizer, logged_steps=count_steps(out / METRICS_FILE))
    _run_steps(plan, range(first_step, plan.num_steps), section, store.train, model, optimizer, checkpoints, out)
    _refuse_ruined_weights(model, read_metrics(out / METRICS_FILE))
    remove_padding(model, rows)
    save_weights(model, out / WEIGHTS_FILE)
    state = _summarize(out, rows)
    write_json(out / _SUMMARY_FILE, {name: value for name, value in asdict(state).items() if name != "folder"})
    checkpoints.remove()
    return state


def micro_batches_of_step(
    plan: StepPlan, step: int, table: TokenTable, micro_batch_tokens: int, device: torch.device
) -> list[Batch]:
    """Return the conversations of a step, laid out in forward passes."""
    indices = plan.examples_of_step(step)
    groups = pack([table.num_tokens(int(index)) for index in indices], micro_batch_tokens)
    return [
        collate([(table.input_ids(int(indices[i])), table.trained(int(indices[i]))) for i in group]).to(device)
        for group in groups
    ]


def _run_steps(
    plan: StepPlan,
    steps: range,
    section: TrainingSection,
    table: TokenTable,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    out: Path,
) -> None:
    device = next(model.parameters()).device
    autocast_dtype = torch.bfloat16 if section.precision == "bfloat16" else None
    tokens_before, tokens_all = _count_tokens(plan, table, steps.start), _count_tokens(plan, table, plan.num_steps)
    smoothed, skipped_in_a_row = 0.0, 0
    with (
        MetricsLog(out / METRICS_FILE, first_step=steps.start + 1) as log,
        progress("training", tokens_all, "tokens", done=tokens_before) as bar,
        _stop_requests() as stop,
    ):
        for step in steps:
            started = time.monotonic()
            learning_rate = learning_rate_at(step, plan.num_steps, section)
            set_learning_rate(optimizer, learning_rate)
            batches = micro_batches_of_step(plan, step, table, section.micro_batch_tokens, device)
            result = train_step(
                model, optimizer, batches, max_grad_norm=section.max_grad_norm, autocast_dtype=autocast_dtype
            )
            elapsed_seconds = time.monotonic() - started
            log.write(
                {
                    "step": step + 1,
                    "loss": result.loss if math.isfinite(result.loss) else None,
                    "learning_rate": learning_rate,
                    "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
                    "tokens": result.num_tokens,
                    "trained_tokens": result.num_trained,
                    "skipped": result.skipped,
                    "elapsed_seconds": round(elapsed_seconds, 3),
                }
            )
            skipped_in_a_row = skipped_in_a_row + 1 if result.skipped else 0
            if skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
                raise CheckFailed(
                    f"the gradient of {skipped_in_a_row} steps in a row was not finite (last: step {step + 1})",
                    hint="Lower training.learning_rate, or set training.precision to float32.",
                )
            if not result.skipped:
                smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * result.loss if smoothed else result.loss
            rate = result.num_tokens / elapsed_seconds
            bar.advance(
                result.num_tokens, f"step {step + 1}/{plan.num_steps}  loss {smoothed:.3f}  {rate:.0f} tokens/s"
            )
            if stop.is_set() or ((step + 1) % section.checkpoint_every_steps == 0 and step + 1 < plan.num_steps):
                checkpoints.save(step + 1, model, optimizer)
            if stop.is_set():
                raise KeyboardInterrupt


def _refuse_ruined_weights(model: PreTrainedModel, rows: list[dict[str, Any]]) -> None:
    if rows[-1]["skipped"]:
        raise CheckFailed(
            "the gradient of the last step was not finite: the weights before it are of no use",
            hint="Lower training.learning_rate, or set training.precision to float32.",
        )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckFailed(
                f"training ended with weights that are not finite (first: {name})",
                hint="Lower training.learning_rate; metrics.jsonl shows where it went wrong.",
            )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that the step is finished and saved; the second interrupts."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number: int, frame: object) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _count_tokens(plan: StepPlan, table: TokenTable, num_steps: int) -> int:
    """Tokens in the first ``num_steps`` steps."""
    return sum(int(table.num_tokens_per_row[plan.examples_of_step(step)].sum()) for step in range(num_steps))


def _device(section: TrainingSection) -> torch.device:
    if section.device == "cuda" and not torch.cuda.is_available():
        raise InputError("expected a CUDA device (training.device is cuda); PyTorch finds none", hint="Set it to auto.")
    if section.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(section.device)


def _check_plan(plan: StepPlan, section: TrainingSection) -> None:
    if plan.num_steps == 0:
        raise DataError(
            f"expected at least {plan.sequences} conversations for one step, found {plan.num_examples}",
            hint="Lower training.batch.sequences or set training.drop_last to false.",
        )
    if section.warmup_steps >= plan.num_steps:
        raise DataError(
            f"the run has {plan.num_steps} steps, all of them warmup (training.warmup_steps is {section.warmup_steps})",
            hint="Lower training.warmup_steps, or train on more data.",
        )


def _check_lengths(table: TokenTable, model: PreTrainedModel) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = int(table.num_tokens_per_row.max(initial=0))
    if context is not None and longest > context:
        raise ModelError(
            f"the longest conversation has {longest} tokens, the model's context is {context}",
            hint=f"Set tokens.max_length to {context} or less.",
        )


def _summarize(folder: Path, vocab: VocabRows) -> TrainingState:
    rows = read_metrics(folder / METRICS_FILE)
    tenth = max(1, len(rows) // 10)

    def mean_loss(part: list[dict[str, Any]]) -> float:
        done = [row for row in part if row["loss"] is not None]
        trained = sum(row["trained_tokens"] for row in done)
        return float(sum(row["loss"] * row["trained_tokens"] for row in done) / trained) if trained else math.nan

    return TrainingState(
        folder=folder,
        num_steps=len(rows),
        num_tokens=sum(row["tokens"] for row in rows),
        num_trained=sum(row["trained_tokens"] for row in rows),
        first_loss=mean_loss(rows[:tenth]),
        last_loss=mean_loss(rows[-tenth:]),
        skipped_steps=sum(row["skipped"] for row in rows),
        vocab_size=vocab.vocab_size,
        padded_vocab_size=vocab.padded_vocab_size,
    )
