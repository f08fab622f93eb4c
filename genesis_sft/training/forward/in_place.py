"""Gradients of matrices that are added up where they lie.

Left to autograd, each backward pass writes the gradient of a matrix to new memory, and adds it to that of the passes
before: memory as large as the model is written, read and read again for every few hundred tokens. A matrix product can
add to what is there at no further cost. That is for one process only: where processes exchange gradients, what sends
them waits for autograd to hand them over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def add_in_place(module: nn.Module) -> None:
    """Let passes that know how (see `keep_less`) add gradients of this module's parameters in place."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.adds_in_place = True  # type: ignore[attr-defined]


def clear_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Set gradients that are added in place to zero, so that their memory stays where it is; let go of all others."""
    kept = []
    for parameter in parameters:
        if not getattr(parameter, "adds_in_place", False):
            parameter.grad = None
        elif parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            kept.append(parameter.grad)
    if kept:
        torch._foreach_zero_(kept)


def adds_in_place(parameter: Any, dtype: torch.dtype) -> bool:
    """Tell whether a gradient of a data type is to be added to what this parameter has."""
    grad = parameter.grad if getattr(parameter, "adds_in_place", False) else None
    return grad is not None and grad.dtype == dtype


def weight_gradient(weight: Any, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    """Return ``left.T @ right``, the gradient of a matrix; or add it in place, where that is asked for.

    Args:
        weight: (out, in), the parameter itself.
        left: (..., out), the gradient of the result.
        right: (..., in), what the matrix was applied to, in the same data type.
    """
    rows, columns = left.flatten(0, -2), right.flatten(0, -2)
    if adds_in_place(weight, left.dtype):
        weight.grad.addmm_(rows.T, columns)
        return None
    return (rows.T @ columns).to(weight.dtype)
