"""Every field of a recipe as a page of documentation, written from the sections themselves."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from genesis_sft.recipe.sections import Recipe

_INTRODUCTION = """\
# Recipe reference

Written from the code by `make schema`; do not edit. A recipe is one YAML file; `recipes/` holds three. Unknown keys,
wrong types and impossible combinations are refused before anything runs. `--set KEY=VALUE` overrides any field, e.g.
`--set training.learning_rate=1e-5` or `--set data.sources.0.take=100`. Relative paths are relative to the recipe.
"""


def recipe_reference() -> str:
    """Return all fields as Markdown, a table a section."""
    return "\n".join([_INTRODUCTION, *_section_tables(Recipe, "")])


def _section_tables(section: type[BaseModel], prefix: str) -> list[str]:
    title = f"`{prefix}`" if prefix else "Top level"
    lines = [
        f"## {title}",
        "",
        (section.__doc__ or "").split("\n")[0],
        "",
        "| field | default | meaning |",
        "| --- | --- | --- |",
    ]
    inner: list[str] = []
    for name, field in section.model_fields.items():
        nested = _nested_section(field.annotation)
        if nested is not None:
            repeated = "[]" if get_origin(field.annotation) is tuple else ""
            inner += _section_tables(nested, f"{prefix}.{name}{repeated}".lstrip("."))
        default = "required" if field.is_required() else f"`{_show(field.get_default(call_default_factory=True))}`"
        meaning = " ".join((field.description or (nested.__doc__ if nested else "") or "").split())
        lines.append(f"| `{name}` | {default} | {meaning.replace('``', '`').replace('|', chr(92) + '|')} |")
    return [*lines, "", *inner]


def _nested_section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested_section(part))), None)


def _show(default: Any) -> str:
    if default is PydanticUndefined or default is None:
        return "null"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, tuple):
        return "[" + ", ".join(_show(item) for item in default) + "]"
    return (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )
