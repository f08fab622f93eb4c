"""What the commands share: options, and JSON on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genesis_sft.run_dir import without_nan

JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout and nothing else there.")]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python functions that the recipe names as filters.")
]


def folder_name(text: str) -> Path:
    """Read a folder's name; an empty one would mean the current folder, and is mostly an unset variable."""
    if not text:
        raise typer.BadParameter("expected a folder, found an empty name")
    return Path(text)


def print_json(value: Any) -> None:
    """Print plain values; characters that the terminal does not know become escapes."""
    knows_all = sys.stdout is not None and sys.stdout.encoding.lower().startswith("utf")
    print(json.dumps(without_nan(value), indent=2, ensure_ascii=not knows_all, allow_nan=False))
