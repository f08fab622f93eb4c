"""`genesis-sft data prepare`: files without a recipe, a recipe's data stage, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from genesis_sft.cli.data import data_app
from genesis_sft.cli.prepared_folder import making
from genesis_sft.errors import DataError, InputError, RecipeError

RECIPE = """\
name: tiny
base: {{model: {model}, verify: warn}}
evals: {{data: package}}
data:
  sources:
    - {{name: sums, path: sums.jsonl{fields}}}
training: {{batch: {{sequences: 8}}}}
"""


def call(*arguments: Any) -> str:
    """Standard output of a command; errors are raised."""
    result = CliRunner().invoke(data_app, ["prepare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [{"query": f"{number} plus {number}?", "response": str(2 * number)} for number in range(20)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], {"query": "why"}]))
    return path


def test_files_become_a_store_and_the_ledger_comes_last(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "out"
    answer = json.loads(call(sums, "--tokenizer", tiny_folder, "--out", out, "--json"))
    assert {"rows_read": 22, "rejected": 1, "duplicates": 1, "kept": 20}.items() <= answer["total"].items()
    assert answer["tokens_encoded"] == sum(source["tokens"] for source in answer["sources"]) + tokens_of_a_duplicate(
        out
    )
    assert answer["tokens_per_second"] > 0
    assert [source["name"] for source in answer["sources"]] == ["sums"]
    assert json.loads((out / "rejects.jsonl").read_text())["reason"] == "no response"
    assert json.loads((out / "dropped.jsonl").read_text()) == {"source": "sums", "row": 20, "reason": "duplicate"}
    again = json.loads(call(sums, "--tokenizer", tiny_folder, "--out", out, "--json", "--set", "data.sources.0.take=5"))
    assert (again["total"]["kept"], again["tokens_encoded"], again["tokens_per_second"]) == (5, 0, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sums.jsonl"]


def tokens_of_a_duplicate(out: Path) -> int:
    info = json.loads((out / "sources" / "sums" / "source.json").read_text())
    kept = json.loads((out / "ledger.json").read_text())["sources"][0]["tokens"]
    return int(info["tokens"] - kept)


def test_files_of_one_name_are_told_apart(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "sums.json"
    other.write_text('[{"instruction": "Sing", "output": "La"}]')
    answer = json.loads(call(sums, other, "--tokenizer", tiny_folder, "--out", tmp_path / "out", "--json"))
    assert [(source["name"], source["kept"]) for source in answer["sources"]] == [("sums", 20), ("sums-2", 1)]


def test_a_folder_with_other_things_is_left_alone(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match=r"expected an empty folder, or one that `data prepare` made"):
        call(sums, "--tokenizer", tiny_folder, "--out", out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["ledger.json", "sources/mine/notes.txt", "raw/rows.jsonl", ".hidden"])
def test_a_foreign_file_in_a_prepared_folder_is_never_removed(
    sums: Path, tmp_path: Path, tiny_folder: Path, place: str
) -> None:
    out = tmp_path / "out"
    if place == "ledger.json":  # its name alone is no proof
        (out / "thesis").mkdir(parents=True)
        (out / "thesis" / "one.txt").touch()
    else:
        call(sums, "--tokenizer", tiny_folder, "--out", out)
    (out / place).parent.mkdir(exist_ok=True)
    (out / place).write_text("precious")
    before = sorted(path.as_posix() for path in out.rglob("*"))
    with pytest.raises(InputError, match="expected an empty folder"):
        call(sums, "--tokenizer", tiny_folder, "--out", out)
    assert sorted(path.as_posix() for path in out.rglob("*")) == before


def test_inputs_and_cache_do_not_lie_in_the_output(
    sums: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call(sums, "--tokenizer", tiny_folder, "--out", out)
    with pytest.raises(InputError, match="expected inputs outside of the output folder"):
        call(f"{tmp_path}/**/*.jsonl", "--tokenizer", tiny_folder, "--out", out)
    monkeypatch.setattr("genesis_sft.assets.cache_dir", lambda: tmp_path / "cache")
    for place in (tmp_path / "cache", tmp_path / "cache" / "sources", tmp_path):
        with pytest.raises(InputError, match=r"apart from the cache|expected an empty folder"):
            call(sums, "--tokenizer", tiny_folder, "--out", place)
    assert sums.is_file()


def test_a_link_leads_to_the_folder(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    call(sums, "--tokenizer", tiny_folder, "--out", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "ledger.json").is_file()


def test_a_second_process_with_the_same_output_is_sent_away(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    with making(tmp_path / "out") as folder:
        (folder / "ledger.json").touch()
        with pytest.raises(InputError, match="another process prepares"):
            call(sums, "--tokenizer", tiny_folder, "--out", tmp_path / "out")
        assert [path.name for path in folder.iterdir()] == ["ledger.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ledger.json"]


def test_a_failure_leaves_what_was_there(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "out"
    call(sums, "--tokenizer", tiny_folder, "--out", out)
    before = {path.name for path in out.iterdir()}
    sums.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match="found none"):
        call(sums, "--tokenizer", tiny_folder, "--out", out)
    assert {path.name for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sums.jsonl"]


def test_options_that_do_not_go_together(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(InputError, match=r"expected --tokenizer MODEL and --out DIR"):
        call(sums)
    with pytest.raises(InputError, match="one recipe alone, or files"):
        call("a.yaml", sums)
    with pytest.raises(RecipeError, match=r"data\.held_outt is no known key; did you mean held_out"):
        call(sums, "--tokenizer", tiny_folder, "--out", tmp_path / "out", "--set", "data.held_outt=0.1")


def test_a_recipe_is_taken_up_to_its_data(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=tiny_folder, fields=""))
    assert "Every row is accounted for: 22 rows read" in call(recipe, "--run-dir", tmp_path / "run")
    stages = {path.name for path in (tmp_path / "run").iterdir() if (path / "manifest.json").is_file()}
    assert stages == {"base", "questions", "data"}


def test_functions_of_a_recipe_run_only_when_they_are_allowed(sums: Path, tmp_path: Path, tiny_folder: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n\n"
        "def keep_even(row):\n    return int(row['messages'][0]['content'].split()[0]) % 2 == 0\n"
    )
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=tiny_folder, fields=", filters: ['own.py:keep_even']"))
    with pytest.raises(RecipeError, match=r"wants to run functions of Python files: .*own\.py:keep_even"):
        call(recipe, "--run-dir", tmp_path / "run")
    assert not ran.exists()
    answer = json.loads(call(recipe, "--run-dir", tmp_path / "run", "--allow-code", "--json"))
    assert ran.exists()
    assert answer["total"]["kept"] == 10
    assert answer["sources"][0]["rejected"] == {"filter keep_even": 10, "no response": 1}
