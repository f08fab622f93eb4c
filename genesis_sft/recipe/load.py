"""Read a recipe, or the part of it that one command needs; paths in it become absolute."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from genesis_sft.errors import RecipeError
from genesis_sft.recipe.data import SourceSection
from genesis_sft.recipe.evals import EvalsSection
from genesis_sft.recipe.sections import DataRecipe, Recipe, SynthesisRecipe
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.recipe.yaml_model import Location, apply_override, check, read_yaml, show_value


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
    values, places = _read(path, overrides)
    if "synthesis" in values and not {"base", "data", "training"} & values.keys():
        raise RecipeError(
            f"{path}: expected a recipe with base, data and training, found one that only says what to write",
            hint=f"`genesis-sft synthesize {path}` has its conversations written.",
        )
    return _with_absolute_paths(check(values, places, Recipe, path), path)


def load_synthesis(path: str | Path, overrides: Sequence[str] = ()) -> SynthesisRecipe:
    """Read what is to be written from a recipe with a ``synthesis`` section, or from a file with just that.

    Args:
        path: The YAML file: a whole recipe, or one with ``synthesis`` and, where wanted, ``seed`` and ``evals``.
        overrides: As for `load_recipe`.

    Raises:
        RecipeError: As for `load_recipe`, or there is no ``synthesis`` section.
    """
    path = Path(path)
    values, places = _read(path, overrides)
    if "base" in values or "training" in values:
        recipe = _with_absolute_paths(check(values, places, Recipe, path), path)
        if recipe.synthesis is None:
            raise RecipeError(
                f"{path}: expected a section synthesis, found a recipe without one",
                hint="recipes/synthesis.yaml is an example.",
            )
        return SynthesisRecipe(seed=recipe.seed, synthesis=recipe.synthesis, evals=recipe.evals)
    found = check(values, places, SynthesisRecipe, path)
    synthesis = _with_absolute_synthesis(found.synthesis, path)
    return found.model_copy(update={"synthesis": synthesis, "evals": _with_absolute_evals(found.evals, path)})


def _read(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[Location, str]]:
    hint = "recipes/ holds some to start from; recipes/quickstart.yaml is the smallest."
    return read_yaml(path, overrides, what="a recipe", hint=hint)


def data_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> DataRecipe:
    """Check the part of a recipe that takes conversations to tokens.

    Args:
        values: Plain values with ``data``, and ``tokens`` and ``seed`` where they are wanted.
        overrides: As for `load_recipe`.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    places: dict[Location, str] = {(): "the command line"}
    for override in overrides:
        apply_override(values, override, places)
    return check(values, places, DataRecipe)


def resolved_yaml(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; it loads again to an equal recipe."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False, allow_unicode=True)


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors that complete YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


def _with_absolute_paths(recipe: Recipe, path: Path) -> Recipe:
    """Resolve the paths of a recipe against its own folder."""
    absolute = functools.partial(_absolute, path)
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
                    f"found {show_value(name)}"
                )
            filters.append(absolute(file, f"{field}.filters.{number}") + colon + function)
        return source.model_copy(update=update | {"filters": tuple(filters)})

    sources = tuple(resolve(source, f"data.sources.{number}") for number, source in enumerate(recipe.data.sources))
    data = recipe.data.model_copy(update={"sources": sources})
    evals = _with_absolute_evals(recipe.evals, path)
    synthesis = recipe.synthesis and _with_absolute_synthesis(recipe.synthesis, path)
    return recipe.model_copy(update={"base": base, "data": data, "evals": evals, "synthesis": synthesis})


def _with_absolute_evals(evals: EvalsSection, path: Path) -> EvalsSection:
    if evals.data_folder is None:
        return evals
    return evals.model_copy(update={"data": _absolute(path, evals.data_folder, "evals.data")})


def _with_absolute_synthesis(section: SynthesisSection, path: Path) -> SynthesisSection:
    places = {name: _absolute(path, getattr(section, name), f"synthesis.{name}") for name in ("constitution", "out")}
    if section.steps.questions is not None:
        questions = _absolute(path, section.steps.questions, "synthesis.steps.questions")
        return section.model_copy(update=places | {"steps": section.steps.model_copy(update={"questions": questions})})
    return section.model_copy(update=places)


def _absolute(recipe_path: Path, text: str, field: str, *, keep_name: bool = False) -> str:
    try:
        found = recipe_path.resolve().parent / Path(text).expanduser()
        resolved = found.resolve()
        # a file of the Hub's cache is a link to one whose name does not tell its kind
        return str(found.parent.resolve() / found.name if keep_name and found.is_file() else resolved)
    except (OSError, ValueError, RuntimeError) as error:  # ~nobody, a loop of links, a NUL character
        raise RecipeError(f"{recipe_path}: {field}: expected a path, found {show_value(text)}: {error}") from None
