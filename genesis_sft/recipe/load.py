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
from genesis_sft.recipe.sections import DataRecipe, Recipe, SourceSection

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
    except (OSError, ValueError) as error:  # no UTF-8, or a path that no file can have
        raise RecipeError(
            f"expected a recipe at {path}: {error.strerror if isinstance(error, OSError) else error}",
            hint="recipes/ holds three to start from; recipes/quickstart.yaml is the smallest.",
        ) from None
    try:
        values, places = _parse(text, path)
        for override in overrides:
            _apply_override(values, override, places)
        recipe = Recipe.model_validate_json(json.dumps(values))
    except RecursionError:
        raise RecipeError(f"{path}: lists or mappings lie too deeply inside one another") from None
    except ValidationError as error:
        raise RecipeError(_explain(error, places)) from None
    return _with_absolute_paths(recipe, path)


def data_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> DataRecipe:
    """Check the part of a recipe that takes conversations to tokens.

    Args:
        values: Plain values with ``data``, and ``tokens`` and ``seed`` where they are wanted.
        overrides: As for `load_recipe`.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    places: dict[Location, str] = {(): "the command line"}
    try:
        for override in overrides:
            _apply_override(values, override, places)
        return DataRecipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError(_explain(error, places)) from None


def resolved_yaml(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; it loads again to an equal recipe."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False, allow_unicode=True)


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors that complete YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


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
        raise RecipeError(f"{path}: expected a mapping with keys such as base, data, training; found {_kind(values)}")
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


def _apply_override(values: dict[str, Any], override: str, places: dict[Location, str]) -> None:
    """Set one dotted key in place, and note that its value comes from ``--set``."""
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


def _explain(error: ValidationError, places: dict[Location, str]) -> str:
    """Turn pydantic's findings into one line each: where, what was expected, what was found, the nearest key."""
    items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    # where an item of a list is wrong, pydantic reports the list as too short as well
    inner = {item["loc"][:end] for item in items for end in range(len(item["loc"]))}
    items = [item for item in items if not (item["type"] == "too_short" and item["loc"] in inner)]
    return "\n".join(_explain_one(item, places) for item in items)


def _explain_one(item: dict[str, Any], places: dict[Location, str]) -> str:
    location: Location = tuple(item["loc"])
    where = f"{_nearest_place(location, places)}: {_dotted(location) or 'the recipe'}"
    if item["type"] == "extra_forbidden":
        valid = sorted(_section_at(location[:-1]).model_fields)
        nearest = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"valid keys: {', '.join(valid)}"
        return f"{where} is not a key of a recipe; {advice}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("value_error", "json_invalid"):
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


def _nearest_place(location: Location, places: dict[Location, str]) -> str:
    while location not in places:
        location = location[:-1]
    return places[location]


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), "a number")


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"{_kind(value)} {text if len(text) <= 60 else text[:57] + '...'}" if value is not None else "nothing"


def _with_absolute_paths(recipe: Recipe, path: Path) -> Recipe:
    """Resolve the paths of base model, sources and filters against the recipe's own folder."""

    def absolute(text: str, field: str, *, keep_name: bool = False) -> str:
        try:
            found = path.resolve().parent / Path(text).expanduser()
            resolved = found.resolve()
            # a file of the Hub's cache is a link to one whose name does not tell its kind
            return str(found.parent.resolve() / found.name if keep_name and found.is_file() else resolved)
        except (OSError, ValueError, RuntimeError) as error:  # ~nobody, a loop of links, a NUL character
            raise RecipeError(f"{path}: {field}: expected a path, found {_show(text)}: {error}") from None

    base = recipe.base
    paths = [name for name in ("tokenizer", "config", "names") if getattr(base, name) is not None]
    paths += ["model"] if base.is_local else []
    found: dict[str, Any] = {name: absolute(getattr(base, name), f"base.{name}") for name in paths}
    found["text"] = tuple(absolute(text, f"base.text.{number}") for number, text in enumerate(base.text))
    base = base.model_copy(update=found)

    def resolve(source: SourceSection, field: str) -> SourceSection:
        update: dict[str, Any] = {}
        if source.path is not None:  # perhaps with a pattern in it, which is left to the reading
            update["path"] = absolute(source.path, f"{field}.path", keep_name=True)
        filters = []
        for number, name in enumerate(source.filters):
            file, colon, function = name.rpartition(":")
            if not file or not function.isidentifier():
                raise RecipeError(
                    f"{path}: {field}.filters.{number}: expected a function such as my_filters.py:keep_english, "
                    f"found {_show(name)}"
                )
            filters.append(absolute(file, f"{field}.filters.{number}") + colon + function)
        return source.model_copy(update=update | {"filters": tuple(filters)})

    sources = tuple(resolve(source, f"data.sources.{number}") for number, source in enumerate(recipe.data.sources))
    data = recipe.data.model_copy(update={"sources": sources})
    evals = recipe.evals
    if evals.data_folder is not None:
        evals = evals.model_copy(update={"data": absolute(evals.data_folder, "evals.data")})
    return recipe.model_copy(update={"base": base, "data": data, "evals": evals})
