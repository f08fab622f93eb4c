"""The weights of a stored Llama-style model by their role, whatever they are called and however they are fused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.sizes import Sizes, expected_shape
from genesis_sft.checkpoint.llama.slots import NameMap, Role, Slot
from genesis_sft.checkpoint.tensors.source import TensorSource

_SWAPS: dict[str, dict[Role, Role]] = {
    "gate_up_swapped": {"gate": "up", "up": "gate"},
    "qk_swapped": {"q": "k", "k": "q"},
}


@dataclass
class StoredLlama:
    """A checkpoint seen as a Llama-style model.

    Args:
        source: Where the tensors are.
        names: What each of them is.
        sizes: What their shapes tell.
        keep: Whether tensors stay in memory once read, as stored; for many forward passes over one checkpoint.
        dtype: What tensors are converted to when they are asked for; as stored when None.
        round_to: What an export rounds them to before that.
    """

    source: TensorSource
    names: NameMap
    sizes: Sizes
    keep: bool = False
    dtype: torch.dtype | None = torch.float32
    round_to: torch.dtype | None = None
    _kept: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def bias(self, conventions: Conventions, role: Role, layer: int) -> torch.Tensor | None:
        """Return the bias of a role, by itself or out of a fused one; ``None`` where none is stored."""
        stored = _as_stored(role, conventions)
        fused: Mapping[str, Role] = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
        slots = [Slot(stored, layer, True)] + ([Slot(fused[stored], layer, True)] if stored in fused else [])
        if not any(slot in self.names.slots for slot in slots):
            return None
        return self.get(conventions, role, layer, bias=True)

    def get(
        self, conventions: Conventions, role: Role, layer: int | None = None, *, bias: bool = False
    ) -> torch.Tensor:
        """Return a weight in (out, in) order, or a bias in (out,), in the rows' stored order.

        Args:
            conventions: Say what is swapped, fused and transposed.
            role: Never a fused one.
            layer: 0-based; None for embedding, head and final norm.
            bias: Whether the bias of the role is wanted.
        """
        role = _as_stored(role, conventions)
        slot = Slot(role, layer, bias)
        if slot in self.names.slots:
            return self._oriented(slot, conventions)
        if role in ("q", "k", "v"):
            return _split_qkv(self._oriented(Slot("qkv", layer, bias), conventions), self.sizes, conventions)[role]
        gate, up = self._oriented(Slot("gate_up", layer, bias), conventions).chunk(2)
        return gate if role == "gate" else up

    def forget(self) -> None:
        """Let go of the tensors that were kept."""
        self._kept.clear()

    def _oriented(self, slot: Slot, conventions: Conventions) -> torch.Tensor:
        tensor = self._read(self.names.slots[slot])
        for dtype in (self.round_to, self.dtype):
            tensor = tensor if dtype is None else tensor.to(dtype)
        expected = expected_shape(slot, self.sizes)
        lies_other_way = tuple(tensor.shape) != expected
        is_transposed = lies_other_way or slot.role in conventions.transposed
        return tensor.T if is_transposed and not slot.bias else tensor

    def _read(self, name: str) -> torch.Tensor:
        if name in self._kept:
            return self._kept[name]
        tensor = self.source.read(name)
        if self.keep:
            self._kept[name] = tensor
        return tensor


def _as_stored(role: Role, conventions: Conventions) -> Role:
    """Return the role under which a role's tensor is stored."""
    for flag, swap in _SWAPS.items():
        if getattr(conventions, flag):
            role = swap.get(role, role)
    return role


def _split_qkv(fused: torch.Tensor, sizes: Sizes, conventions: Conventions) -> dict[str, torch.Tensor]:
    """Return query, key and value rows of a fused matrix, each in head order."""
    order = conventions.fused_order
    if conventions.fused_grouping == "blocks":
        widths = {"q": sizes.q_width, "k": sizes.kv_width, "v": sizes.kv_width}
        return dict(zip(order, fused.split([widths[part] for part in order]), strict=True))
    kv_heads = conventions.num_kv_heads
    head_size = sizes.kv_width // kv_heads
    per_group = {"q": sizes.q_width // kv_heads, "k": head_size, "v": head_size}
    grouped = fused.reshape(kv_heads, -1, *fused.shape[1:])
    parts = grouped.split([per_group[part] for part in order], dim=1)
    return {part: rows.reshape(-1, *fused.shape[1:]) for part, rows in zip(order, parts, strict=True)}
