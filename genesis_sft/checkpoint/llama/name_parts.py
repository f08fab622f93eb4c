"""A stored name, taken apart: what stands before the model, the number of the layer, and what is left.

"app._orig_mod.model.layers.3.attention.wq.weight"
container ("app", "model"), layer 3, rest ("attention", "wq", "weight")
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WRAPPERS = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_fpw_module",
        "_forward_module",
        "module",  # DataParallel, DistributedDataParallel, DeepSpeed
    }
)
# lists of layers, as they are called; the number follows behind a dot ("layers.3") or an underscore ("layer_3")
_LAYER_WORDS = (
    "layers|layer|h|blocks|block|blk|decoder_layers|decoder_blocks|transformer_layers|transformer_blocks|trf_blocks|"
    "encoder_layers|model_layers"
)
_LAYER_LIST = re.compile(rf"(?:{_LAYER_WORDS})", re.IGNORECASE)
_LAYER_IN_ONE = re.compile(rf"(?:{_LAYER_WORDS})[_-]?(?P<number>[0-9]{{1,5}})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class NameParts:
    """A stored name without wrappers.

    Attributes:
        name: As stored.
        path: All components, wrappers cut.
        raw_starts: For each component of ``path``, where it stands among the components of ``name``.
        layer: 0-based number of the layer; ``None`` where the name has none.
        container: The part of ``path`` before the list of layers; empty without a layer.
        rest: What follows the number of the layer; without one, all of ``path``.
    """

    name: str
    path: tuple[str, ...]
    raw_starts: tuple[int, ...]
    layer: int | None
    container: tuple[str, ...]
    rest: tuple[str, ...]

    def before(self, position: int) -> tuple[str, ...]:
        """Return the components of the stored name, wrappers included, that stand before ``path[position]``."""
        raw = self.name.split(".")
        return tuple(raw[: self.raw_starts[position]] if position < len(self.path) else raw)


def take_apart(name: str) -> NameParts:
    """Return the parts of a stored name."""
    kept = [(index, part) for index, part in enumerate(name.split(".")) if part not in WRAPPERS]
    path = tuple(part for _, part in kept)
    starts = tuple(index for index, _ in kept)
    for position, part in enumerate(path):
        if one := _LAYER_IN_ONE.fullmatch(part):
            return NameParts(name, path, starts, int(one["number"]), path[:position], path[position + 1 :])
        following = path[position + 1 : position + 2]
        if _LAYER_LIST.fullmatch(part) and following and _NUMBER.fullmatch(following[0]):
            return NameParts(name, path, starts, int(following[0]), path[:position], path[position + 2 :])
    return NameParts(name, path, starts, None, (), path)


def plain(component: str) -> str:
    """Return a component as the tables of roles spell it: ``"W_q"``, ``"w-q"`` and ``"wq"`` are one word."""
    return component.lower().replace("_", "").replace("-", "")


def words(text: str) -> frozenset[str]:
    """Return the components that a text lists, as ``plain`` spells them."""
    return frozenset(text.split())
