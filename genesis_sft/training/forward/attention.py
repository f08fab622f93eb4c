"""Attention that stays within each conversation of a batch and computes nothing for the others.

Kernels are registered with transformers' attention interface, so that every model class that goes through it (Llama,
Mistral, Qwen, OLMo, ...) trains without padding. Whichever is chosen, conversations are attended to causally, each for
itself: exact, no mask, no masked-out work.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from genesis_sft.batches.collate import Batch
from genesis_sft.errors import ModelError

SEGMENT_ATTENTION = "genesis_segments"
VARLEN_ATTENTION = "genesis_varlen"
FLASH_ATTENTION = "genesis_flash"


def forward_hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the hidden states before the output head, (T, hidden_size).

    Args:
        model: A causal language model whose attention is one of `KERNELS`.
        batch: Conversations laid end to end.

    Raises:
        ModelError: The model was loaded with other attention, under which conversations would see each other.
    """
    if model.config._attn_implementation not in KERNELS:
        raise ModelError(
            f"expected a model whose attention is one of {', '.join(KERNELS)}; "
            f"found {model.config._attn_implementation!r}, under which conversations would see each other"
        )
    output = model.get_decoder()(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        use_cache=False,
        segment_starts=batch.segment_starts,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def usable_kernels(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return the names of the kernels that work on a device in a data type, the reference first."""
    found = [SEGMENT_ATTENTION]
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        found.append(VARLEN_ATTENTION)
        if importlib.util.find_spec("flash_attn") is not None:
            found.append(FLASH_ATTENTION)
    return found


def _segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_starts: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, one after the other.

    Args:
        module: The attention layer.
        query: (1, heads, T, head_size).
        key: (1, kv_heads, T, head_size).
        value: (1, kv_heads, T, head_size).
        attention_mask: Ignored; the segments say it all.
        segment_starts: Offsets of the conversations, see :class:`Batch`.
        scaling: Factor on the scores; 1 / sqrt(head_size) when absent.
        dropout: Dropout on the attention weights.

    Returns:
        (1, T, heads, head_size), and no attention weights.
    """
    if query.device.type == "cpu" and not dropout:
        parts = same_dtype(query, key, value)
        mixed: torch.Tensor = _CpuSegments.apply(*parts, segment_starts, scaling)  # type: ignore[no-untyped-call]
        return mixed, None
    return attend_by_segment(query, key, value, segment_starts, scaling, dropout), None


def attend_by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segment_starts: tuple[int, ...],
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return what each position sees of its segment, (1, T, heads, head_size), by PyTorch's own function.

    Args:
        query: (1, heads, T, head_size).
        key: (1, kv_heads, T, head_size).
        value: (1, kv_heads, T, head_size).
        segment_starts: Offsets of the conversations, see :class:`Batch`.
        scaling: Factor on the scores; 1 / sqrt(head_size) when absent.
        dropout: Dropout on the attention weights.
    """
    lengths = [stop - start for start, stop in itertools.pairwise(segment_starts)]
    grouped = query.shape[1] != key.shape[1]
    pieces = [
        functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    # in the order in which the output projection reads them: no further copy
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1)


class _CpuSegments(torch.autograd.Function):
    """The kernel that PyTorch takes on a CPU, segment by segment, whose results are kept once.

    As a function of PyTorch's it keeps each segment's result for its backward pass, and the output projection, which
    wants them in one piece, keeps them again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segment_starts: tuple[int, ...],
        scaling: float | None,
    ) -> torch.Tensor:
        mixed = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        sums = []
        for start, stop in itertools.pairwise(segment_starts):
            q, k, v = (part[:, :, start:stop] for part in (query, key, value))
            out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scaling)
            mixed[:, start:stop] = out.transpose(1, 2)
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, mixed, *sums)
        ctx.segment_starts, ctx.scaling = segment_starts, scaling
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mixed, *sums = ctx.saved_tensors
        grads = [torch.empty_like(part) for part in (query, key, value)]
        for (start, stop), log_sum in zip(itertools.pairwise(ctx.segment_starts), sums, strict=True):
            q, k, v = (part[:, :, start:stop] for part in (query, key, value))
            grad, out = (part[:, start:stop].transpose(1, 2) for part in (outer[0], mixed))
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, q, k, v, out, log_sum, 0.0, True, scale=ctx.scaling
            )
            for whole, part in zip(grads, parts, strict=True):
                whole[:, :, start:stop] = part
        return (*grads, None, None)


def _varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_starts: tuple[int, ...] | torch.Tensor,
    longest_segment: int = 0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, all in one kernel of PyTorch; see `_segment_attention`.

    Compiled layers are given the offsets as a tensor, (S + 1,) int32, with the length of the longest segment beside it.
    """
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = _on_device(segment_starts, longest_segment, query.device)
    q, k, v = (part[0].transpose(0, 1) for part in same_dtype(query, key, value))  # (T, heads, head_size)
    grouped = query.shape[1] != key.shape[1]
    # window (-1, 0): everything before, nothing after
    mixed = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=grouped
    )
    assert isinstance(mixed, torch.Tensor)  # a pair only where more is asked for
    return mixed[None], None


def _flash_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_starts: tuple[int, ...] | torch.Tensor,
    longest_segment: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment, all in one kernel of the flash-attn package; see `_varlen_attention`."""
    from flash_attn import flash_attn_varlen_func

    starts, longest = _on_device(segment_starts, longest_segment, query.device)
    q, k, v = (part[0].transpose(0, 1) for part in same_dtype(query, key, value))  # (T, heads, head_size)
    mixed = flash_attn_varlen_func(
        q, k, v, starts, starts, longest, longest, dropout_p=dropout, softmax_scale=scaling, causal=True
    )
    return mixed[None], None


def same_dtype(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return all three in the data type of the values.

    Under autocast, rotating queries and keys has made them float32 again; kernels that autocast does not know refuse
    that.
    """
    return query.to(value.dtype), key.to(value.dtype), value


def _on_device(
    segment_starts: tuple[int, ...] | torch.Tensor, longest_segment: int, device: torch.device
) -> tuple[torch.Tensor, int]:
    """Return the offsets as kernels want them, and the length of the longest segment."""
    if isinstance(segment_starts, torch.Tensor):
        return segment_starts, longest_segment
    return _as_tensor(segment_starts, device)


@functools.lru_cache(maxsize=4)  # the same for all layers
def _as_tensor(segment_starts: tuple[int, ...], device: torch.device) -> tuple[torch.Tensor, int]:
    longest = max(stop - start for start, stop in itertools.pairwise(segment_starts))
    return torch.tensor(segment_starts, dtype=torch.int32, device=device), longest


KERNELS: dict[str, Callable[..., tuple[torch.Tensor, None]]] = {
    SEGMENT_ATTENTION: _segment_attention,
    VARLEN_ATTENTION: _varlen_attention,
    FLASH_ATTENTION: _flash_attention,
}

for _name, _kernel in KERNELS.items():
    AttentionInterface.register(_name, _kernel)
    # no mask is built at all: None reaches the kernel
    AttentionMaskInterface.register(_name, lambda *_, **__: None)
