"""Data sets that are known by name: where they are, how their rows are laid out, under which licence."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, str]] = {
    "smoltalk": {
        "hub": "HuggingFaceTB/smoltalk",
        "config": "smol-magpie-ultra",
        "format": "messages",
        "licence": "Apache-2.0",
    },
    "openhermes-2.5": {"hub": "teknium/OpenHermes-2.5", "format": "sharegpt"},
    "tulu-3": {"hub": "allenai/tulu-3-sft-mixture", "format": "messages", "licence": "ODC-BY-1.0"},
    "metamathqa": {"hub": "meta-math/MetaMathQA", "format": "metamath", "licence": "MIT"},
}
"""Preset to the fields of a source. OpenHermes 2.5 states no licence of its own: its parts have theirs."""


def fill_from_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a source with what its preset gives where they are absent.

    With ``path`` nothing of the Hub is filled in. An unknown preset is left for the field's own check.

    Example:
        >>> fill_from_preset({"name": "math", "preset": "metamathqa", "revision": "main"})["hub"]
        'meta-math/MetaMathQA'
    """
    name = values.get("preset")
    preset = PRESETS.get(name, {}) if isinstance(name, str) else {}
    of_hub = {"hub", "config"} if values.get("path") is not None else set()
    missing = {key: value for key, value in preset.items() if key not in of_hub and values.get(key) is None}
    return {**values, **missing}
