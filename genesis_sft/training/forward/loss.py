"""The loss: nats of each trained token; the output head on trained positions only, and never all logits at once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 1024
"""Trained positions whose logits exist at one time: 1024 x 49,152 float32 are 201 MB."""

_ROW_MULTIPLE = 64


def head_loss(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    *,
    vocab_size: int,
    scale: float = 1.0,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scaled sum to differentiate, and the loss of every token.

    The gradient is computed along with the loss, chunk by chunk, while the logits are there: head and hidden states
    cost three matrix products, as they must, and no logits are kept or computed again.

    Args:
        hidden: (N, hidden_size), the positions that predict the targets.
        head: The output head, a linear map; rows beyond ``vocab_size`` are padding and get no probability.
        targets: (N,) token ids.
        vocab_size: Number of tokens.
        scale: Factor on the sum.
        z_loss: Factor on the square of the log-sum-exp of the logits, added to each token's loss
            (PaLM, arXiv:2204.02311, section 5).

    Returns:
        ``scale * sum(nll + z_loss * log_z ** 2)``, a float32 scalar with gradients for ``hidden`` and the head; and
        ``nll``, (N,) float32, in nats, detached.
    """
    outputs = _HeadLoss.apply(hidden, head.weight, head.bias, targets, vocab_size, scale, z_loss)  # type: ignore[no-untyped-call]
    return cast("tuple[torch.Tensor, torch.Tensor]", outputs)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        vocab_size: int,
        scale: float,
        z_loss: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        with torch.autocast(kind, enabled=False):
            grads = _Gradients(hidden, weight, bias, wanted=ctx.needs_input_grad[:3])
            nll = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
            rows, columns = hidden.to(dtype), weight.to(dtype)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            buffer = LogitsBuffer(columns)
            for start in range(0, len(targets), CHUNK_TOKENS):
                here = slice(start, start + CHUNK_TOKENS)
                logits = buffer.logits(rows[here], bias)  # (n, at least the rows of the head) float32
                logits[:, vocab_size:] = -torch.inf
                wanted = logits.gather(1, targets[here, None])[:, 0]
                largest = logits.amax(dim=1)
                probabilities = torch.softmax(logits, dim=1, out=logits)
                # the largest probability is never below 1 / vocab_size: nothing underflows on the way back to log_z
                log_z = largest - probabilities.amax(dim=1).log()
                nll[here] = log_z - wanted
                total += (nll[here] + z_loss * log_z**2).sum()
                if grads.any_wanted:
                    if z_loss:  # d(log_z ** 2) = 2 * log_z * probabilities
                        probabilities.mul_((1 + 2 * z_loss * log_z)[:, None])
                    at = torch.arange(len(wanted), device=targets.device)
                    probabilities[at, targets[here]] -= 1
                    grads.add(here, probabilities[:, : len(columns)].mul_(scale).to(dtype), rows[here], columns)
        ctx.grads = grads.tensors
        ctx.mark_non_differentiable(nll)
        return total * scale, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # handed over, not copied: that of the weight is as large as the head
        saved, ctx.grads = ctx.grads, None
        if saved is None:
            raise RuntimeError("the gradient of this loss was asked for before, and is there only once")
        grads = [None if grad is None else grad.mul_(outer[0]) for grad in saved]
        return (*grads, None, None, None, None)


class LogitsBuffer:
    """Memory for one chunk of logits, used again for the next; float32, or float64 where the head is.

    Rows begin at multiples of 64 numbers: where a vocabulary has another size, their product takes half as long again.

    Args:
        weight: Of the output head, (rows, hidden_size).
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight, self._width = weight, -(-len(weight) // _ROW_MULTIPLE) * _ROW_MULTIPLE
        self._dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._memory = torch.empty(0, self._width, dtype=self._dtype, device=weight.device)

    def logits(self, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return (n, width) logits; what is in the columns beyond the rows of the head is of no meaning."""
        if len(self._memory) < len(hidden):
            self._memory = torch.empty(len(hidden), self._width, dtype=self._dtype, device=hidden.device)
        whole = self._memory[: len(hidden)]
        logits = whole[:, : len(self._weight)]
        if hidden.dtype == self._dtype:
            torch.mm(hidden, self._weight.T, out=logits)
        else:
            logits.copy_(torch.mm(hidden, self._weight.T))
        if bias is not None:
            logits.add_(bias.to(self._dtype))
        return whole


class _Gradients:
    """Gradients of hidden states, weight and bias, summed chunk by chunk in float32; those that are wanted."""

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        self._inputs = [hidden, weight, bias]
        self._hidden = torch.empty_like(hidden) if wanted[0] else None
        self._weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        self._bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] and bias is not None else None
        self.any_wanted = any(wanted)

    def add(self, here: slice, grad_logits: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        if self._hidden is not None:
            self._hidden[here] = torch.mm(grad_logits, weight)
        if self._weight is not None:
            if grad_logits.dtype == torch.float32:
                self._weight.addmm_(grad_logits.T, hidden)
            else:
                self._weight += torch.mm(grad_logits.T, hidden)
        if self._bias is not None:
            self._bias += grad_logits.float().sum(dim=0)

    @property
    def tensors(self) -> list[torch.Tensor | None]:
        """Those that are wanted, in the data types of their inputs."""
        found = zip((self._hidden, self._weight, self._bias), self._inputs, strict=True)
        return [None if grad is None or like is None else grad.to(like.dtype) for grad, like in found]
