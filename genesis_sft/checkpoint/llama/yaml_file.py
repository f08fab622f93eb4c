"""Small files that a user wrote: JSON or YAML, read without trusting them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from genesis_sft.checkpoint.llama.name_folding import shown
from genesis_sft.console import visible
from genesis_sft.errors import ModelError

MOST_BYTES = 200_000  # seconds of PyYAML's time at worst


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases: a few lines of them can stand for terabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*) are not read; write the value out",
                problem_mark=event.start_mark,  # type: ignore[arg-type]
            )
        return super().compose_node(parent, index)


class _LoaderOfUniqueKeys(_Loader):
    """The same, for files in which a key that stands twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str, *, unique_keys: bool = False) -> Any:
    """Return what a YAML or JSON file holds; JSON is tried first, since YAML refuses its tabs.

    Args:
        path: The file.
        what: What it should be, for messages: ``"a rule file"``.
        unique_keys: Whether a key that stands twice in one mapping is an error; else the last one counts.

    Raises:
        ModelError: There is no such file, it is larger than such files are, or neither YAML nor JSON.
    """
    text = _read_text(path, what)
    try:
        if not unique_keys:
            return json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise ModelError(f"{path} cannot be read as JSON: {_in_short(error)}") from None
    try:
        return yaml.load(text, Loader=_LoaderOfUniqueKeys if unique_keys else _Loader)
    except Exception as error:  # PyYAML lets ValueError, TypeError and others out of odd scalars
        raise ModelError(f"{path} is no valid YAML: {_in_short(error)}") from None


def in_words(value: Any) -> str:
    """Return what a file holds at some place, for messages: ``"text 'twelve'"``, ``"a list of 3"``."""
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"text {shown(value)!r}"
    try:
        return shown(json.dumps(value)) if isinstance(value, bool | int | float) else f"a {type(value).__name__}"
    except ValueError:  # more digits than Python writes
        return "a number with too many digits"


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ModelError(f"expected {what} at {path}; found a file of more than {MOST_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # not there, a folder, no UTF-8, a path that no file can have
        why = error.strerror if isinstance(error, OSError) else f"it is no UTF-8 text ({_in_short(error)})"
        raise ModelError(f"expected {what} at {path}: {why}") from None


def _in_short(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return visible(text if len(text) <= 300 else text[:297] + "...")
