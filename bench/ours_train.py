"""genesis-sft's training step on the rows of a specification; bench/train.py and bench/train_gpu.py run it.

    python bench/ours_train.py SPECIFICATION.json ANSWER.json        (see bench/measure.py)

What is under ``ours`` are fields of a recipe's training section, e.g. ``micro_batch_tokens`` and ``attention``.
``"profile": true`` looks at one step more and lists the kernels that took longest.
"""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch
from measure import (
    BETAS,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    StepClock,
    random_llama,
    read_rows,
    read_specification,
    write_answer,
)
from numpy.typing import NDArray

from genesis_sft.batches.collate import Batch
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.mixture.table import TokenTable
from genesis_sft.recipe import TrainingSection
from genesis_sft.training.forward.attention import FLASH_ATTENTION, SEGMENT_ATTENTION, VARLEN_ATTENTION
from genesis_sft.training.forward.compiled import compile_layers
from genesis_sft.training.forward.keep_less import keep_less
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.padding import pad_vocab, train_pad_token
from genesis_sft.training.forward.recompute import recompute_activations
from genesis_sft.training.optimizer import build_optimizer
from genesis_sft.training.processes.parallel import Ranks, Trainable
from genesis_sft.training.step import micro_batches_of_step, train_step

ATTENTION = {"auto": SEGMENT_ATTENTION, "segments": SEGMENT_ATTENTION} | {
    "varlen": VARLEN_ATTENTION,
    "flash": FLASH_ATTENTION,
}
MOST_KERNELS_LISTED = 25


def main() -> None:
    """Train, and write what was measured."""
    specification, out = read_specification()
    device = torch.device(specification["device"])
    ranks = Ranks(0, 1, 1, device)
    section = training_section(specification)
    model = load(specification, section)
    if not section.compile:
        keep_less(model)
    recompute_activations(model, section.activation_checkpointing)
    recompilations = compile_layers(model) if section.compile else None
    trainable = Trainable(Objective(model, end_of_turn=specification.get("end_of_turn")).train(), ranks, section)
    steps = Steps(specification, section, trainable, ranks)
    clock = StepClock(device.type)
    for step in range(specification["steps"]):
        steps.train(step)
        clock.step_ended()
    found: dict[str, Any] = {"data_seconds": steps.data_seconds, "micro_batches": steps.num_micro_batches}
    if recompilations is not None:
        found["graphs_compiled"] = recompilations.graphs
    if specification.get("profile"):
        found["kernels"] = profile(steps, specification["steps"] - 1, device.type)
    write_answer(out, specification, clock, steps.losses[: specification["steps"]], **found)


def training_section(specification: dict[str, Any]) -> TrainingSection:
    """Return the recipe's training section that the specification comes to."""
    rate = specification["learning_rate"]
    fields = {
        "batch": {"sequences": specification["sequences"]},
        "learning_rate": rate,
        "min_learning_rate": rate,
        "weight_decay": WEIGHT_DECAY,
        "betas": BETAS,
        "max_grad_norm": MAX_GRAD_NORM,
        "precision": specification["precision"],
        "device": specification["device"],
    }
    return TrainingSection.model_validate(fields | specification["ours"])


def load(specification: dict[str, Any], section: TrainingSection) -> Any:
    """Return the model, as a run would have it before it is wrapped."""
    attention, device = ATTENTION[section.attention], specification["device"]
    if specification["model"]:
        folder = ModelDir.open(specification["model"])
        model = folder.load_model(dtype="float32", device=device, attention=attention)
    else:
        model = random_llama(specification["shape"], device, attention)
    train_pad_token(model)
    pad_vocab(model, section.pad_vocab_to_multiple_of)
    return model


class Steps:
    """The steps of a run, and what was noted of them.

    Attributes:
        losses: Nats per trained token.
        data_seconds: Time to read and lay out the step's rows.
        num_micro_batches: Forward passes.
    """

    def __init__(
        self, specification: dict[str, Any], section: TrainingSection, trainable: Trainable, ranks: Ranks
    ) -> None:
        self._table = cast(TokenTable, Rows(read_rows(specification)))
        self._size, self._end_of_turn = specification["sequences"], specification.get("end_of_turn")
        self._section, self._trainable, self._ranks = section, trainable, ranks
        self._optimizer = build_optimizer(trainable.module, section)
        self.losses: list[float] = []
        self.data_seconds: list[float] = []
        self.num_micro_batches: list[int] = []

    def train(self, step: int) -> None:
        """Do one step."""
        started = time.perf_counter()
        batches = self._micro_batches(step)
        self.data_seconds.append(time.perf_counter() - started)
        self.num_micro_batches.append(len(batches))
        result = train_step(
            self._trainable, self._optimizer, batches, self._ranks, max_grad_norm=self._section.max_grad_norm
        )
        assert not result.skipped, "the gradient was not finite"
        self.losses.append(result.loss)

    def _micro_batches(self, step: int) -> list[Batch]:
        return micro_batches_of_step(
            range(step * self._size, (step + 1) * self._size),
            self._table,
            self._section.micro_batch_tokens,
            self._ranks,
            end_of_turn=self._end_of_turn,
            pad_to=self._section.pad_to,
        )


class Rows:
    """The examples of a specification, as the program reads them from a token table."""

    def __init__(self, rows: list[dict[str, list[int]]]) -> None:
        self._ids = [np.array(row["input_ids"]) for row in rows]
        self._spans = [spans_of(row["labels"]) for row in rows]

    def num_tokens(self, index: int) -> int:
        """Return the length of an example."""
        return len(self._ids[index])

    def input_ids(self, index: int) -> NDArray[np.int64]:
        """Return the ids of an example."""
        return self._ids[index]

    def trained(self, index: int) -> list[tuple[int, int]]:
        """Return the ``[start, stop)`` positions of its labels."""
        return self._spans[index]


def spans_of(labels: list[int]) -> list[tuple[int, int]]:
    """Return where labels are: ``[-100, 5, 6, -100]`` gives ``[(1, 3)]``."""
    trained = np.array([False, *(label != -100 for label in labels), False])
    edges = np.flatnonzero(trained[1:] != trained[:-1])
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def profile(steps: Steps, step: int, device: str) -> list[dict[str, Any]]:
    """Return the kernels of one more step that took longest: name, calls, milliseconds, share of all kernels' time."""
    on_cuda = device == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA, activity.CPU] if on_cuda else [activity.CPU]) as profiler:
        steps.train(step)
        if on_cuda:
            torch.cuda.synchronize()
    time_of = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    # on a device, an operator carries the time of its kernels too: only the kernels themselves are counted
    events = [event for event in profiler.key_averages() if not on_cuda or event.device_type.name == "CUDA"]
    events.sort(key=lambda event: -getattr(event, time_of))
    total = sum(getattr(event, time_of) for event in events) or 1
    return [
        {
            "name": event.key[:120],
            "calls": event.count,
            "milliseconds": round(getattr(event, time_of) / 1000, 3),
            "share": round(getattr(event, time_of) / total, 4),
        }
        for event in events[:MOST_KERNELS_LISTED]
    ]


if __name__ == "__main__":
    main()
