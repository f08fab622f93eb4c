"""The files of a result, and how those that this program wrote are told from others, which are never replaced."""

from __future__ import annotations

from pathlib import Path

import orjson

from genesis_sft.errors import InputError
from genesis_sft.synthesis.output.card import MARKDOWN_HEAD, WRITTEN_BY

CONVERSATIONS, REJECTED = "conversations.jsonl", "rejected.jsonl"
CARD, CARD_PAGE, CARD_PLOT = "card.json", "card.md", "card.svg"
_PLOT_HEAD_BYTES = 2000
_KEYS = ({"id", "area", "principles", "scenario", "prompts"}, {"id", "turn", "step", "usage"})


def require_own_output(folder: Path) -> None:
    """Refuse a folder in which one of the names is taken by somebody else's file.

    Called before anything is asked, so that nobody pays for what cannot be written.

    Raises:
        InputError: It is; or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder at {folder}, found a file", hint="Name another one as synthesis.out.")
    for name in (CONVERSATIONS, REJECTED, CARD, CARD_PAGE, CARD_PLOT):
        if folder.is_dir():
            require_own_file(folder / name)


def require_own_file(path: Path) -> None:
    """Refuse a place where something lies that this command did not write.

    Raises:
        InputError: Something does, or there is no folder for it.
    """
    if not path.parent.is_dir():
        raise InputError(f"expected a folder {path.parent} to write {path.name} to, found none", hint="Make it first.")
    if (path.exists() or path.is_symlink()) and not (path.is_file() and _is_own(path)):
        raise InputError(
            f"expected no file {path}, or one that genesis-sft synthesize wrote; found another",
            hint="Move it away, or name another folder as synthesis.out.",
        )


def _is_own(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            if path.name == CARD_PAGE:
                return file.read(len(MARKDOWN_HEAD.encode())) == MARKDOWN_HEAD.encode()
            if path.name == CARD_PLOT:
                return WRITTEN_BY.encode() in file.read(_PLOT_HEAD_BYTES)
            first = orjson.loads(file.read() if path.name == CARD else file.readline() or b"{}")
    except (OSError, ValueError):
        return False
    if not isinstance(first, dict):
        return False
    if path.name == CARD:
        return first.get("written_by") == WRITTEN_BY
    return path.stat().st_size == 0 or any(keys <= first.keys() for keys in _KEYS)
