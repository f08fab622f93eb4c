"""Stored names become the places of a Llama-style model, by rules; what has no place is an error that helps.

"app.model.layers.3.attention.wq.weight"  ->  Slot("q", layer=3)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from genesis_sft.checkpoint.llama.name_claims import Claim, read_claims
from genesis_sft.checkpoint.llama.name_faults import refuse_missing, refuse_two_for_one, refuse_unknown
from genesis_sft.checkpoint.llama.name_folding import columns, fold
from genesis_sft.checkpoint.llama.name_roots import choose_root
from genesis_sft.checkpoint.llama.name_rules import NameRules
from genesis_sft.checkpoint.llama.slots import ROLES, NameMap, Role, Slot
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from genesis_sft.checkpoint.tensors.source import StoredTensor

_OUTSIDE = "outside the root"

__all__ = ["NameMap", "Role", "Slot", "map_names", "name_table"]


def map_names(
    shapes: Mapping[str, tuple[int, ...]], rules: NameRules | None = None, root: str | None = None
) -> NameMap:
    """Return which stored tensor fills which place of a Llama-style model.

    Args:
        shapes: Shape of every stored tensor by its name.
        rules: The user's own rules; they win over the built-in ones.
        root: What the names of the wanted model begin with, where a checkpoint holds several (``"ema"``); ``"."`` for
            the one that has no root of its own.

    Raises:
        ModelError: A tensor has no place, a place has no tensor or two, or there are several models and no root.

    Example:
        >>> shapes = {"tok_embeddings.weight": (600, 64), "layers.0.attention.wq.weight": (64, 64), ...}
        >>> map_names(shapes).slots[Slot("q", 0)]
        'layers.0.attention.wq.weight'
    """
    if not shapes:
        raise ModelError("expected the tensors of a Llama-style model; found none")
    claims, outside = choose_root(read_claims(shapes, rules), root)
    claims = _without_strangers(claims)
    refuse_unknown([claim for claim in claims if claim.fault is not None])
    refuse_two_for_one(claims)
    slots = {claim.slot: claim.name for claim in claims if claim.slot}
    _refuse_foreign_biases(slots, shapes)
    refuse_missing(slots, shapes)
    skipped = {claim.name: f"{_OUTSIDE} {root}" for claim in outside}
    skipped |= {claim.name: claim.skip for claim in claims if claim.skip}
    return NameMap({slot: slots[slot] for slot in sorted(slots, key=_place)}, skipped)


def name_table(names: NameMap, tensors: Mapping[str, StoredTensor]) -> str:
    """Return a table for the terminal: stored name, role, shape and number type, layers folded into one line.

    Example:
        layers.{0..31}.attention.wq.weight  -> q     (1536, 1536)  float32
    """
    entries = [(name, str(slot)) for slot, name in names.slots.items()]
    outside = [why for why in names.skipped.values() if why.startswith(_OUTSIDE)]
    entries += [(name, f"not needed: {why}") for name, why in names.skipped.items() if why not in outside[:1]]
    kinds = {
        name: (str(tuple(tensors[name].shape)), str(tensors[name].dtype).removeprefix("torch."))
        for name, _ in entries
        if name in tensors
    }
    folded = fold([(name, (role, *kinds.get(name, ("", "")))) for name, role in entries])
    lines = columns([(line.text, f"-> {line.value[0]}", *line.value[1:]) for line in folded])
    return "\n".join(lines + [f"{len(outside)} tensors are not taken: {why}" for why in outside[:1]])


def _without_strangers(claims: list[Claim]) -> list[Claim]:
    """Take their place from embeddings, norms and heads that lie beside the layers in another part of the checkpoint.

    ``vision.norm.weight`` is no final norm of ``model.layers.0…``; ``lm_head.weight`` is its head.
    """
    homes = {
        claim.meaning for claim in claims if claim.slot and claim.slot.layer is not None and claim.meaning is not None
    }
    return [
        Claim(claim.name, claim.shape, fault="in another part of the checkpoint than the layers")
        if homes and claim.slot and claim.slot.layer is None and claim.meaning is not None
        and not any(home[: len(claim.meaning)] == claim.meaning for home in homes)
        else claim
        for claim in claims
    ]  # fmt: skip


def _refuse_foreign_biases(slots: Mapping[Slot, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a bias that is not as wide as its matrix."""
    faults: defaultdict[str, list[str]] = defaultdict(list)
    for slot, name in slots.items():
        matrix = slots.get(Slot(slot.role, slot.layer))
        if slot.bias and matrix is not None and shapes[name][0] not in shapes[matrix]:
            faults[f"the bias of a {slot.role} of {shapes[matrix]}"].append(name)
    refuse_unknown([Claim(name, shapes[name], fault=fault) for fault, names in faults.items() for name in names])


def _place(slot: Slot) -> tuple[int, int, int, bool]:
    """Order as data flows: embedding, layers, final norm, head."""
    part = {"embedding": 0, "final_norm": 2, "head": 3}.get(slot.role, 1)
    return part, slot.layer or 0, ROLES.index(slot.role), slot.bias
