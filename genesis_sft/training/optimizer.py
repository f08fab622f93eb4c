"""AdamW with decay on matrices only, and a cosine schedule with linear warmup."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from genesis_sft.recipe import TrainingSection


def build_optimizer(parameters: Iterable[torch.nn.Parameter], section: TrainingSection) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) over all trainable parameters.

    Matrices decay; vectors (norm weights, biases) do not. Fused kernels are used on CUDA, where they are exact too.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_cuda = any(parameter.is_cuda for parameter in trainable)
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, fused=on_cuda)


def learning_rate_at(step: int, num_steps: int, section: TrainingSection) -> float:
    """Return the learning rate of a step, counted from 0.

    Linear from ``learning_rate / warmup_steps`` to ``learning_rate`` over the warmup, then half a cosine (Loshchilov
    and Hutter, 2017, arXiv:1608.03983) down to ``min_learning_rate``, reached at the last step.
    """
    peak, floor, warmup = section.learning_rate, section.min_learning_rate, section.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    decay_steps = num_steps - 1 - warmup
    progress = (step - warmup) / decay_steps if decay_steps > 0 else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
