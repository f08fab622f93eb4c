"""Loss and gradient as a textbook has them: what training has to equal, computed without any of its parts.

A few conversations of the run's first batch, shortened, padded to one length, go through transformers' own forward
pass with its own attention and mask; full logits, labels of -100 where nothing is trained, one shift, cross entropy,
autograd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Example, Span
from genesis_sft.mixture.table import TokenTable
from genesis_sft.training.processes.parallel import decoder_layers

IGNORED = -100
"""Label of a token that is not trained, as `torch.nn.functional.cross_entropy` has it."""

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Reference:
    """What the textbook says.

    Attributes:
        loss: Nats per trained token, without z-loss.
        gradients: Of the parameters that `observed_parameters` names, z-loss included; CPU, float32.
        num_trained: Trained tokens.
        dtype: What matrix products were computed in.
        unshifted_loss: What the loss would be if each output were compared with its own token, not with the next.
    """

    loss: float
    gradients: dict[str, torch.Tensor]
    num_trained: int
    dtype: torch.dtype
    unshifted_loss: float


def cut_examples(table: TokenTable, indices: Sequence[int], max_tokens: int) -> list[Example]:
    """Return three conversations of a step, shortened, for a proof that costs little.

    Each is about half as long as the one before and the numbers of trained tokens differ, so that a mean of means is
    far from the mean. Where the step has fewer conversations, one gives several pieces.

    Args:
        table: Holds the conversations.
        indices: Those of the step; the ones with the most trained tokens are taken.
        max_tokens: Bound on the tokens of all three.
    """
    trained = [int(index) for index in indices if table.num_trained(int(index))]
    assert trained, "a step without a trained token"
    trained.sort(key=lambda index: -table.num_trained(index))
    chosen = [trained[number % len(trained)] for number in range(_NUM_EXAMPLES)]
    pieces = [
        _window(table.input_ids(index), table.trained(index), max(8, max_tokens >> number))
        for number, index in enumerate(chosen, 1)
    ]
    return _with_unequal_counts(pieces)


def reference(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    autocast_dtype: torch.dtype | None = None,
    z_loss: float = 0.0,
) -> Reference:
    """Compute the textbook's loss and gradient on a plain model: not wrapped, not compiled, nothing recomputed.

    The model is left as it was, without gradients.

    Args:
        model: The run's model, with its vocabulary padded and its parameters frozen as training will have them.
        examples: See `cut_examples`.
        autocast_dtype: Data type of matrix products where it is not that of the weights.
        z_loss: See `head_loss`.
    """
    observed = observed_parameters(model)
    ids, mask, labels = (part.to(model.device) for part in _padded(examples))
    with stock_attention(model), without_dropout(model), autocast(model.device, autocast_dtype):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits = logits[..., : model.config.vocab_size].float()  # (conversations, longest, vocab_size)
    outputs, targets = logits[:, :-1], labels[:, 1:]
    loss = _cross_entropy(outputs, targets)
    log_z = outputs[targets != IGNORED].logsumexp(dim=-1)
    gradients = torch.autograd.grad(loss + z_loss * log_z.square().mean(), list(observed.values()), allow_unused=True)
    return Reference(
        loss=float(loss.detach()),
        gradients={name: as_float32(grad, observed[name]) for name, grad in zip(observed, gradients, strict=True)},
        num_trained=int((targets != IGNORED).sum()),
        dtype=autocast_dtype or model.dtype,
        unshifted_loss=float(_cross_entropy(logits.detach(), labels)),
    )


def textbook_labels(examples: Sequence[Example]) -> list[torch.Tensor]:
    """Return the label of every token of each conversation: its own id where it is trained, `IGNORED` elsewhere."""
    labels = [torch.full((len(ids),), IGNORED) for ids, _ in examples]
    for row, (ids, spans) in zip(labels, examples, strict=True):
        for start, stop in spans:
            row[start:stop] = torch.from_numpy(ids[start:stop])
    return labels


def observed_parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the trained parameters whose gradients are looked at: all but those of the layers between first and last.

    Whatever is wrong in a layer in between reaches the first one through the backward pass.
    """
    unseen = {id(parameter) for layer in decoder_layers(model)[1:-1] for parameter in layer.parameters()}
    return {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in unseen}


def as_float32(gradient: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor:
    """Return a gradient on the CPU in float32; zeros where none reached the parameter."""
    return torch.zeros(parameter.shape) if gradient is None else gradient.detach().float().cpu()


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return a context in which matrix products are computed in a data type; in that of the weights when absent."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def stock_attention(model: PreTrainedModel) -> Iterator[None]:
    """Give the model the attention that transformers brings along, and then its own back."""
    before = model.config._attn_implementation
    try:
        try:
            model.set_attn_implementation("sdpa")
        except ValueError:  # the architecture has no such attention
            model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off, and then on again, without leaving training mode: what is compared has to be repeatable."""
    rates = [
        (module, name, rate)
        for module in model.modules()
        for name in ("p", "dropout", "attention_dropout")
        if isinstance(rate := getattr(module, name, None), float)
    ]
    try:
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _padded(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and labels, (conversations, longest) each, filled up on the right."""
    rows = [torch.from_numpy(ids) for ids, _ in examples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(textbook_labels(examples), batch_first=True, padding_value=IGNORED)
    return ids, mask, labels


def _window(ids: NDArray[np.int64], spans: Sequence[Span], num_tokens: int) -> Example:
    """Return a piece of a conversation around its first trained tokens, a quarter of it before them."""
    start = max(0, min(min(spans)[0] - num_tokens // 4, len(ids) - num_tokens))
    piece = ids[start : start + num_tokens].copy()
    clipped = [(max(first - start, 1), min(stop - start, len(piece))) for first, stop in spans]
    return piece, [(first, stop) for first, stop in clipped if first < stop]


def _with_unequal_counts(examples: Sequence[Example]) -> list[Example]:
    """Leave out a trained token here and there, until no two conversations have the same number of them."""
    taken: set[int] = set()
    unequal: list[Example] = []
    for ids, spans in examples:
        kept = list(spans)
        while (count := sum(stop - start for start, stop in kept)) in taken and count > 1:
            start, stop = kept.pop()
            kept += [(start, stop - 1)] if stop - 1 > start else []
        taken.add(count)
        unequal.append((ids, kept))
    return unequal
