"""Forward passes over forests of tokens: each token sees its ancestors, and nothing else is computed.

A kernel of its own, registered with transformers' attention interface. A pass is cut into blocks: tokens that follow
each other in depth-first order, which see their own ancestors within the block by a mask, and beyond it the header and
the path that leads to the block, all of which they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from genesis_sft.evals.shared_prefix.forest import Pass

FOREST_ATTENTION = "genesis_forest"

_BLOCK_TOKENS = 256
"""Siblings share a block up to so many tokens: what they mask of each other costs less than copies of the path."""

_TRUNK_TOKENS = 1024
"""Tokens of a trunk in one block, where it stands behind something: its mask has a row for each of them."""

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""(1, kv_heads, tokens, head_size) each."""


@dataclass(frozen=True)
class Block:
    """Consecutive tokens of a pass that share what they see before them.

    Attributes:
        start: Their first.
        stop: The one after their last.
        path: (P,) indices of the tokens of the pass that lead to them.
        mask: (stop - start, header + P + stop - start) what is added to the scores; None for a chain that begins the
            requests, which is causal.
    """

    start: int
    stop: int
    path: torch.Tensor
    mask: torch.Tensor | None


@dataclass
class _Work:
    """What the kernel is told of the pass: blocks, and keys and values of the header for each of its calls.

    Calls are counted, as layers may be run more than once in a pass, or ask for attention twice.
    """

    blocks: list[Block]
    header: list[KeysAndValues]
    kept: list[KeysAndValues] | None
    num_calls: int = 0


@dataclass
class Reader:
    """Reads passes one after the other, in their order, and keeps the headers that are still needed.

    Args:
        model: A causal language model of the Llama family in eval mode; its attention is changed while it reads.
    """

    model: PreTrainedModel
    _headers: list[tuple[int, list[KeysAndValues]]] = field(default_factory=list)

    @torch.inference_mode()
    def read(self, one: Pass) -> torch.Tensor:
        """Return the hidden states before the output head, (N, hidden_size)."""
        while self._headers and self._headers[-1][0] > len(one.header):
            self._headers.pop()
        known: tuple[int, list[KeysAndValues]] = self._headers[-1] if self._headers and one.header else (0, [])
        assert known[0] == len(one.header), "a pass came before its header"
        if one.header and one.is_last:
            self._headers.pop()
        device, dtype = self.model.device, self.model.dtype
        blocks = [_to_block(*cut, one, device, dtype) for cut in cut_into_blocks(one)]
        work = _Work(blocks, known[1], [] if one.is_header else None)
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(FOREST_ATTENTION)
        try:
            output = self.model.get_decoder()(
                input_ids=torch.from_numpy(one.tokens)[None].to(device),
                position_ids=torch.from_numpy(one.depths)[None].to(device),
                use_cache=False,
                forest=work,
            )
        finally:
            self.model.set_attn_implementation(before)
        if work.kept is not None:
            self._headers.append((len(one.header) + len(one), work.kept))
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden


def cut_into_blocks(one: Pass) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the blocks of a pass: first token, the one after the last, and the indices on the path to them.

    A subtree that is larger than a block is cut into its trunk, up to where it first branches, and what hangs on that.
    A trunk behind something else is cut too, as its mask grows with the square of its length.
    """
    waiting: list[tuple[int, int, list[int]]] = [(0, len(one), [])]  # siblings in one piece, and the path to them
    while waiting:
        start, stop, path = waiting.pop()
        end = start
        while end < stop and int(one.ends[end]) - start <= _BLOCK_TOKENS:
            end = int(one.ends[end])
        if end > start:  # one sibling or several that fit
            yield start, end, path
        else:  # the next one is too large
            end = int(one.ends[start])
            trunk = start + 1
            longest = _TRUNK_TOKENS if path or one.header else len(one)
            while trunk < min(end, start + longest) and int(one.ends[trunk]) == end:
                trunk += 1
            yield start, trunk, path
            if trunk < end:
                waiting.append((trunk, end, [*path, *range(start, trunk)]))
        if end < stop:
            waiting.append((end, stop, path))


def _to_block(start: int, stop: int, path: list[int], one: Pass, device: torch.device, dtype: torch.dtype) -> Block:
    before = len(one.header) + len(path)
    is_chain = int(one.depths[stop - 1] - one.depths[start]) == stop - start - 1 and bool(
        (one.ends[start:stop] >= stop).all()
    )
    indices = torch.tensor(path, dtype=torch.long, device=device)
    if is_chain and not before:
        return Block(start, stop, indices, None)
    tokens = np.arange(start, stop)
    sees = (tokens[None] <= tokens[:, None]) & (tokens[:, None] < one.ends[None, start:stop])  # (query, key)
    mask = torch.zeros(stop - start, before + stop - start, dtype=dtype)
    mask[:, before:].masked_fill_(torch.from_numpy(~sees), -torch.inf)
    return Block(start, stop, indices, mask.to(device))


def _forest_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    forest: _Work,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each block, to the path and the header before it.

    Args:
        module: The attention layer.
        query: (1, heads, N, head_size).
        key: (1, kv_heads, N, head_size).
        value: (1, kv_heads, N, head_size).
        attention_mask: Ignored.
        forest: What is to be seen.
        scaling: Factor on the scores; 1 / sqrt(head_size) when absent.

    Returns:
        (1, N, heads, head_size), and no attention weights.
    """
    header = forest.header[forest.num_calls] if forest.header else None
    forest.num_calls += 1
    mixed = query.new_empty(*query.shape[:-1], value.shape[-1])
    for block in forest.blocks:
        here = slice(block.start, block.stop)
        keys, values = (
            torch.cat([*([] if header is None else [header[side]]), whole[:, :, block.path], whole[:, :, here]], dim=2)
            for side, whole in enumerate((key, value))
        )
        mixed[:, :, here] = functional.scaled_dot_product_attention(
            query[:, :, here],
            keys,
            values,
            attn_mask=block.mask,
            is_causal=block.mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    if forest.kept is not None:
        forest.kept.append(_appended(header, key, value))
    return mixed.transpose(1, 2), None


def _appended(header: KeysAndValues | None, key: torch.Tensor, value: torch.Tensor) -> KeysAndValues:
    if header is None:
        return key, value
    return torch.cat([header[0], key], dim=2), torch.cat([header[1], value], dim=2)


AttentionInterface.register(FOREST_ATTENTION, _forest_attention)
AttentionMaskInterface.register(FOREST_ATTENTION, lambda *_, **__: None)
