"""What is to be written stands in a recipe or in a file of its own; what it may cost is checked when it is read."""

from pathlib import Path

import pytest

from genesis_sft.errors import RecipeError
from genesis_sft.recipe import load_recipe, load_synthesis
from tests.test_recipe import GOOD

ALONE = "seed: 7\nsynthesis:\n  constitution: ../constitution\n  out: written\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "synthesis.yaml"
    path.write_text(text)
    return path


def test_a_file_of_its_own_and_a_section_of_a_recipe_say_the_same(tmp_path: Path) -> None:
    alone = load_synthesis(write(tmp_path, ALONE + "evals: {tasks: [{task: piqa}]}\n"))
    inside = load_synthesis(write(tmp_path, GOOD + ALONE))
    assert alone.seed == inside.seed == 7
    assert alone.synthesis == inside.synthesis
    assert [task.task for task in alone.evals.tasks] == [task.task for task in inside.evals.tasks] == ["piqa"]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = ALONE + "  steps: {questions: questions.jsonl}\nevals: {data: documents}\n"
    found = load_synthesis(write(tmp_path, text))
    assert found.synthesis.constitution == str(tmp_path.parent / "constitution")
    assert found.synthesis.out == str(tmp_path / "written")
    assert found.synthesis.steps.questions == str(tmp_path / "questions.jsonl")
    assert found.evals.data == str(tmp_path / "documents")


def test_a_recipe_without_the_section_is_refused_here_and_fine_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert load_recipe(path).synthesis is None
    with pytest.raises(RecipeError, match="expected a section synthesis"):
        load_synthesis(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  provider: {modell: x}", "synthesis.provider.modell is no known key; did you mean model?"),
        ("  provider: {api: openai, batches: true}", "batches are Anthropic's Message Batches"),
        ("  provider: {base_url: 'ftp://server'}", "expected base_url to be an address such as"),
        ("  provider: {base_url: 'http://me:secret@server/v1'}", "keys belong into the environment"),
        ("  provider: {base_url: 'http://server/v1?key=secret'}", "keys belong into the environment"),
        ("  provider: {key_from: 'sk-secret'}", "synthesis.provider.key_from"),
        ("  budget_usd: 0", "synthesis.budget_usd"),
        ("  budget_usd: .inf", "synthesis.budget_usd"),
        ("  conversations: 0", "synthesis.conversations"),
        ("  steps: {revision: false}", "a critique is for the revision"),
        ("  provider: {price: {input: -1, output: 5}}", "synthesis.provider.price.input"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_synthesis(write(tmp_path, ALONE + line + "\n"))
    assert expected in str(caught.value)
    assert "synthesis.yaml:" in str(caught.value)


def test_a_key_in_an_address_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_synthesis(write(tmp_path, ALONE + "  provider: {base_url: 'http://me:secret@server/v1'}\n"))
    assert "secret" not in str(caught.value)


def test_a_file_that_only_says_what_to_write_is_no_recipe_and_says_which_command_takes_it(tmp_path: Path) -> None:
    path = write(tmp_path, ALONE)
    with pytest.raises(RecipeError, match="only says what to write") as refused:
        load_recipe(path)
    assert refused.value.hint is not None
    assert f"genesis-sft synthesize {path}" in refused.value.hint
