"""Loss on the conversations that are never trained on, over the same tokens that training counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from genesis_sft.batches.collate import collate
from genesis_sft.console import progress
from genesis_sft.errors import ModelError
from genesis_sft.evals.record import HeldOutRecord
from genesis_sft.mixture.table import TokenTable
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.training.forward.objective import token_losses
from genesis_sft.training.held_out import choose_evenly

BATCH_TOKENS = 4096
"""Tokens in one forward pass; a longer conversation goes alone."""


def measure_held_out(
    model: PreTrainedModel, table: TokenTable, max_tokens: int, encoder: ChatMLEncoder
) -> tuple[HeldOutRecord, ...]:
    """Return the loss on held-out conversations, one record a source, in the order in which sources appear.

    Args:
        model: Loaded with ``attention=SEGMENT_ATTENTION``, in eval mode.
        table: The held-out conversations.
        max_tokens: Stop after about this many tokens, context included, taken evenly from all sources.
        encoder: Of the model's tokenizer; tells how many bytes of text the trained tokens are.

    Raises:
        ModelError: A loss is not a number.
    """
    chosen = choose_evenly(table, max_tokens)
    sums: dict[int, float] = {}
    with progress("held-out loss", sum(map(table.num_tokens, chosen)), "tokens") as bar, torch.inference_mode():
        for indices in _batches(table, chosen):
            sums.update(zip(indices, _loss_sums(model, table, indices), strict=True))
            bar.advance(sum(map(table.num_tokens, indices)))
    if any(not math.isfinite(loss) for loss in sums.values()):
        raise ModelError("expected a loss on every held-out conversation, found infinities or NaN")
    sources = dict.fromkeys(table.source(index) for index in sorted(chosen))
    return tuple(
        _as_record(source, table, [index for index in chosen if table.source(index) == source], sums, encoder)
        for source in sources
    )


class _Group(NamedTuple):
    indices: list[int]
    num_tokens: int


def _batches(table: TokenTable, chosen: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices in groups of at most ``BATCH_TOKENS`` tokens."""
    group = _Group([], 0)
    for index in chosen:
        length = table.num_tokens(index)
        if group.indices and group.num_tokens + length > BATCH_TOKENS:
            yield group.indices
            group = _Group([], 0)
        group = _Group([*group.indices, index], group.num_tokens + length)
    if group.indices:
        yield group.indices


def _loss_sums(model: PreTrainedModel, table: TokenTable, indices: Sequence[int]) -> list[float]:
    """Return the summed loss of each conversation, in nats."""
    batch = collate([(table.input_ids(index), table.trained(index)) for index in indices]).to(model.device)
    losses = token_losses(model, batch).double()  # (N,)
    pieces = torch.split(losses, [table.num_trained(index) for index in indices])
    return [float(piece.sum()) for piece in pieces]


def _as_record(
    source: str, table: TokenTable, indices: Sequence[int], sums: dict[int, float], encoder: ChatMLEncoder
) -> HeldOutRecord:
    return HeldOutRecord.of(
        source,
        rows=[table.row(index) for index in indices],
        losses=[sums[index] for index in indices],
        tokens=[table.num_trained(index) for index in indices],
        num_bytes=[_count_bytes(table, index, encoder) for index in indices],
    )


def _count_bytes(table: TokenTable, index: int, encoder: ChatMLEncoder) -> int:
    """Return the UTF-8 bytes of what is trained, without control tokens.

    A span is decoded as a whole: a token may hold half a character, or a space that belongs to it only behind others.
    """
    ids = table.input_ids(index).tolist()
    return sum(len(encoder.decode(ids[start:stop]).encode()) for start, stop in table.trained(index))
