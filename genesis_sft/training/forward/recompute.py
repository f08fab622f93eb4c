"""Activations that are computed again in the backward pass instead of being kept: memory for time, same gradients."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from genesis_sft.training.processes.parallel import decoder_layers


def recompute_activations(model: nn.Module, kind: Literal["none", "selective", "full"]) -> None:
    """Let the layers of a model compute activations again, in place; parameters keep their names.

    With ``full`` whole layers: what goes into each is kept, and all is computed twice, a third more work (Chen et al.,
    2016, arXiv:1604.06174). With ``selective`` their gated layers only, which keep half of all (see `keep_less`): what
    goes into them is kept, and attention is not computed again. The loss has no part in this: it keeps no logits in the
    first place.

    Args:
        model: Before it is compiled, and before processes share it: what they do around a layer is not repeated.
        kind: See ``training.activation_checkpointing``.
    """
    if kind == "none":
        return
    for layer in decoder_layers(model):
        if kind == "full":
            layer.forward = functools.partial(_recomputed, layer.forward)
            continue
        for gated in (module for module in layer.modules() if hasattr(module, "down_proj")):
            vars(gated)["computed_once"] = gated.forward
            gated.forward = types.MethodType(_gated_again, gated)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, **settings)


def _gated_again(module: Any, x: torch.Tensor) -> Any:
    # a view: the second time, what `keep_less` has noted on a norm's output is not there, and both have to be alike
    return checkpoint(module.computed_once, x.view_as(x), use_reentrant=False)
