"""The places of a Llama-style model that a stored tensor can fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

Role = Literal[
    "embedding",
    "head",
    "final_norm",
    "attention_norm",
    "mlp_norm",
    "q",
    "k",
    "v",
    "o",
    "qkv",
    "gate",
    "up",
    "down",
    "gate_up",
]
ROLES: tuple[Role, ...] = get_args(Role)
TOP_ROLES: frozenset[Role] = frozenset({"embedding", "head", "final_norm"})  # once per model; all others once per layer
NORM_ROLES: frozenset[Role] = frozenset({"final_norm", "attention_norm", "mlp_norm"})


def is_role(text: object) -> TypeGuard[Role]:
    """Whether a text names a role."""
    return isinstance(text, str) and text in ROLES


@dataclass(frozen=True, order=True)
class Slot:
    """One place of the model.

    Attributes:
        role: What the tensor does there. ``qkv`` and ``gate_up`` are fused matrices, their parts one below the other.
        layer: 0-based; ``None`` for embedding, head and final norm.
        bias: The vector that is added behind the matrix of the same role.
    """

    role: Role
    layer: int | None = None
    bias: bool = False

    def __str__(self) -> str:
        return f"{self.role} bias" if self.bias else self.role


@dataclass(frozen=True)
class NameMap:
    """Which stored tensor fills which place.

    Attributes:
        slots: Stored name of every place that is filled.
        skipped: Stored names that the model does not need, and why: ``"causal mask"``.
    """

    slots: Mapping[Slot, str]
    skipped: Mapping[str, str]
