"""AdamW in stated groups, and the course of its learning rate: warmup, then cosine, linear or stable and decay."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from genesis_sft.errors import InputError
from genesis_sft.recipe import TrainingSection
from genesis_sft.training.forward.objective import Objective


def freeze_embeddings(module: nn.Module, section: TrainingSection) -> None:
    """Take embedding and output head out of training where the recipe says so; before processes share the model.

    Args:
        module: The objective, or its model.
        section: The recipe's training section; ``embeddings.train`` decides.
    """
    if not section.embeddings.train:
        for parameter in _embedding_parameters(module):
            parameter.requires_grad_(False)


def build_optimizer(module: nn.Module, section: TrainingSection) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101) over all trainable parameters.

    Matrices decay; vectors (norm weights, biases) do not. Embedding and output head are groups of their own, with a
    learning rate of their own where the recipe gives one. Each group holds, besides AdamW's own settings,
    ``rate_factor``, its learning rate in units of the recipe's, and ``embeddings``, whether it is theirs.

    Args:
        module: The objective, as it is or wrapped: ``Trainable.module``.
        section: The recipe's training section.

    Raises:
        InputError: ``optimizer: adamw_8bit`` without torchao, or not on CUDA.
    """
    groups = _groups(module, section)
    if section.optimizer == "adamw_8bit":
        return _adamw_8bit(groups, section)
    # Fused on CPU as on CUDA: no copies of gradients, and the same weights whatever the number of threads; they differ
    # from the unfused ones in the last bit, and are no further from float64
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, fused=True)


def describe_groups(optimizer: torch.optim.Optimizer) -> list[str]:
    """Return a line on each group: what is in it, how it decays, and its highest learning rate.

    Example:
        ``"embedding and output head, matrices: 1 tensor, 28,311,552 parameters, weight decay 0.01, learning rate up to
        2e-05"``
    """
    return [_describe(group, optimizer.defaults["lr"]) for group in optimizer.param_groups]


def learning_rate_at(step: int, num_steps: int, section: TrainingSection) -> float:
    """Return the learning rate of a step, counted from 0.

    Linear from ``learning_rate / warmup_steps`` to ``learning_rate`` over the warmup, then down to
    ``min_learning_rate``, reached at the last step: by half a cosine (Loshchilov and Hutter, 2017, arXiv:1608.03983), a
    line, or for ``wsd`` (Hu et al., 2024, arXiv:2404.06395) not at all until the last ``decay_fraction`` of all steps,
    which are a line.
    """
    peak, floor, warmup = section.learning_rate, section.min_learning_rate, section.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    top = warmup  # the last step at the peak
    if section.schedule == "wsd":
        top = max(warmup, num_steps - 1 - max(1, round(section.decay_fraction * num_steps)))
    decay_steps = num_steps - 1 - top
    # the only step after a warmup is the last one; the only step of all is to train something
    only = 1.0 if warmup else 0.0
    progress = min(1.0, max(0, step - top) / decay_steps) if decay_steps > 0 else only
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if section.schedule == "cosine" else 1.0 - progress
    return floor + (peak - floor) * shape


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all groups, each in proportion to its own.

    Args:
        optimizer: Built by `build_optimizer`.
        learning_rate: Of groups that have none of their own.
    """
    for group in optimizer.param_groups:
        rate = learning_rate * group["rate_factor"]
        if isinstance(group["lr"], torch.Tensor):  # torchao compiles its step and wants the number in place
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _groups(module: nn.Module, section: TrainingSection) -> list[dict[str, Any]]:
    """Return the groups that have parameters; a tied head is one matrix with the embedding."""
    theirs = {id(parameter) for parameter in _embedding_parameters(module)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    own_rate = section.embeddings.learning_rate
    found = []
    for embeddings, matrices in itertools.product((True, False), repeat=2):
        chosen = [p for p in trainable if (id(p) in theirs) == embeddings and (p.ndim >= 2) == matrices]
        factor = own_rate / section.learning_rate if embeddings and own_rate is not None else 1.0
        if chosen:
            found.append(
                {
                    "params": chosen,
                    "lr": section.learning_rate * factor,
                    "weight_decay": section.weight_decay if matrices else 0.0,
                    "rate_factor": factor,
                    "embeddings": embeddings,
                }
            )
    return found


def _embedding_parameters(module: nn.Module) -> Iterable[nn.Parameter]:
    """Embedding and output head of a model or an objective, wrapped or not; a tied matrix comes twice."""
    inner = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
    model = cast("PreTrainedModel", inner.model if isinstance(inner, Objective) else inner)
    return itertools.chain(model.get_input_embeddings().parameters(), model.get_output_embeddings().parameters())


def _adamw_8bit(groups: list[dict[str, Any]], section: TrainingSection) -> torch.optim.Optimizer:
    """Return torchao's AdamW, whose two states are kept in 8 bits, scaled in blocks of 256.

    The method is that of Dettmers et al. (2022, arXiv:2110.02861). torchao rather than bitsandbytes: its states can be
    cut over processes (DTensor), so FSDP2 and checkpoints work with them; bitsandbytes' kernels fail on such parameters
    (bitsandbytes issue 1633).
    """
    if importlib.util.find_spec("torchao") is None:
        raise InputError(
            "expected the package torchao for training.optimizer: adamw_8bit; it is not installed",
            hint="Install it with: pip install 'genesis-sft[8bit]'",
        )
    device = groups[0]["params"][0].device.type
    if device != "cuda":
        raise InputError(
            f"expected a CUDA device for training.optimizer: adamw_8bit; found {device}",
            hint="Set training.optimizer to adamw.",
        )
    return _torchao_adamw(groups, section)


def _torchao_adamw(groups: list[dict[str, Any]], section: TrainingSection) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=section.learning_rate, betas=section.betas)
    return optimizer


def _describe(group: dict[str, Any], learning_rate: float) -> str:
    parameters = group["params"]
    owner = "embedding and output head" if group["embeddings"] else "everything else"
    kind = "matrices" if parameters[0].ndim >= 2 else "vectors"
    tensors = f"{len(parameters)} tensor{'s' if len(parameters) > 1 else ''}"
    decay = f"weight decay {group['weight_decay']:g}" if group["weight_decay"] else "no weight decay"
    return (
        f"{owner}, {kind}: {tensors}, {sum(p.numel() for p in parameters):,} parameters, {decay}, "
        f"learning rate up to {learning_rate * group['rate_factor']:g}"
    )
