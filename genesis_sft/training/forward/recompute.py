"""Activations that are computed again in the backward pass instead of being kept: memory for time, same gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from genesis_sft.training.processes.parallel import decoder_layers

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear")
_ATTENTION = ("attention", "attn")


def recompute_activations(model: nn.Module, kind: Literal["none", "selective", "full"]) -> None:
    """Let the layers of a model compute activations again, in place; parameters keep their names.

    Each layer is a unit: what goes into it is kept, and with ``selective`` the results of its matrix products and of
    its attention, which are nearly all of its work; norms, rotations and products of numbers cost little to repeat.
    With ``full`` the whole layer is computed twice: a third more work (Chen et al., 2016, arXiv:1604.06174). The loss
    has no part in this: it keeps no logits in the first place.

    Args:
        model: Before it is compiled, and before processes share it: what they do around a layer is not repeated.
        kind: See ``training.activation_checkpointing``.
    """
    if kind == "none":
        return
    contexts = {"context_fn": _selective_contexts} if kind == "selective" else {}
    for layer in decoder_layers(model):
        layer.forward = functools.partial(_recomputed, layer.forward, contexts)


def _recomputed(forward: Callable[..., Any], contexts: dict[str, Any], *inputs: Any, **settings: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, **contexts, **settings)


def _selective_contexts() -> Any:
    return create_selective_checkpoint_contexts(_keep_products)


def _keep_products(
    context: SelectiveCheckpointContext, operator: torch._ops.OpOverload, *_: Any, **__: Any
) -> CheckpointPolicy:
    name = operator.name().split(".")[0]
    keeps = name in _PRODUCTS or any(part in name for part in _ATTENTION)
    return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE
