"""Several models in one checkpoint: the live weights beside their moving average, a student beside its teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from genesis_sft.checkpoint.llama.name_claims import Claim
from genesis_sft.checkpoint.llama.name_folding import shown
from genesis_sft.checkpoint.llama.name_parts import WRAPPERS, take_apart
from genesis_sft.checkpoint.llama.slots import Slot
from genesis_sft.errors import ModelError

Root = tuple[str, ...]
NO_ROOT = "."  # how a user names the model whose names begin with no root of their own
_MOST_ROOTS = 6


def choose_root(claims: Sequence[Claim], root: str | None) -> tuple[list[Claim], list[Claim]]:
    """Return the claims of one model, and those of others.

    Args:
        claims: Of all names in the checkpoint.
        root: What the wanted model's names begin with, ``"ema"`` or ``"app.model"``; ``"."`` for the model that stands
            beside such roots without one of its own. ``None``: there is one model only.

    Raises:
        ModelError: There are several and none is chosen, or the root is none of them.
    """
    if root is None:
        _refuse_several(competing_roots(claims))
        return list(claims), []
    inside = _without_root(claims) if root in ("", NO_ROOT) else _under(claims, root)
    if not any(claim.slot for claim in inside):
        first = sorted({claim.name.split(".")[0] for claim in claims})
        raise ModelError(
            f"expected weights under the root {shown(root)!r}; found none. The stored names begin with "
            + ", ".join(shown(part) for part in first[:_MOST_ROOTS])
            + (" …" if len(first) > _MOST_ROOTS else ""),
        )
    names = {claim.name for claim in inside}
    _refuse_several(competing_roots(inside))
    return inside, [claim for claim in claims if claim.name not in names]


def competing_roots(claims: Sequence[Claim]) -> set[Root]:
    """Return what the names of several models in one checkpoint begin with; empty where there is one model.

    Example:
        ``model.layers.0.attention.wq.weight`` and ``ema.model.layers.0.attention.wq.weight`` fill one place:
        ``{(), ("ema",)}``.
    """
    roots_of: dict[Slot, set[Root]] = defaultdict(set)
    for claim in claims:
        if claim.slot:
            roots_of[claim.slot].add(claim.root)
    return {_without_end(root, roots) for roots in roots_of.values() if len(roots) > 1 for root in roots}


def _without_end(root: Root, roots: set[Root]) -> Root:
    """Return a root without the end that all of them share."""
    shared = 0
    while shared < min(map(len, roots)) and len({other[-1 - shared] for other in roots}) == 1:
        shared += 1
    return root[: len(root) - shared]


def _refuse_several(roots: set[Root]) -> None:
    if not roots:
        return
    texts = [shown(".".join(root)) if root else NO_ROOT for root in sorted(roots)]
    unnamed = f" ({NO_ROOT}: the names that begin with none of the others)" if NO_ROOT in texts else ""
    raise ModelError(
        "expected one model; two stored names fill the same place, since there are several under these roots: "
        + ", ".join(texts[:_MOST_ROOTS])
        + (" …" if len(texts) > _MOST_ROOTS else "")
        + unnamed,
        hint=f"Choose one: --root {texts[0]} or --root {texts[-1]}",
    )


def _without_root(claims: Sequence[Claim]) -> list[Claim]:
    others = {root for root in competing_roots(claims) if root}
    raw = {claim.name: tuple(claim.name.split(".")) for claim in claims}
    return [claim for claim in claims if not any(raw[claim.name][: len(root)] == root for root in others)]


def _under(claims: Sequence[Claim], root: str) -> list[Claim]:
    """Return the claims under a root, as stored or without wrappers; and a head that belongs to it but lies outside.

    In Hugging Face names the head is no part of ``model``: ``model.layers.0…`` and ``lm_head.weight``.
    """
    wanted = tuple(root.split("."))
    raw = {claim.name: tuple(claim.name.split(".")) for claim in claims}
    if not any(path[: len(wanted)] == wanted for path in raw.values()):
        raw = {claim.name: take_apart(claim.name).path for claim in claims}
        wanted = tuple(part for part in wanted if part not in WRAPPERS)
    inside = [claim for claim in claims if wanted and raw[claim.name][: len(wanted)] == wanted]
    if inside and Slot("head") not in {claim.slot for claim in inside}:
        above = [claim for claim in claims if claim.slot == Slot("head") and claim.root == wanted[: len(claim.root)]]
        inside += sorted(above, key=lambda claim: len(claim.root))[-1:]
    return inside
