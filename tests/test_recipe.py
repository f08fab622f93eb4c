"""A wrong recipe fails in the first second, and says where and how to put it right."""

import json
from pathlib import Path

import pytest
import yaml

from genesis_sft.errors import RecipeError
from genesis_sft.recipe import Recipe, load_recipe, recipe_json_schema, resolved_yaml
from genesis_sft.recipe.reference import recipe_reference

ROOT = Path(__file__).resolve().parents[1]

GOOD = """\
name: tiny
base:
  model: "package:smollm2-135m-instruct"
evals:
  data: package
  tasks:
    - {task: piqa, limit: 10}
data:
  sources:
    - {name: a, path: a.jsonl}
training:
  batch: {sequences: 8}
  learning_rate: 2e-5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value)


def test_a_good_recipe_loads_and_resolves(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.training.learning_rate == 2e-5
    assert recipe.data.sources[0].path == str(tmp_path / "a.jsonl")
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


@pytest.mark.parametrize(
    ("line", "wrong", "expected"),
    [
        (
            "  learning_rate: 2e-5",
            "  learning_rte: 2e-5",
            ":13: training.learning_rte is no known key; did you mean learning_rate?",
        ),
        (
            "  learning_rate: 2e-5",
            "  learning_rate: fast",
            ':13: training.learning_rate: expected a valid number; found text "fast"',
        ),
        (
            "  learning_rate: 2e-5",
            "  learning_rate: no",
            ':13: training.learning_rate: expected a valid number; found text "no"',
        ),
        (
            "  batch: {sequences: 8}",
            "  batch: {sequences: 0}",
            ":12: training.batch.sequences: expected greater than 0; found a number 0",
        ),
        ("  batch: {sequences: 8}", "  epochs: 1", ":11: training.batch is missing"),
        (
            "    - {task: piqa, limit: 10}",
            "    - arc_esy",
            ":7: evals.tasks.0: expected a mapping such as {task: piqa, limit: 200}; found text 'arc_esy'; "
            "did you mean {task: arc_easy}?",
        ),
        (
            "    - {name: a, path: a.jsonl}",
            "    - {name: a, pth: a.jsonl}",
            ":10: data.sources.0.pth is no known key; did you mean path?",
        ),
        ("    - {name: a, path: a.jsonl}", "    []", ":9: data.sources: expected Tuple should have at least 1 item"),
        ("    - {task: piqa, limit: 10}", "    - {task: pika}", ":7: evals.tasks.0.task: expected 'arc_challenge'"),
        ("name: tiny", "name: ../../etc", ":1: name: expected"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, wrong: str, expected: str) -> None:
    assert line in GOOD
    assert f"recipe.yaml{expected}" in refusal(tmp_path, GOOD.replace(line, wrong))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("base.model=hub:owner/name", "a hub: model needs a revision"),
        ("base.revision=main", "revision belongs to hub: models only"),
        ("training.min_learning_rate=1", "min_learning_rate (1) is above learning_rate (2e-05)"),
        ("training.betas=[0.9, 1.5]", "betas must lie in [0, 1)"),
        ("data.sources.0.hub=owner/name", "exactly one of them"),
        ("tokens.train_on=[end_of_turn]", "train_on is [assistant] or [assistant, end_of_turn]"),
    ],
)
def test_impossible_combinations_are_refused(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(tmp_path, GOOD, override)


def test_overrides_reach_any_field(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = load_recipe(
        path, ["training.learning_rate=1e-5", "data.sources.0.take=5", "tokens.max_length=64", "seed=9"]
    )
    assert (recipe.training.learning_rate, recipe.data.sources[0].take) == (1e-5, 5)
    assert (recipe.tokens.max_length, recipe.seed) == (64, 9)


@pytest.mark.parametrize(
    "override",
    ["training.epochs", "=3", "data.sources.7.take=1", "name.first=x", "seed: 3", f"data.sources.{'9' * 5000}.x=1"],
)
def test_a_broken_override_is_refused(tmp_path: Path, override: str) -> None:
    refusal(tmp_path, GOOD, override)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert ":15: training.learning_rate stands here twice" in refusal(tmp_path, GOOD + "\n  learning_rate: 3e-5\n")


@pytest.mark.parametrize("text", ["", "- a list", "name: [", "just text", "name: !!python/object/apply:os.system [id]"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("&a [*a]", "anchors (&), aliases (*) and tags (!) are not read"),
        ("!!int abc", "anchors (&), aliases (*) and tags (!) are not read"),
        ("!!timestamp foo", "anchors (&), aliases (*) and tags (!) are not read"),
        ("!!binary aGk=", "anchors (&), aliases (*) and tags (!) are not read"),
        ("9" * 5001, "a number with too many digits"),
        ("[" * 5000 + "]" * 5000, "too deeply inside one another"),
        ("1e999", "learning_rate: expected a finite number"),
    ],
)
def test_yaml_that_no_recipe_needs_is_refused_in_the_file_and_in_an_override(
    tmp_path: Path, value: str, problem: str
) -> None:
    in_file = refusal(tmp_path, GOOD.replace("learning_rate: 2e-5", f"learning_rate: {value}"))
    assert problem in in_file
    assert "too deeply" in problem or "line 13" in in_file or "recipe.yaml:13" in in_file
    assert problem in refusal(tmp_path, GOOD, f"training.learning_rate={value}")


def test_a_few_lines_of_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    assert "line 1," in refusal(tmp_path, BOMB)


def test_a_wrong_override_is_said_to_be_one(tmp_path: Path) -> None:
    for override, problem in {
        "training.epochs=1e5": "training.epochs: expected a valid integer; found a number 100000.0",
        "training.epochs=10001": "training.epochs: expected less than or equal to 10000; found a number 10001",
        "data.sources.0.take=0": "data.sources.0.take: expected greater than 0; found a number 0",
        "more.of=1": "more is no known key",
    }.items():
        assert f"--set {override}: {problem}" in refusal(tmp_path, GOOD, override)
    assert "recipe.yaml:12: training.batch.sequences" in refusal(
        tmp_path, GOOD.replace("sequences: 8", "sequences: 0"), "training.epochs=2"
    )


@pytest.mark.parametrize("path", [r"a\0b", "~nouser/x", "loop/x", ""])
def test_what_cannot_be_a_path_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "data.sources.0.path: expected" in refusal(tmp_path, GOOD.replace("path: a.jsonl", f'path: "{path}"'))
    assert "base.model: expected" in refusal(tmp_path, GOOD, f'base.model="{path}"')


@pytest.mark.parametrize("path", ["a\0b", ".", "loop"])
def test_a_recipe_that_is_no_file_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RecipeError, match="expected a recipe at"):
        load_recipe(f"{tmp_path}/{path}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ["quickstart", "genesis-1b-sft", "genesis-1b-sft-v1"])
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.name == name


def test_the_published_recipe_carries_every_published_figure() -> None:
    """Figures from the run's public notes; see the comments in the recipe."""
    recipe = load_recipe(ROOT / "recipes" / "genesis-1b-sft-v1.yaml")
    takes = {source.name: source.take for source in recipe.data.sources}
    assert takes == {
        "constitutional": 10_000,
        "smoltalk": 100_000,
        "openhermes": 200_000,
        "tulu": 100_000,
        "metamath": 50_000,
    }
    training = recipe.training
    assert (training.batch.sequences, training.learning_rate, training.min_learning_rate) == (32, 2e-5, 2e-6)
    assert (training.warmup_steps, training.betas, training.weight_decay) == (200, (0.9, 0.95), 0.01)
    assert (training.epochs, training.drop_last, recipe.tokens.max_length) == (1, True, 2048)
    assert recipe.tokens.train_on == ("assistant",)
    assert recipe.base.training_loss == 1.93
    tasks = [task.task for task in recipe.evals.tasks]
    assert sorted(tasks) == ["arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "mmlu", "piqa", "winogrande"]


def test_the_recommended_recipe_trains_the_end_of_a_turn() -> None:
    assert "end_of_turn" in load_recipe(ROOT / "recipes" / "genesis-1b-sft.yaml").tokens.train_on


def test_the_shipped_schema_is_the_recipes_own() -> None:
    """Editors complete recipes from this file; `make schema` writes it."""
    assert json.loads((ROOT / "recipes" / "recipe.schema.json").read_text()) == recipe_json_schema()


def test_the_shipped_reference_is_the_recipes_own() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text() == recipe_reference()


def test_every_field_is_explained() -> None:
    for definition in [recipe_json_schema(), *recipe_json_schema()["$defs"].values()]:
        for name, field in definition["properties"].items():
            assert field.get("description") or "$ref" in field, name


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    assert isinstance(recipe, Recipe)
    assert yaml.safe_load(resolved_yaml(recipe))["seed"] == 0
