"""Read YAML as a pydantic model: line numbers, dotted overrides, and errors that name the nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from genesis_sft.errors import RecipeError

Location = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


def read_yaml_model(
    path: Path, model: type[ModelT], overrides: Sequence[str] = (), *, hint: str | None = None
) -> ModelT:
    """Read a YAML file as a model; errors name the file's line and the nearest valid key.

    Args:
        path: The file.
        model: What it holds.
        overrides: As for `load_recipe`.
        hint: What to do where the file is missing.

    Raises:
        RecipeError: The file is missing or no YAML, has an unknown key, a wrong type or an impossible combination.
    """
    values, places = read_yaml(path, overrides, hint=hint)
    return check(values, places, model, path)


def read_yaml(
    path: Path, overrides: Sequence[str] = (), *, what: str = "a YAML file", hint: str | None = None
) -> tuple[dict[str, Any], dict[Location, str]]:
    """Return the values of a file after the overrides, and where each of them stands: ``"recipe.yaml:13"``.

    Raises:
        RecipeError: As for `read_yaml_model`, but the values are not looked at.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8, or a path that no file can have
        problem = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"expected {what} at {path}: {problem}", hint=hint) from None
    try:
        values, places = _parse(text, path)
        for override in overrides:
            apply_override(values, override, places)
    except RecursionError:
        raise _too_deep(path) from None
    return values, places


def check(values: dict[str, Any], places: dict[Location, str], model: type[ModelT], path: Path | None = None) -> ModelT:
    """Return the values as a model.

    Args:
        values: Plain values.
        places: Where each of them stands, as `read_yaml` says it; at least where ``()`` does.
        model: What they are to be.
        path: The file they come from, if any.

    Raises:
        RecipeError: They are something else; names place, expectation and the nearest valid key.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except RecursionError:
        raise _too_deep(path or places[()]) from None
    except ValidationError as error:
        raise RecipeError(_explain(error, places, model)) from None


def _too_deep(path: Path | str) -> RecipeError:
    return RecipeError(f"{path}: lists or mappings lie too deeply inside one another")


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: ``2e-5`` is a number, ``no`` and ``on`` are text.

    Anchors, aliases and tags are refused: no recipe needs them, and a few lines of aliases can stand for terabytes.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML declares it, as an instance variable

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.NodeEvent) and (event.anchor or getattr(event, "tag", None)):
            raise yaml.MarkedYAMLError(
                problem="anchors (&), aliases (*) and tags (!) are not read; write the value out, in quotes if it is "
                "text",
                problem_mark=event.start_mark,  # type: ignore[arg-type]
            )
        return super().compose_node(parent, index)


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
    try:
        return int(loader.construct_scalar(node).replace("_", ""))
    except ValueError:  # more digits than Python reads
        raise yaml.MarkedYAMLError(problem="a number with too many digits", problem_mark=node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _parse(text: str, path: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """Return the values of a YAML text, and where each of them stands: ``"recipe.yaml:13"``."""
    try:
        loader = _Loader(text)
        loader.name = str(path)  # for the marks in error messages
        node = loader.get_single_node()
        places: dict[Location, str] = {(): f"{path}:1"}
        if node is not None:
            _collect_places(node, (), places, path)
        values = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of keys to values; found {_kind(values)}")
    return values, places


def _collect_places(node: yaml.Node, location: Location, places: dict[Location, str], path: Path) -> None:
    places[location] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in seen:
                raise RecipeError(
                    f"{path}:{key_node.start_mark.line + 1}: {_dotted((*location, key))} stands here twice"
                )
            seen.add(key)
            _collect_places(value_node, (*location, key), places, path)
            places[(*location, key)] = f"{path}:{key_node.start_mark.line + 1}"
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect_places(item, (*location, index), places, path)


def apply_override(values: dict[str, Any], override: str, places: dict[Location, str]) -> None:
    """Set one dotted key in place, ``"training.epochs=2"``, and note that its value comes from ``--set``."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise RecipeError(f"expected --set KEY=VALUE, found {override!r}", hint="For example --set training.epochs=2")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is no valid YAML: {error}") from None
    target: Any = values
    location: Location = ()
    *parents, last = dotted.split(".")
    for key in parents:
        step = _step(target, key, override)
        target = target[step] if isinstance(step, int) else target.setdefault(step, {})
        location = (*location, step)
        places.setdefault(location, f"--set {override}")
    step = _step(target, last, override)
    target[step] = value
    location = (*location, step)
    for below in [place for place in places if place[: len(location)] == location]:
        del places[below]
    places[location] = f"--set {override}"


def _step(target: Any, key: str, override: str) -> str | int:
    """Return a part of a dotted key as what a mapping or list is asked for."""
    if isinstance(target, list):
        return _list_index(target, key, override)
    if isinstance(target, dict):
        return key
    raise RecipeError(f"--set {override}: {key} lies inside {_kind(target)}, which has no keys")


def _list_index(items: list[Any], key: str, override: str) -> int:
    numbers = [str(number) for number in range(len(items))]
    if key not in numbers:
        raise RecipeError(f"--set {override}: expected a number from 0 to {len(items) - 1}, found {key!r}")
    return numbers.index(key)


def _explain(error: ValidationError, places: dict[Location, str], model: type[BaseModel]) -> str:
    """Turn pydantic's findings into one line each: where, what was expected, what was found, the nearest key."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    # where an item of a list is wrong, pydantic reports the list as too short as well
    inner = {item["loc"][:end] for item in items for end in range(len(item["loc"]))}
    items = [item for item in items if not (item["type"] == "too_short" and item["loc"] in inner)]
    return "\n".join(_explain_one(item, places, model) for item in items)


def _explain_one(item: dict[str, Any], places: dict[Location, str], model: type[BaseModel]) -> str:
    location: Location = tuple(item["loc"])
    where = f"{_nearest_place(location, places)}: {_dotted(location) or 'the file'}"
    if item["type"] == "extra_forbidden":
        valid = sorted(_section_at(location[:-1], model).model_fields)
        nearest = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"valid keys: {', '.join(valid)}"
        return f"{where} is no known key; {advice}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("value_error", "json_invalid"):
        return f"{where}: {message}"
    return f"{where}: expected {message.removeprefix('Input should be ')}; found {show_value(item['input'])}"


def _section_at(location: Location, section: type[BaseModel]) -> type[BaseModel]:
    """Return the section model at a location, by walking the fields' types."""
    for key in location:
        if isinstance(key, int) or key not in section.model_fields:  # an item of a list, a key of a mapping
            continue
        annotation: Any = section.model_fields[key].annotation
        while not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            annotation = annotation.__args__[-1 if annotation.__origin__ is dict else 0]
        section = annotation
    return section


def _nearest_place(location: Location, places: dict[Location, str]) -> str:
    while location not in places:
        location = location[:-1]
    return places[location]


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")


def show_value(value: Any) -> str:
    """Return a value for an error message: its kind, and the beginning of its text."""
    text = json.dumps(value, ensure_ascii=False)
    return f"{_kind(value)} {text if len(text) <= 60 else text[:57] + '...'}" if value is not None else "nothing"
