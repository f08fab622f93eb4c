"""Sources of a recipe: known data sets by name, patterns and filters relative to the recipe, shares that add up."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from genesis_sft.errors import RecipeError
from genesis_sft.recipe import DataSection, Recipe, SourceSection, TokensSection, load_recipe, resolved_yaml
from genesis_sft.recipe.presets import PRESETS, fill_from_preset

RECIPE = """\
name: tiny
base: {{model: "package:smollm2-135m-instruct"}}
evals: {{data: package}}
data:
  sources:
    - {{name: a, {source}}}
training: {{batch: {{sequences: 8}}}}
"""


def load(folder: Path, source: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(source=source))
    return load_recipe(path)


def sources(*fields: dict[str, object]) -> DataSection:
    return DataSection.model_validate(
        {"sources": tuple({"name": f"s{number}", "path": "a.jsonl", **each} for number, each in enumerate(fields))}
    )


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("smoltalk", ("HuggingFaceTB/smoltalk", "smol-magpie-ultra", "messages", "Apache-2.0")),
        ("openhermes-2.5", ("teknium/OpenHermes-2.5", None, "sharegpt", None)),
        ("tulu-3", ("allenai/tulu-3-sft-mixture", None, "messages", "ODC-BY-1.0")),
        ("metamathqa", ("meta-math/MetaMathQA", None, "metamath", "MIT")),
    ],
)
def test_a_preset_gives_what_is_absent(preset, expected):
    source = SourceSection(name="a", preset=preset, revision="abc")
    assert (source.hub, source.config, source.format, source.licence) == expected
    stated = SourceSection(name="a", preset=preset, revision="abc", hub="me/mine", config="x", licence="y")
    assert (stated.hub, stated.config, stated.licence) == ("me/mine", "x", "y")


def test_with_a_path_a_preset_tells_only_how_rows_are_laid_out():
    source = SourceSection(name="a", preset="smoltalk", path="copy/*.parquet")
    assert (source.hub, source.config, source.format) == (None, None, "messages")
    assert set(PRESETS) == {"smoltalk", "openhermes-2.5", "tulu-3", "metamathqa"}


def test_an_unknown_preset_is_refused(tmp_path):
    assert fill_from_preset({"name": "a", "preset": "none"}) == {"name": "a", "preset": "none"}
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:6: data.sources.0.preset: expected 'smoltalk', 'openhermes-2.5'"
    ):
        load(tmp_path, "preset: dolly")


def test_a_preset_of_the_hub_needs_a_revision(tmp_path):
    with pytest.raises(RecipeError, match="a hub source needs a revision"):
        load(tmp_path, "preset: tulu-3")


def test_a_recipe_with_a_preset_loads_again_to_itself(tmp_path):
    recipe = load(tmp_path, "preset: metamathqa, revision: abc, turns: repair, filters: ['f.py:keep'], epochs: 2.5")
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_patterns_and_filters_are_relative_to_the_recipe(tmp_path):
    source = load(
        tmp_path, "path: '../shards/[ab]*/*.jsonl.gz', filters: ['mine.py:keep', '/abs/olute.py:drop']"
    ).data.sources[0]
    assert source.path == f"{tmp_path.parent}/shards/[ab]*/*.jsonl.gz"
    assert source.filters == (f"{tmp_path}/mine.py:keep", "/abs/olute.py:drop")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    source = load(tmp_path, "path: '~/data/*.jsonl', filters: ['~/mine.py:keep']").data.sources[0]
    assert (source.path, source.filters) == ("/home/me/data/*.jsonl", ("/home/me/mine.py:keep",))


def test_a_link_keeps_its_name_as_that_tells_the_kind(tmp_path):
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "a.jsonl").symlink_to("blob")
    assert load(tmp_path, "path: a.jsonl").data.sources[0].path == f"{tmp_path}/a.jsonl"


@pytest.mark.parametrize("name", ["mine.py", "mine.py:", ":keep", "mine.py:keep it", "mine.py:a.b"])
def test_what_is_no_filter_is_refused(tmp_path, name):
    problem = r"recipe.yaml: data.sources.0.filters.0: expected a function such as my_filters.py:keep_english, found .*"
    with pytest.raises(RecipeError, match=problem):
        load(tmp_path, f"path: a.jsonl, filters: ['{name}']")


def test_shares_add_up_or_leave_something_for_the_rest():
    assert sources({"share": 0.3}, {"share": 0.7}).sources[1].share == 0.7
    assert sources(*({"share": 0.1} for _ in range(10))).sources[0].share == 0.1
    assert sources({"share": 0.9}, {}).sources[1].share is None
    with pytest.raises(ValidationError, match=r"every source has a share, so they must add up to 1; found 0.8"):
        sources({"share": 0.3}, {"share": 0.5})
    with pytest.raises(ValidationError, match="leave nothing for the sources without one: they add up to 1"):
        sources({"share": 0.5}, {"share": 0.5}, {})
    with pytest.raises(ValidationError, match=r"take .* or share .*, not both"):
        sources({"share": 0.5, "take": 3}, {"share": 0.5})


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"epochs": 1001},
        {"epochs": float("nan")},
        {"share": 0},
        {"share": 1.1},
        {"turns": "mend"},
        {"reasoning": "drop"},
        {"bad_rows": "ignore"},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValidationError, match=f"sources.0.{next(iter(fields))}"):
        sources(fields)


def test_the_defaults_change_nothing_in_a_source():
    source = sources({}).sources[0]
    assert (source.turns, source.filters, source.reasoning, source.take, source.share) == (
        "strict",
        (),
        None,
        None,
        None,
    )
    assert (source.epochs, source.bad_rows, source.licence, source.preset) == (1.0, "reject", None, None)
    data = sources({})
    assert (data.near_duplicates, data.decontaminate, data.expected_total) == (None, "remove", None)
    assert (TokensSection().reasoning, TokensSection().over_length) == ("keep", "drop")


def test_names_that_one_folder_could_have_are_refused():
    with pytest.raises(ValidationError, match="two sources have the same name: web"):
        DataSection.model_validate(
            {"sources": ({"name": "Web", "path": "a.jsonl"}, {"name": "web", "path": "b.jsonl"})}
        )


@pytest.mark.parametrize("threshold", [0.49, 1, 2])
def test_near_duplicates_must_be_alike(threshold):
    with pytest.raises(ValidationError, match="near_duplicates"):
        DataSection.model_validate({"sources": ({"name": "a", "path": "a"},), "near_duplicates": threshold})
