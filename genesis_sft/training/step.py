"""One optimizer step, as a paragraph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.batches.layout import lay_out
from genesis_sft.mixture.table import TokenTable
from genesis_sft.training.forward.objective import END_SUMS
from genesis_sft.training.processes.parallel import Ranks, Trainable


@dataclass(frozen=True)
class StepResult:
    """What a step reports, summed over all processes.

    Attributes:
        loss: Nats per trained token over the whole step, before the update.
        grad_norm: Norm of the gradient before clipping.
        num_tokens: Tokens in the step, without padding.
        num_trained: Trained tokens in the step.
        skipped: The gradient was not finite and the weights were left as they were.
        end_probability: Mean probability of the end of a turn where an assistant's turn ends; None where none was seen.
        end_rank: Its mean rank there among all tokens, from 1.
        elsewhere_probability: Its mean probability at trained tokens that end no turn.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    num_trained: int
    skipped: bool
    end_probability: float | None = None
    end_rank: float | None = None
    elsewhere_probability: float | None = None


def micro_batches_of_step(
    indices: Sequence[int],
    table: TokenTable,
    max_tokens: int,
    ranks: Ranks,
    *,
    end_of_turn: int | None = None,
    pad_to: int | None = None,
) -> list[Batch]:
    """Return this process's forward passes of a step; all processes have the same number of them.

    Args:
        indices: The conversations of the whole step.
        table: Holds them.
        max_tokens: Budget of a forward pass.
        ranks: The processes.
        end_of_turn: See `collate`.
        pad_to: See `collate`; padding counts towards the budget.
    """
    lengths = [max(table.num_tokens(int(index)), pad_to or 0) for index in indices]
    return [
        collate(
            [(table.input_ids(int(indices[i])), table.trained(int(indices[i]))) for i in group],
            end_of_turn=end_of_turn,
            pad_to=pad_to,
        )
        for group in lay_out(lengths, max_tokens, ranks.world_size)[ranks.rank]
    ]


@dataclass(frozen=True)
class Sums:
    """What the backward passes of a step came to, over all processes.

    Attributes:
        loss: Nats of all trained tokens together.
        num_tokens: Tokens, without padding.
        num_trained: Trained tokens.
        ends: As `END_SUMS` names them.
    """

    loss: float
    num_tokens: int
    num_trained: int
    ends: tuple[float, ...]


def accumulate_gradients(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> Sums:
    """Add the gradient of the step's loss to the parameters: sum over all trained tokens of the step / their number.

    The number is that of all processes and micro-batches, known before the first forward pass, so that every token
    weighs the same however the step is cut.

    Args:
        trainable: The wrapped model.
        micro_batches: This process's forward passes.
        ranks: The processes.
    """
    num_trained = int(ranks.sum([sum(batch.num_trained for batch in micro_batches)])[0])
    assert num_trained > 0, "a step without a trained token"
    loss_sum, ends = torch.zeros((), dtype=torch.float64), torch.zeros(len(END_SUMS), dtype=torch.float64)
    for number, batch in enumerate(micro_batches, 1):
        on_device = batch.to(ranks.device)
        with trainable.exchanging(last=number == len(micro_batches)):
            loss, losses, seen = trainable(on_device, 1.0 / num_trained)
            loss.backward()
        loss_sum = loss_sum.to(ranks.device) + losses.double().sum()
        ends = ends.to(ranks.device) + seen
    sums = ranks.sum([*torch.cat([loss_sum[None], ends]).tolist(), sum(batch.num_tokens for batch in micro_batches)])
    return Sums(loss=sums[0], num_tokens=int(sums[-1]), num_trained=num_trained, ends=tuple(sums[1:-1]))


class UpdateWatch(Protocol):
    """Looks at an update from both sides; all processes call it."""

    def before_update(self) -> None:
        """Gradients are there, clipped."""

    def after_update(self) -> None:
        """Weights have changed; gradients are still there."""


def train_step(
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    ranks: Ranks,
    *,
    max_grad_norm: float,
    watch: UpdateWatch | None = None,
) -> StepResult:
    """Update the weights once.

    Args:
        trainable: The wrapped model, in training mode.
        optimizer: Its learning rate is set by the caller.
        micro_batches: This process's forward passes.
        ranks: The processes.
        max_grad_norm: Gradients are scaled down to this norm.
        watch: Looks at gradients before the update, and at weights after it.
    """
    trainable.clear_gradients()
    sums = accumulate_gradients(trainable, micro_batches, ranks)
    grad_norm = trainable.clip(max_grad_norm)
    skipped = not (math.isfinite(grad_norm) and math.isfinite(sums.loss))
    if not skipped:
        if watch is not None:
            watch.before_update()
        optimizer.step()
        if watch is not None:
            watch.after_update()
    ends = dict(zip(END_SUMS, sums.ends, strict=True))

    def mean(name: str, count: str) -> float | None:
        return ends[name] / ends[count] if ends[count] and math.isfinite(ends[name]) else None

    return StepResult(
        loss=sums.loss / sums.num_trained,
        grad_norm=grad_norm,
        num_tokens=sums.num_tokens,
        num_trained=sums.num_trained,
        skipped=skipped,
        end_probability=mean("end_probability", "num_ends"),
        end_rank=mean("end_rank", "num_ends"),
        elsewhere_probability=mean("elsewhere_probability", "num_elsewhere"),
    )
