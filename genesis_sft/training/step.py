"""One optimizer step, as a paragraph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch
from genesis_sft.training.loss import token_losses


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Attributes:
        loss: Nats per trained token over the whole step, before the update.
        grad_norm: Norm of the gradient before clipping.
        num_tokens: Tokens in the step.
        num_trained: Trained tokens in the step.
        skipped: The gradient was not finite and the weights were left as they were.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    num_trained: int
    skipped: bool


def train_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    *,
    max_grad_norm: float,
    autocast_dtype: torch.dtype | None = None,
) -> StepResult:
    """Update the weights once: loss = sum over all trained tokens of the step / their number.

    The number is known before the first forward pass, so micro-batches of unequal size weigh their tokens equally.

    Args:
        model: The model, in training mode.
        optimizer: Its learning rate is set by the caller.
        micro_batches: The step's conversations, cut into forward passes.
        max_grad_norm: Gradients are scaled down to this norm.
        autocast_dtype: Compute in this data type; float32 throughout when absent.
    """
    num_trained = sum(batch.num_trained for batch in micro_batches)
    assert num_trained > 0, "a step without a trained token"
    optimizer.zero_grad(set_to_none=True)
    loss_sum = 0.0
    for batch in micro_batches:
        with _autocast(batch.input_ids.device, autocast_dtype):
            losses = token_losses(model, batch)
        (losses.sum() / num_trained).backward()
        loss_sum += float(losses.detach().double().sum())
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    skipped = not (math.isfinite(grad_norm) and math.isfinite(loss_sum))
    if not skipped:
        optimizer.step()
    return StepResult(
        loss=loss_sum / num_trained,
        grad_norm=grad_norm,
        num_tokens=sum(batch.num_tokens for batch in micro_batches),
        num_trained=num_trained,
        skipped=skipped,
    )


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
