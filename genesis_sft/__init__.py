"""genesis-sft: a pretrained checkpoint goes in, a chat model comes out, with evidence of what changed.

The names below need no torch, so importing the package is instant; the stages live in the subpackages
(see docs/pipeline.md) and are imported where they are used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genesis_sft.errors import GenesisError
    from genesis_sft.pipeline import plan, run
    from genesis_sft.recipe import Recipe, load_recipe

__all__ = ["GenesisError", "Recipe", "__version__", "load_recipe", "plan", "run"]

_HOMES = {
    "GenesisError": "genesis_sft.errors",
    "Recipe": "genesis_sft.recipe",
    "load_recipe": "genesis_sft.recipe",
    "plan": "genesis_sft.pipeline",
    "run": "genesis_sft.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'genesis_sft' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
