"""The loss: nats of each trained token, with the output head on trained positions only."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch
from genesis_sft.training.attention import forward_hidden

CHUNK_TOKENS = 1024
"""Trained positions whose logits exist at one time: 1024 x 49,152 float32 are 201 MB."""


def token_losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the negative log-likelihood of every trained token, (N,) float32, in nats.

    The sum over a global batch divided by its number of trained tokens is the loss of a step: every token counts the
    same however the batch is cut. Logits are computed for ``CHUNK_TOKENS`` positions at a time, and again in the
    backward pass, so that the full (T, vocab_size) matrix never exists.

    Args:
        model: Loaded with ``attention=SEGMENT_ATTENTION``. Rows of its head beyond ``config.vocab_size`` are padding
            and get no probability.
        batch: Conversations laid end to end.
    """
    hidden = forward_hidden(model, batch).index_select(0, batch.predict_from)  # (N, hidden_size)
    head, vocab_size = model.get_output_embeddings(), model.config.vocab_size
    if batch.num_trained <= CHUNK_TOKENS:
        return _chunk_losses(head, hidden, batch.targets, vocab_size)
    pieces = zip(hidden.split(CHUNK_TOKENS), batch.targets.split(CHUNK_TOKENS), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_chunk_losses(head, piece, targets, vocab_size) for piece, targets in pieces])
    return torch.cat(
        [checkpoint(_chunk_losses, head, piece, targets, vocab_size, use_reentrant=False) for piece, targets in pieces]
    )


def _chunk_losses(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor, vocab_size: int) -> torch.Tensor:
    logits = head(hidden).float()  # (n, rows of the head)
    if logits.shape[1] > vocab_size:
        logits[:, vocab_size:] = -torch.inf
    return functional.cross_entropy(logits, targets, reduction="none")
