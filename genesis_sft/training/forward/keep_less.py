"""RMSNorm and SwiGLU with backward passes of their own, which keep of the forward pass only what they need.

Written as products and sums, a norm keeps its input and what it has normalized, and a gated layer keeps gate, activated
gate, up-projection and their product. Inputs are enough: what lies between costs one pass over memory to compute again.
In a Llama layer that is a third of all that is kept for the backward pass, and fewer passes over memory besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_PROBE_ROWS = 4
_SAME = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Relative difference within which a layer is taken to compute a formula, by the data type of its weights."""


def keep_less(model: nn.Module) -> None:
    """Give norms and gated layers of a model these forward and backward passes, in place; parameters keep their names.

    Layers are known by what they compute, tried on random numbers; one that computes something else is left as it is.

    Args:
        model: On its device, before it is compiled, and before processes share it.
    """
    for module in model.modules():
        if is_rms_norm(module):
            module.forward = _RmsNorm(module)
        elif is_swiglu(module):
            module.forward = _SwiGlu(module)


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
        normed: torch.Tensor = _RmsNormFunction.apply(hidden_states, weight, self._eps, dtype)  # type: ignore[no-untyped-call]
        return normed


class _RmsNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # reads only, where x ** 2 would be written first
        scale = (norm.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        normed: torch.Tensor = (wide * scale).mul_(weight)
        return normed.to(dtype)

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
        return functional.linear(functional.silu(gate).mul_(up), weight.to(gate.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        grad = outer[0]
        activated = functional.silu(gate)
        grad_weight = None
        if ctx.needs_input_grad[2]:
            product = (activated * up).flatten(0, -2)
            grad_weight = (grad.flatten(0, -2).T @ product).to(weight.dtype)
            del product
        grad_product = grad @ weight.to(grad.dtype)
        grad_up = activated.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        return grad_gate, grad_up, grad_weight


def _eps(module: Any) -> float | None:
    found = (getattr(module, name, None) for name in ("variance_epsilon", "eps"))
    return next((eps for eps in found if isinstance(eps, float)), None)


def _random(like: torch.Tensor) -> torch.Tensor:
    """Return a few rows that a layer with such a weight takes, (1, _PROBE_ROWS, size) in its data type."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, _PROBE_ROWS, len(like), generator=generator).to(like)
