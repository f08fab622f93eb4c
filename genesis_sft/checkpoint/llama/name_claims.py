"""What each stored name claims to be, before the names of a checkpoint are judged together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from genesis_sft.checkpoint.llama.name_foreign import foreign_feature, needless
from genesis_sft.checkpoint.llama.name_mlp import MLP_ROLES, Member, name_members
from genesis_sft.checkpoint.llama.name_parts import NameParts, plain, take_apart
from genesis_sft.checkpoint.llama.name_roles import CONTAINERS, Numbered, Reading, is_bias, read_role
from genesis_sft.checkpoint.llama.name_rules import NameRules
from genesis_sft.checkpoint.llama.slots import NORM_ROLES, Role, Slot, is_role

Shape = tuple[int, ...]
Container = tuple[str, ...]
BY_RULE = "skipped by the rule file"


@dataclass(frozen=True)
class Claim:
    """A stored name and what it claims to be.

    Attributes:
        name: As stored.
        shape: Of the tensor.
        slot: The place it fills.
        skip: Why the model does not need it.
        fault: Why it has no place in a Llama; empty where that is not known.
        root: Components of the stored name, wrappers included, before the model's own: ``("ema", "model")``.
        meaning: ``root`` without what only wraps a model: ``("ema",)``; ``None`` where a rule of the user decided.
    """

    name: str
    shape: Shape
    slot: Slot | None = None
    skip: str | None = None
    fault: str | None = None
    root: tuple[str, ...] = ()
    meaning: tuple[str, ...] | None = None


def read_claims(shapes: Mapping[str, Shape], rules: NameRules | None) -> list[Claim]:
    """Return one claim for every stored name, in the given order."""
    parts = {name: take_apart(name) for name in shapes}
    if rules:
        rules.require_all_used(parts.values())
    ruled = {name: claim for name in shapes if rules and (claim := _claim_by_rule(parts[name], shapes[name], rules))}
    unneeded = {
        name: Claim(name, shapes[name], skip=why)
        for name in shapes
        if name not in ruled and (why := needless(parts[name], shapes[name]))
    }
    readings = {name: read_role(parts[name]) for name in shapes if name not in ruled and name not in unneeded}
    members = _members(readings, parts, shapes)
    read = {name: _claim(parts[name], shapes[name], reading, members) for name, reading in readings.items()}
    return _checked([{**ruled, **unneeded, **read}[name] for name in shapes])


def _claim_by_rule(parts: NameParts, shape: Shape, rules: NameRules) -> Claim | None:
    match = rules.find(parts)
    if match is None:
        return None
    root = parts.before(match.start)
    if match.rule.role is None:
        return Claim(parts.name, shape, skip=BY_RULE, root=root)
    return Claim(parts.name, shape, Slot(match.rule.role, match.layer, is_bias(parts.path[-1])), root=root)


def _claim(
    parts: NameParts,
    shape: Shape,
    reading: Reading | None,
    members: Mapping[Container, Mapping[Numbered, Role]],
) -> Claim:
    feature = foreign_feature(parts)
    if reading is None:
        return Claim(parts.name, shape, fault=feature or "")
    root = parts.before(len(reading.container))
    meaning = tuple(word for part in reading.container if (word := plain(part)) not in CONTAINERS)
    role = reading.role if is_role(reading.role) else _numbered(reading, members)
    if role is None:
        fault = feature or "an MLP without a gate, or one of its three matrices is missing"
        return Claim(parts.name, shape, fault=fault, root=root, meaning=meaning)
    slot = Slot(role, parts.layer, reading.bias)
    return Claim(parts.name, shape, slot, root=root, meaning=meaning)


def _numbered(reading: Reading, members: Mapping[Container, Mapping[Numbered, Role]]) -> Role | None:
    roles = members.get(reading.container, {})
    return next((role for numbered, role in roles.items() if numbered == reading.role), None)


def _members(
    readings: Mapping[str, Reading | None], parts: Mapping[str, NameParts], shapes: Mapping[str, Shape]
) -> dict[Container, Mapping[Numbered, Role]]:
    """Return, for each container of a model, the roles of its numbered MLP matrices.

    The layers that have the usual set of matrices decide for all: where one is missing, the others keep their meaning.
    """
    found: dict[Container, dict[int, dict[Member, Shape]]] = defaultdict(lambda: defaultdict(dict))
    with_metas_letters: set[Container] = set()
    for name, reading in readings.items():
        layer = parts[name].layer
        if reading and layer is not None and reading.role in MLP_ROLES and not reading.bias:
            found[reading.container][layer][reading.role] = shapes[name]
            if reading.spelling == "w2":
                with_metas_letters.add(reading.container)
    members: dict[Container, Mapping[Numbered, Role]] = {}
    for container, layers in found.items():
        usual = Counter(frozenset(layer) for layer in layers.values()).most_common(1)[0][0]
        voters = [layer for layer in layers.values() if frozenset(layer) == usual]
        members[container] = name_members(voters, container in with_metas_letters)
    return members


def _checked(claims: Iterable[Claim]) -> list[Claim]:
    """Turn claims that the tensor's shape or kind contradicts into faults."""
    return [
        replace(claim, slot=None, fault=fault) if claim.slot and (fault := _contradiction(claim.slot, claim.shape))
        else claim
        for claim in claims
    ]  # fmt: skip


def _contradiction(slot: Slot, shape: Shape) -> str | None:
    if slot.bias and slot.role in NORM_ROLES:
        return "a norm with a bias (LayerNorm); Llama's RMSNorm has none"
    if slot.bias and slot.role in ("embedding", "head"):
        return f"a bias of the {slot.role}, which Llama has not"
    dimensions = 1 if slot.bias or slot.role in NORM_ROLES else 2
    if len(shape) != dimensions or 0 in shape:
        return f"by its name {slot}, which is a {'vector' if dimensions == 1 else 'matrix'}"
    return None
