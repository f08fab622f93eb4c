"""Which entries of a checkpoint are the model's weights, told from name, shape and dtype.

A training checkpoint holds far more than the model: with AdamW, two optimizer tensors for each weight, counters, random
states, the step. None of that is read. The names come from torch (``exp_avg`` and the like are the keys of its
optimizers' state) and from what training scripts call the part they save it under.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch

from genesis_sft.checkpoint.tensors.source import StoredTensor

OPTIMIZER, NO_TENSOR, SCALAR, INTEGERS = "optimizer state", "no tensor", "single number", "whole numbers"

_OPTIMIZER_PART = re.compile(r"(\w+_)?optim(izer)?s?(_?states?)?(_?dicts?)?|opt_?states?(_?dicts?)?")
_OPTIMIZER_ROOT = re.compile(r"opt")  # too short a word to be sure of below the top
_OPTIMIZER_LEAVES = frozenset(
    (
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_inf",
        "exp_avg_diff",
        "momentum_buffer",
        "square_avg",
        "acc_delta",
        "grad_avg",
        "param_groups",
        "master_param",
        "master_params",
        "master_weight",
        "master_weights",
        "master_copy",
        "fp32_param",
        "fp32_params",
        "fp32_from_fp16_params",
        "fp32_flat_groups",
        "single_partition_of_fp32_groups",
    )
)


def is_optimizer_state(name: str) -> bool:
    """Say whether an entry belongs to the optimizer, by the parts of its dotted name.

    True for ``"optimizer.state.layers.0.wq.weight.exp_avg"`` and ``"app.optim.param_groups.0.lr"``, False for
    ``"model.layers.0.wq.weight"``.
    """
    parts = name.lower().split(".")
    if _OPTIMIZER_ROOT.fullmatch(parts[0]) and len(parts) > 1:
        return True
    return any(part in _OPTIMIZER_LEAVES or _OPTIMIZER_PART.fullmatch(part) for part in parts)


def why_left_out(name: str, tensor: StoredTensor | None) -> str | None:
    """Return why an entry is not one of the model's weights, or None where it is one; no tensor is None."""
    if is_optimizer_state(name):
        return OPTIMIZER
    if tensor is None:
        return NO_TENSOR
    if not tensor.shape:
        return SCALAR
    real = tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool
    return None if real else INTEGERS  # step counters, random states


def split_entries(
    entries: Iterable[tuple[str, StoredTensor | None]],
) -> tuple[Mapping[str, StoredTensor], Mapping[str, int]]:
    """Return the model's tensors, and how many other entries there are for each reason."""
    tensors: dict[str, StoredTensor] = {}
    left_out: Counter[str] = Counter()
    for name, tensor in entries:
        reason = why_left_out(name, tensor)
        if reason is None and tensor is not None:
            tensors[name] = tensor
        elif reason is not None:
            left_out[reason] += 1
    return MappingProxyType(tensors), MappingProxyType(dict(left_out))
