"""The errors for names that make no whole Llama: what has no place, what is missing, what is there twice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from genesis_sft.checkpoint.llama.name_claims import Claim
from genesis_sft.checkpoint.llama.name_folding import Folded, columns, fold, pattern, ranges, shown
from genesis_sft.checkpoint.llama.name_parts import take_apart
from genesis_sft.checkpoint.llama.slots import ROLES, Role, Slot
from genesis_sft.errors import ModelError

_MOST_LINES = 30
_FUSED: dict[Role, tuple[Role, ...]] = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}


def refuse_unknown(claims: Sequence[Claim]) -> None:
    """Refuse tensors that have no place, with the rule file that would give them one.

    Raises:
        ModelError: Lists them, folded over layers.
    """
    if not claims:
        return
    folded = fold([(claim.name, (str(claim.shape), claim.fault or "")) for claim in claims])
    rows = columns([(line.text, *line.value) for line in folded[:_MOST_LINES]], indent="    ")
    more = [f"    … and {len(folded) - _MOST_LINES} more kinds"] if len(folded) > _MOST_LINES else []
    features = sorted({claim.fault for claim in claims if claim.fault})
    verdict = f"this is not a Llama-style model as it stands: {'; '.join(features[:5])}. " if features else ""
    raise ModelError(
        "\n".join(
            [
                f"{verdict}Expected a place for every tensor; {len(claims)} have none:",
                *rows,
                *more,
                "A rule file can say what they are:",
                *_rule_file(folded),
            ]
        ),
        hint=f"Write a role in place of each ROLE ({', '.join(ROLES)}), move what the model does not use to skip:, "
        "save the lines as names.yaml, and run again with --names names.yaml.",
    )


def refuse_two_for_one(claims: Sequence[Claim]) -> None:
    """Refuse two tensors for one place, and a fused matrix beside its own parts.

    Raises:
        ModelError: Names the first of them.
    """
    names: dict[Slot, list[str]] = defaultdict(list)
    for claim in claims:
        if claim.slot:
            names[claim.slot].append(claim.name)
    for slot, found in names.items():
        if slot.role in _FUSED:
            found = found + [
                name for part in _FUSED[slot.role] for name in names.get(Slot(part, slot.layer, slot.bias), [])
            ]
        if len(found) > 1:
            where = "" if slot.layer is None else f" of layer {slot.layer}"
            raise ModelError(
                f"expected one tensor as {slot}{where}; found {' and '.join(shown(name) for name in found[:4])}",
                hint="Say in a rule file (--names FILE) what each is, or list the one that is not used under skip:.",
            )


def refuse_missing(slots: Mapping[Slot, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a model with an empty place; a head may be absent (tied to the embedding), biases are optional.

    Raises:
        ModelError: Lists the empty places, layers folded.
    """
    layers: dict[int, set[Role]] = defaultdict(set)
    for slot in slots:
        if slot.layer is not None and not slot.bias:
            layers[slot.layer].add(slot.role)
    lines = [role for role in ("embedding", "final_norm") if Slot(role) not in slots]
    if layers:
        lines += _missing_layers(sorted(layers)) + _missing_roles(layers)
    lines += [
        f"the matrix to the bias {shown(name)}"
        for slot, name in slots.items()
        if slot.bias and Slot(slot.role, slot.layer) not in slots
    ]
    if not layers:
        some = ", ".join(shown(name) for name in list(shapes)[:4])
        raise ModelError(
            f"expected the layers of a Llama-style model; found none among {len(shapes)} tensors ({some} …)",
            hint="A rule file (--names FILE) can say what each tensor is.",
        )
    if lines:
        more = [f"… and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        raise ModelError(
            f"expected every place of a Llama of {max(layers) + 1} layers filled; missing:\n"
            + "\n".join(f"    {line}" for line in lines[:_MOST_LINES] + more),
            hint="Was the whole model saved? Of a model that is split over machines by layers, each part holds some "
            "layers only.",
        )


def _missing_layers(numbers: list[int]) -> list[str]:
    gaps = [
        (before + 1, after - 1)
        for before, after in zip([-1, *numbers], numbers, strict=False)
        if after > before + 1
    ]  # fmt: skip
    return [f"layer {first}" if first == last else f"layers {first}..{last}" for first, last in gaps]


def _missing_roles(layers: Mapping[int, set[Role]]) -> list[str]:
    missing: dict[Role, list[int]] = defaultdict(list)
    for number, roles in layers.items():
        for role in _needed(roles) - roles:
            missing[role].append(number)
    return [
        f"{role} of {'layer' if len(missing[role]) == 1 else 'layers'} {ranges(missing[role])}"
        for role in ROLES
        if role in missing
    ]


def _needed(roles: set[Role]) -> set[Role]:
    needed: set[Role] = {"attention_norm", "mlp_norm", "o", "down"}
    for fused, parts in _FUSED.items():
        needed |= {fused} if fused in roles else set(parts)
    return needed


def _rule_file(folded: Sequence[Folded[tuple[str, str]]]) -> list[str]:
    """Return the lines of a rule file: names to be given a role, and as skipped what another architecture has."""
    unknown = list(dict.fromkeys(_pattern(line) for line in folded[:_MOST_LINES] if not line.value[1]))
    foreign = list(dict.fromkeys(_pattern(line) for line in folded[:_MOST_LINES] if line.value[1]))
    lines = ["    names:", *(f"      {text}: ROLE" for text in unknown)] if unknown else []
    lines += ["    skip:  # only what the model does not use when it computes"]
    return lines + [f"      - {text}" for text in foreign or ['"some.other.{n}.name"']]


def _pattern(line: Folded[tuple[str, str]]) -> str:
    return json.dumps(shown(pattern([".".join(take_apart(name).path) for name in line.names])), ensure_ascii=False)
