"""RMSNorm, SwiGLU and what follows a norm, with backward passes that keep of the forward pass only what they need.

Written as products and sums, a norm keeps its input and what it has normalized, a gated layer keeps gate, activated
gate, up-projection and their product, and a linear map behind a norm what it was given. Inputs are enough: what lies
between costs one pass over memory to compute again. In a Llama layer that is half of all that is kept for the
backward pass, and fewer passes over memory besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from genesis_sft.training.forward.in_place import adds_in_place, weight_gradient

_PROBE_ROWS = 4
_SAME = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Relative difference within which a layer is taken to compute a formula, by the data type of its weights."""


def keep_less(model: nn.Module) -> None:
    """Give norms, gated layers, linear maps and embedding these passes, in place; parameters keep their names.

    Norms and gated layers are known by what they compute, tried on random numbers; one that computes something else is
    left as it is.

    Args:
        model: On its device, before it is compiled, and before processes share it.
    """
    for module in model.modules():
        ours: Any = None
        if is_rms_norm(module):
            ours = _RmsNorm(module)
        elif is_swiglu(module):
            ours = _SwiGlu(module)
        elif type(module) is nn.Linear:
            ours = _Linear(module)
        elif type(module) is nn.Embedding and _is_plain(module):
            ours = _Embedding(module)
        if ours is not None:
            vars(module)["forward"] = ours


@torch.no_grad()
def is_rms_norm(module: Any) -> bool:
    """Tell whether a module computes ``weight * x / sqrt(mean(x ** 2) + eps)`` (arXiv:1910.07467) on the last axis."""
    if [name for name, _ in module.named_parameters()] != ["weight"] or module.weight.ndim != 1:
        return False
    return _eps(module) is not None and _same(module, _RmsNorm, module.weight)


@torch.no_grad()
def is_swiglu(module: Any) -> bool:
    """Tell whether a module computes ``down(silu(gate(x)) * up(x))`` (arXiv:2002.05202), without a bias after it."""
    linears = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(type(linear) is nn.Linear for linear in linears) or module.down_proj.bias is not None:
        return False
    return _same(module, _SwiGlu, module.gate_proj.weight[0])


def _same(module: Any, ours: Callable[[Any], Callable[[torch.Tensor], torch.Tensor]], like: torch.Tensor) -> bool:
    """Compare on numbers with a mean, which a layer may take away, and on tiny ones, where an epsilon weighs."""
    if like.is_meta or like.dtype not in _SAME:
        return False
    for scale in (1.0, 1e-3):
        x = scale * (0.5 + _random(like))
        try:
            expected, found = module(x).float(), ours(module)(x).float()
        except (TypeError, RuntimeError, AttributeError):  # it wants other inputs
            return False
        size, difference = float(expected.norm()), float((found - expected).norm())
        if not (size > 0 and difference <= _SAME[x.dtype] * size):
            return False
    return True


class _RmsNorm:
    """The forward pass of a norm, as a function of its input."""

    def __init__(self, module: Any) -> None:
        self._module, self._eps = module, cast(float, _eps(module))
        with torch.no_grad():  # some give back the data type of their input, some that of input and weight together
            self._as_input = module(_random(module.weight).bfloat16()).dtype == torch.bfloat16

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self._module.weight
        dtype = hidden_states.dtype if self._as_input else torch.result_type(hidden_states, weight)
        normed: Any
        normed, scale = _RmsNormFunction.apply(hidden_states, weight, self._eps, dtype)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            normed.computed_from = (normed._version, hidden_states, scale, weight)
        return cast(torch.Tensor, normed)


class _RmsNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # the norm of a vector reads only, where x ** 2 would be written first
        norm = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
        scale = (norm.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _normed(x, scale, weight).to(dtype), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad, normed = outer[0].float(), x.float() * scale
        # with n = x * scale: dn = grad * weight, and dx = scale * (dn - n * mean(n * dn))
        product = grad * normed
        mean = (product @ weight.float()).div_(x.shape[-1])
        grad_weight = product.flatten(0, -2).sum(dim=0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_x = torch.mul(grad, weight, out=product).addcmul_(normed, mean[..., None], value=-1).mul_(scale)
        return grad_x.to(x.dtype), grad_weight, None, None


def _normed(x: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = (x.float() * scale).mul_(weight)
    return normed


class _Linear:
    """The forward pass of a linear map."""

    def __init__(self, module: nn.Linear) -> None:
        self._module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._module.weight, self._module.bias
        if not torch.is_grad_enabled():
            return functional.linear(x, weight, bias)
        version, *norm = getattr(x, "computed_from", (None,))
        if norm and x._version != version:  # it was changed in place, by a hook perhaps
            norm = []
        out: torch.Tensor = _LinearFunction.apply(x, weight, bias, *norm)  # type: ignore[no-untyped-call]
        return out


class _LinearFunction(torch.autograd.Function):
    """``x @ weight.T + bias``; what came out of a norm is computed again rather than kept."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *norm: torch.Tensor
    ) -> torch.Tensor:
        out = functional.linear(x, weight, bias)
        ctx.save_for_backward(weight, *(norm or [x.to(out.dtype)]))  # the data type that autocast has decided
        ctx.weight, ctx.dtype, ctx.bias_dtype = weight, x.dtype, None if bias is None else bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        grad = outer[0]
        grad_x = (grad @ weight.to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            x = kept[0] if len(kept) == 1 else _normed(*kept).to(ctx.dtype)
            grad_weight = weight_gradient(ctx.weight, grad, x.to(grad.dtype))
        grad_bias = grad.flatten(0, -2).sum(dim=0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, *[None] * (len(ctx.needs_input_grad) - 3)


class _Embedding:
    """The forward pass of an embedding."""

    def __init__(self, module: nn.Embedding) -> None:
        self._module = module

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = _EmbeddingFunction.apply(self._module.weight, ids)  # type: ignore[no-untyped-call]
        return rows


class _EmbeddingFunction(torch.autograd.Function):
    """Rows of a matrix, whose gradient touches these rows only."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.weight = weight
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (ids,), weight, grad = ctx.saved_tensors, ctx.weight, outer[0]
        if not ctx.needs_input_grad[0]:
            return None, None
        if adds_in_place(weight, grad.dtype) and grad.device.type == "cpu":  # elsewhere the order of sums is not fixed
            weight.grad.index_add_(0, ids.flatten(), grad.flatten(0, -2))
            return None, None
        return torch.ops.aten.embedding_dense_backward(grad, ids, len(weight), -1, False), None


class _SwiGlu:
    """The forward pass of a gated layer, as a function of its input."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        module = self._module
        out: torch.Tensor = _GatedDown.apply(module.gate_proj(x), module.up_proj(x), module.down_proj.weight)  # type: ignore[no-untyped-call]
        return out


class _GatedDown(torch.autograd.Function):
    """``(silu(gate) * up) @ weight.T``, in the data type of the gate, which autocast has decided."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.weight = weight
        return functional.linear(functional.silu(gate).mul_(up), weight.to(gate.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        grad = outer[0]
        activated = functional.silu(gate)
        grad_weight = weight_gradient(ctx.weight, grad, activated * up) if ctx.needs_input_grad[2] else None
        grad_product = grad @ weight.to(grad.dtype)
        grad_up = activated.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        return grad_gate, grad_up, grad_weight


def _is_plain(module: nn.Embedding) -> bool:
    return not (module.sparse or module.scale_grad_by_freq or module.padding_idx is not None or module.max_norm)


def _eps(module: Any) -> float | None:
    found = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    return next((eps for eps in found if isinstance(eps, float)), None)


def _random(like: torch.Tensor) -> torch.Tensor:
    """Return a few rows that a layer with such a weight takes, (1, _PROBE_ROWS, size) in its data type."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, _PROBE_ROWS, len(like), generator=generator).to(like)
