"""How far a gradient is from the textbook's, and in which way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Gradients = Mapping[str, torch.Tensor]

_SMALL = 1e-3
"""A parameter whose gradient is smaller than this share of the largest one is measured by that share: the bias of a key
projection has hardly any, and what it has is rounding."""


@dataclass(frozen=True)
class Tolerance:
    """What rounding may do.

    Attributes:
        loss: Relative difference of the loss.
        gradient: Norm of the difference over the norm, of the gradient of a parameter.
        leak: Nats by which a token's loss may move while another conversation changes.
    """

    loss: float
    gradient: float
    leak: float


def tolerance(dtype: torch.dtype, device: torch.device) -> Tolerance:
    """Return the tolerance for a data type of matrix products.

    Seen on SmolLM2-135M (30 layers, CPU): in float32 3e-8 in the loss and 2e-6 in a gradient, under bfloat16 autocast
    4e-5 and 2e-2, with bfloat16 weights 6e-4 and 3e-2. The tolerances leave room for deeper models and other devices.
    The mistakes that are looked for change a gradient by tens of percent, since the conversations are of unequal
    lengths. On CPU in float32 the same shapes give the same bits, whatever another conversation says; elsewhere a
    kernel may sum in another order from call to call.
    """
    if dtype == torch.float32:
        return Tolerance(loss=1e-5, gradient=1e-4, leak=0.0 if device.type == "cpu" else 1e-4)
    return Tolerance(loss=5e-3, gradient=1e-1, leak=2e-2)


@dataclass(frozen=True)
class Comparison:
    """A gradient beside the textbook's.

    Attributes:
        expected_norm, found_norm: Over all parameters that are looked at.
        difference: Largest relative difference of a parameter's gradient, norm over norm.
        where: Name of that parameter.
        factor: What the textbook's gradient has to be multiplied with to come nearest.
        beyond_factor: How much of the found gradient that leaves, norm over norm.
    """

    expected_norm: float
    found_norm: float
    difference: float
    where: str
    factor: float
    beyond_factor: float


def compare(found: Gradients, expected: Gradients) -> Comparison:
    """Compare a gradient with the textbook's, parameter by parameter."""
    floor = _SMALL * max(float(grad.norm()) for grad in expected.values())
    differences = {
        name: float((found[name] - grad).norm()) / max(float(grad.norm()), floor, 1e-30)
        for name, grad in expected.items()
    }
    # a difference that is no number is the worst
    where = max(differences, key=lambda name: (differences[name] != differences[name], differences[name]))
    squared = dot(expected, expected)
    factor = dot(found, expected) / squared if squared else float("nan")
    found_norm = dot(found, found) ** 0.5
    rest = math.hypot(*(float((found[name] - factor * grad).norm()) for name, grad in expected.items()))
    return Comparison(
        expected_norm=squared**0.5,
        found_norm=found_norm,
        difference=differences[where],
        where=where,
        factor=factor,
        beyond_factor=rest / found_norm if found_norm else float("nan"),
    )


def shares(found: Gradients, parts: Sequence[Gradients]) -> list[float]:
    """Return how often each part is in a gradient: the least-squares solution of ``found = sum(shares * parts)``."""
    products = torch.tensor([[dot(one, other) for other in parts] for one in parts], dtype=torch.float64)
    with_found = torch.tensor([dot(found, part) for part in parts], dtype=torch.float64)
    solution: list[float] = torch.linalg.lstsq(products, with_found[:, None]).solution[:, 0].tolist()
    return solution


def dot(one: Gradients, other: Gradients) -> float:
    """Return the inner product over all parameters."""
    return sum(float(torch.dot(one[name].flatten(), other[name].flatten())) for name in one)
