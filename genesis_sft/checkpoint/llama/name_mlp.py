"""Which matrix of an MLP is gate, up and down, where names only number them.

Meta's code has w1 = gate, w2 = down, w3 = up; others have w1 = gate, w2 = up, w3 = down; LitGPT has fc_1 = gate,
fc_2 = up and proj; Megatron one fused matrix and another. ``down`` is the one that lies the other way round; which of
two equal shapes is the gate, no shape tells: the names keep their usual meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from genesis_sft.checkpoint.llama.name_roles import Numbered
from genesis_sft.checkpoint.llama.slots import Role

Shape = tuple[int, ...]
Member = Role | Numbered
MLP_ROLES: frozenset[Member] = frozenset({"gate", "up", "down", "gate_up", "mlp 1", "mlp 2", "mlp 3", "mlp in"})
_NUMBERED: tuple[Numbered, ...] = ("mlp in", "mlp 1", "mlp 2", "mlp 3")  # in calling order


def name_members(layers: Sequence[Mapping[Member, Shape]], metas_letters: bool) -> Mapping[Numbered, Role]:
    """Return what the numbered matrices of these MLPs are; one that is missing has no place.

    The layers of one model vote: a single matrix that lies the wrong way round does not change what a name means.

    Args:
        layers: For every layer, the shapes of its MLP's matrices by what their names say. All have
            the same keys.
        metas_letters: Whether the numbered ones are called w1, w2, w3, of which Meta calls the second down.

    Example:
        >>> name_members([{"mlp 1": (176, 64), "mlp 2": (176, 64), "mlp 3": (64, 176)}], metas_letters=True)
        {'mlp 1': 'gate', 'mlp 2': 'up', 'mlp 3': 'down'}
    """
    votes = Counter(tuple(sorted(_vote(layer, metas_letters).items())) for layer in layers)
    return dict(votes.most_common(1)[0][0]) if votes else {}


def _vote(shapes: Mapping[Member, Shape], metas_letters: bool) -> dict[Numbered, Role]:
    numbered = [member for member in _NUMBERED if member in shapes]
    named = set(shapes) - set(numbered)
    free = [role for role in _open_places(named) if role not in named]
    if len(numbered) == 3 and free == ["gate", "up", "down"]:
        return _three(numbered, shapes, metas_letters)
    if len(numbered) == 2 and free == ["gate", "up", "down"]:
        return _fused_and_down(numbered, shapes) or _gate_and_up(numbered, shapes)
    if len(numbered) == 2 and free == ["up", "down"]:
        odd = _other_way(numbered, shapes)
        down = numbered[1] if odd is None else odd
        return {member: "down" if member == down else "up" for member in numbered}
    if len(numbered) == 1 and free == ["gate", "up"]:  # one matrix beside down: fused, or an MLP without a gate
        fused = "down" in named and _is_fused_with(shapes[numbered[0]], shapes["down"])
        return {numbered[0]: "gate_up"} if fused else {}
    return dict(zip(numbered, free, strict=True)) if len(numbered) == len(free) else {}


def _open_places(named: set[Member]) -> tuple[Role, ...]:
    return ("gate_up", "down") if "gate_up" in named else ("gate", "up", "down")


def _three(numbered: list[Numbered], shapes: Mapping[Member, Shape], metas_letters: bool) -> dict[Numbered, Role]:
    down = _other_way(numbered, shapes)
    if down is None:  # gate, up and down are all square
        down = numbered[1] if metas_letters else numbered[2]
    gate, up = (member for member in numbered if member != down)
    return {gate: "gate", up: "up", down: "down"}


def _other_way(numbered: list[Numbered], shapes: Mapping[Member, Shape]) -> Numbered | None:
    """Return the one whose shape is the transpose of all the others'; named ones count with them."""
    if any(len(shapes[member]) != 2 for member in numbered):
        return None
    others = {member: [shape for name, shape in shapes.items() if name != member] for member in numbered}
    odd = [
        member
        for member in numbered
        if shapes[member] != shapes[member][::-1] and all(shape == shapes[member][::-1] for shape in others[member])
    ]
    return odd[0] if len(odd) == 1 else None


def _fused_and_down(numbered: list[Numbered], shapes: Mapping[Member, Shape]) -> dict[Numbered, Role]:
    first, second = numbered
    if _is_fused_with(shapes[first], shapes[second]):
        return {first: "gate_up", second: "down"}
    if _is_fused_with(shapes[second], shapes[first]):
        return {second: "gate_up", first: "down"}
    return {}


def _gate_and_up(numbered: list[Numbered], shapes: Mapping[Member, Shape]) -> dict[Numbered, Role]:
    """Two of one shape that is not square are gate and up, and down is missing."""
    first, second = numbered
    if shapes[first] == shapes[second] != shapes[first][::-1]:
        return {first: "gate", second: "up"}
    return {}


def _is_fused_with(fused: Shape, down: Shape) -> bool:
    """Whether a matrix holds gate and up for this down matrix: twice as wide, in either orientation."""
    if len(fused) != 2 or len(down) != 2:
        return False
    return fused == (2 * down[1], down[0]) or fused == (down[1], 2 * down[0])
