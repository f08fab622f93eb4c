"""``torch.compile`` for the layers, so that batches of ever new shapes are served by a few graphs, which are counted.

All layers share one graph, in which the number of tokens is a symbol. What would make a new graph for nearly every
batch is the list of where conversations start: its length and its numbers are constants to the compiler. So it enters
as a tensor, which the kernels of ``attention.py`` read; the reference kernel is hidden in an operator.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from genesis_sft.errors import InputError, ModelError
from genesis_sft.training.forward.attention import KERNELS, SEGMENT_ATTENTION, attend_by_segment, same_dtype
from genesis_sft.training.processes.parallel import decoder_layers

_SUFFIX = "_compiled"


@dataclass(frozen=True)
class Recompilations:
    """Graphs that were made since the layers were handed to the compiler.

    Attributes:
        _before: Graphs that had been made when counting began.
    """

    _before: int

    @property
    def graphs(self) -> int:
        """How many graphs there are: one for training, one each for evaluation, batches of a single token, ..."""
        return _graphs_so_far() - self._before

    def summary(self) -> str:
        """Return the plain line of result."""
        return f"{self.graphs} graph{'s' if self.graphs != 1 else ''} compiled"


def compile_layers(model: PreTrainedModel) -> Recompilations:
    """Compile the layers of a model, in place; the first batches take the compiler's time, up to minutes.

    After `recompute_activations`, which the compiler then sees, and before processes share the model. Parameters keep
    their names.

    Args:
        model: With the attention kernel that it is to be trained with.

    Raises:
        InputError: There is no compiler.
        ModelError: The model drops attention weights at random, which compiled kernels do not.
    """
    _require_compiler(next(model.parameters()).device)
    if getattr(model.config, "attention_dropout", 0.0):
        raise ModelError(
            f"expected a model without attention dropout to compile; found {model.config.attention_dropout}",
            hint="Set training.compile to false.",
        )
    _read_starts_from_tensor(model)
    for layer in decoder_layers(model):
        # the call within the module's hooks: those of FSDP stay outside of the graph
        layer.forward = torch.compile(layer.forward, dynamic=True)
    return Recompilations(_graphs_so_far())


def _graphs_so_far() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _require_compiler(device: torch.device) -> None:
    with warnings.catch_warnings():
        # the compiler imports this module, which warns of its own future
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch.utils.mkldnn  # noqa: F401
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise InputError(
                "expected the package triton for training.compile; it is not installed",
                hint="Install it with: pip install triton; or set training.compile to false.",
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError(
            "expected a C++ compiler for training.compile; found none",
            hint="Install g++, or set training.compile to false.",
        ) from error


def _read_starts_from_tensor(model: PreTrainedModel) -> None:
    """Give the model the form of its kernel that reads where conversations start from a tensor, and that tensor."""
    name = model.config._attn_implementation
    kernel = _segments if name == SEGMENT_ATTENTION else KERNELS[name]  # the others read a tensor as they are
    KERNELS[name + _SUFFIX] = kernel
    AttentionInterface.register(name + _SUFFIX, kernel)
    AttentionMaskInterface.register(name + _SUFFIX, lambda *_, **__: None)
    model.set_attn_implementation(name + _SUFFIX)
    # the reference kernel loops over conversations: it wants the numbers where Python is
    on_device = name != SEGMENT_ATTENTION
    model.get_decoder().register_forward_pre_hook(_Offsets(on_device), with_kwargs=True)


@dataclass(frozen=True)
class _Offsets:
    """A hook before the decoder: ``segment_starts`` becomes a tensor, with the length of the longest beside it."""

    on_device: bool

    def __call__(self, decoder: nn.Module, inputs: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        starts = settings.get("segment_starts")
        if not isinstance(starts, tuple):  # text is generated with other attention
            return inputs, settings
        offsets = torch.tensor(starts, dtype=torch.int32)
        longest = int(offsets.diff().max())
        if self.on_device:
            offsets = offsets.to(settings["input_ids"].device)
        return inputs, {**settings, "segment_starts": offsets, "longest_segment": longest}


def _segments(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_starts: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """See `genesis_sft.training.forward.attention`; here as everywhere below with (S + 1,) int32 ``segment_starts``."""
    q, k, v = same_dtype(query, key, value)
    return _attend(q, k, v, segment_starts, scaling or query.shape[-1] ** -0.5), None


@torch.library.custom_op("genesis_sft::segment_attention", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The reference kernel, as one operator that the compiler does not look into."""
    return _plain(query, key, value, starts, scaling).contiguous()


@torch.library.custom_op("genesis_sft::segment_attention_backward", mutates_args=())
def _attend_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Its gradient, by way of a second forward pass."""
    # vjp, as autograd is out of reach within an operator
    pull_back: Any = torch.func.vjp(lambda q, k, v: _plain(q, k, v, starts, scaling), query, key, value)[1]
    q, k, v = (part.contiguous() for part in pull_back(grad))
    return q, k, v


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, scaling: float
) -> torch.Tensor:
    return attend_by_segment(query, key, value, tuple(starts.tolist()), scaling)


@_attend.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, scaling: float) -> Any:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])


@_attend_backward.register_fake
def _(grad: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: Any, scaling: float) -> Any:
    return tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in (query, key, value))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*_attend_backward(grad, *ctx.saved_tensors, ctx.scaling), None, None)


_attend.register_autograd(_backward, setup_context=_keep_inputs)
