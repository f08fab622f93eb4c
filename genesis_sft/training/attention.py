"""Attention that stays within each conversation of a batch and computes nothing for the others.

The function is registered with transformers' attention interface, so that every model class that goes through it
(Llama, Mistral, Qwen, OLMo, ...) trains without padding. Conversations are attended to one after the other, causally,
each with PyTorch's fused kernel: exact on every device, no mask, no masked-out work.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from genesis_sft.batches.collate import Batch
from genesis_sft.errors import ModelError

SEGMENT_ATTENTION = "genesis_segments"


def forward_hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the hidden states before the output head, (T, hidden_size).

    Args:
        model: A causal language model loaded with ``attention=SEGMENT_ATTENTION``.
        batch: Conversations laid end to end.

    Raises:
        ModelError: The model was loaded with other attention, under which conversations would see each other.
    """
    if model.config._attn_implementation != SEGMENT_ATTENTION:
        raise ModelError(
            f"expected a model whose attention is {SEGMENT_ATTENTION!r}; "
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
    """Attend within each segment.

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
    lengths = [stop - start for start, stop in itertools.pairwise(segment_starts)]
    grouped = query.shape[1] != key.shape[1]
    pieces = [
        functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


AttentionInterface.register(SEGMENT_ATTENTION, _segment_attention)
# no mask is built at all: None reaches the function above
AttentionMaskInterface.register(SEGMENT_ATTENTION, lambda *_, **__: None)
