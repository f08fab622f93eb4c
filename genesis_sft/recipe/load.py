"""Read a recipe: YAML with line numbers, dotted overrides, and errors that name the line and the nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from genesis_sft.errors import RecipeError
from genesis_sft.recipe.sections import Recipe

Location = tuple[str | int, ...]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; relative paths in it become absolute, as seen from the recipe's folder.

    Args:
        path: The YAML file.
        overrides: ``"dotted.key=value"`` each, value in YAML: ``"training.learning_rate=1e-5"``,
            ``"data.sources.0.take=10"``.

    Raises:
        RecipeError: The file is missing or no YAML, has an unknown key, a wrong type or an impossible combination.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"expected a recipe at {path}: {error.strerror if isinstance(error, OSError) else error}",
            hint="recipes/ holds three to start from; recipes/quickstart.yaml is the smallest.",
        ) from None
    values, lines = _parse(text, path)
    for override in overrides:
        _apply_override(values, override)
    try:
        recipe = Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError(_explain(error, lines, path)) from None
    return _with_absolute_paths(recipe, path.resolve().parent)


def resolved_yaml(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; it loads again to an equal recipe."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False, allow_unicode=True)


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors that complete YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: ``2e-5`` is a number, ``no`` and ``on`` are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML declares it, as an instance variable


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"true|True|false|False", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|", "~nN\0"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""])


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read ``0042`` as 42 (YAML 1.2), not as octal."""
    return int(loader.construct_scalar(node).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """Return the values of a YAML text and the line on which each of them stands."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[Location, int] = {}
        if node is not None:
            _collect_lines(node, (), lines, path)
        values = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping with keys such as base, data, training; found {_kind(values)}")
    return values, lines


def _collect_lines(node: yaml.Node, location: Location, lines: dict[Location, int], path: Path) -> None:
    lines[location] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in seen:
                raise RecipeError(
                    f"{path}:{key_node.start_mark.line + 1}: {_dotted((*location, key))} stands here twice"
                )
            seen.add(key)
            _collect_lines(value_node, (*location, key), lines, path)
            lines[(*location, key)] = key_node.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect_lines(item, (*location, index), lines, path)


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in place."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise RecipeError(f"expected --set KEY=VALUE, found {override!r}", hint="For example --set training.epochs=2")
    *parents, last = dotted.split(".")
    target: Any = values
    for key in parents:
        if isinstance(target, list):
            target = target[_list_index(target, key, override)]
        elif isinstance(target, dict):
            target = target.setdefault(key, {})
        else:
            raise RecipeError(f"--set {override}: {key} lies inside {_kind(target)}, which has no keys")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is no valid YAML: {error}") from None
    if isinstance(target, list):
        target[_list_index(target, last, override)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise RecipeError(f"--set {override}: {last} lies inside {_kind(target)}, which has no keys")


def _list_index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise RecipeError(f"--set {override}: expected a number from 0 to {len(items) - 1}, found {key!r}")
    return int(key)


def _explain(error: ValidationError, lines: dict[Location, int], path: Path) -> str:
    """Turn pydantic's findings into one line each: where, what was expected, what was found, the nearest key."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    # where an item of a list is wrong, pydantic reports the list as too short as well
    inner = {item["loc"][:end] for item in items for end in range(len(item["loc"]))}
    items = [item for item in items if not (item["type"] == "too_short" and item["loc"] in inner)]
    return "\n".join(_explain_one(item, lines, path) for item in items)


def _explain_one(item: dict[str, Any], lines: dict[Location, int], path: Path) -> str:
    location: Location = tuple(item["loc"])
    where = f"{path}:{_nearest_line(location, lines)}: {_dotted(location) or 'the recipe'}"
    if item["type"] == "extra_forbidden":
        valid = sorted(_section_at(location[:-1]).model_fields)
        nearest = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"valid keys: {', '.join(valid)}"
        return f"{where} is not a key of a recipe; {advice}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: expected {message.removeprefix('Input should be ')}; found {_show(item['input'])}"


def _section_at(location: Location) -> type[BaseModel]:
    """Return the section model at a location, by walking the fields' types."""
    section: type[BaseModel] = Recipe
    for key in location:
        if isinstance(key, int):
            continue
        annotation: Any = section.model_fields[key].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            annotation = annotation.__args__[0]
        section = annotation
    return section


def _nearest_line(location: Location, lines: dict[Location, int]) -> int:
    while location not in lines and location:
        location = location[:-1]
    return lines.get(location, 1)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"{_kind(value)} {text if len(text) <= 60 else text[:57] + '...'}" if value is not None else "nothing"


def _with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve the paths of base model and sources against the recipe's own folder."""

    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve())

    base = recipe.base
    if not base.model.startswith(("package:", "hub:")):
        base = base.model_copy(update={"model": absolute(base.model)})
    sources = tuple(
        source.model_copy(update={"path": absolute(source.path)}) if source.path is not None else source
        for source in recipe.data.sources
    )
    data = recipe.data.model_copy(update={"sources": sources})
    return recipe.model_copy(update={"base": base, "data": data})
