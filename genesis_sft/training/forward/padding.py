"""Embedding and head in round numbers of rows while training, which is what GPU kernels are made for.

The rows that are added hold no token. They are zero and stay so: no id looks them up, and the loss gives them no
probability, so that their gradient is exactly zero and weight decay has nothing to shrink. ``config.vocab_size`` stays
the real number throughout: whatever a head has beyond it is padding. Before weights leave training, the rows go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from genesis_sft.errors import ModelError


@dataclass(frozen=True)
class VocabRows:
    """How many rows embedding and head have.

    Attributes:
        vocab_size: Rows that are exported, one for each token.
        padded_vocab_size: Rows while training.
    """

    vocab_size: int
    padded_vocab_size: int


def train_pad_token(model: PreTrainedModel) -> None:
    """Let the embedding of the pad token be trained as every other, in place.

    transformers makes embeddings that give this row no gradient. Nothing is padded here, and the pad token is often the
    one that ends a turn: the row that has to be learned.
    """
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.padding_idx = None


def pad_vocab(model: PreTrainedModel, multiple: int | None) -> VocabRows:
    """Add zero rows to the embedding and the head, in place, up to a multiple; a tied head stays tied.

    Args:
        model: Loaded as it is on disk; its config keeps the real ``vocab_size``.
        multiple: E.g. 64: 49,156 rows become 49,216. Nothing is added when absent.

    Raises:
        ModelError: Embedding or head are of a kind that rows cannot be added to.
    """
    vocab_size = int(model.config.vocab_size)
    if multiple is None:
        return VocabRows(vocab_size, vocab_size)
    padded = -(-vocab_size // multiple) * multiple
    if padded > vocab_size:
        _refuse_other_kinds(model, vocab_size)
        _set_rows(model, padded)
    return VocabRows(vocab_size, padded)


def without_padding(
    tensors: Mapping[str, torch.Tensor], model: PreTrainedModel, rows: VocabRows
) -> dict[str, torch.Tensor]:
    """Return a model's tensors without the rows that were added: what is left are the real rows, bit for bit.

    Args:
        tensors: By the model's names; not all need be there.
        model: Says which of them are embedding and head.
        rows: As `pad_vocab` returned them.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    modules = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    padded = {f"{name}.{part}" for name in modules for part in ("weight", "bias")}
    return {name: tensor[: rows.vocab_size] if name in padded else tensor for name, tensor in tensors.items()}


def _refuse_other_kinds(model: PreTrainedModel, vocab_size: int) -> None:
    for module, kind in ((model.get_input_embeddings(), nn.Embedding), (model.get_output_embeddings(), nn.Linear)):
        rows = module.weight.shape[0] if isinstance(module, kind) else None
        if rows != vocab_size:
            raise ModelError(
                f"expected nn.{kind.__name__} with {vocab_size:,} rows to pad; found {type(module).__name__}"
                + (f" with {rows:,}" if rows is not None else ""),
                hint="Leave training.pad_vocab_to_multiple_of out: it changes speed only.",
            )


def _set_rows(model: PreTrainedModel, rows: int) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    embedding.weight = _with_rows(embedding.weight, rows)
    head.weight = embedding.weight if tied else _with_rows(head.weight, rows)
    if head.bias is not None:
        head.bias = _with_rows(head.bias, rows)
    embedding.num_embeddings = head.out_features = rows


def _with_rows(old: nn.Parameter, rows: int) -> nn.Parameter:
    """Return the first rows of a parameter, and zeros beyond them, in memory of their own."""
    kept = min(rows, old.shape[0])
    new = torch.zeros((rows, *old.shape[1:]), dtype=old.dtype, device=old.device)
    new[:kept] = old.detach()[:kept]
    return nn.Parameter(new, requires_grad=old.requires_grad)
