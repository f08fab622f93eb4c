"""``genesis-sft eval MODEL`` as a user meets it."""

import json
import os
import re

import pytest

from genesis_sft.cli.commands import app
from genesis_sft.errors import InputError, ModelError
from genesis_sft.run_dir import MARKER
from tests.evals.conftest import LAMBADA, MMLU, PIQA
from tests.evals.test_documents import write_rows
from tests.program import run_program, start_program
from tests.training.processes.processes import meeting_place, torchrun_environment

OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments):
    app(["eval", *map(str, arguments)], standalone_mode=False)


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "docs" / "piqa.validation.jsonl", PIQA)
    write_rows(tmp_path / "docs" / "lambada_openai.test.jsonl", LAMBADA)
    write_rows(tmp_path / "docs" / "mmlu" / "anatomy.test.jsonl", MMLU)
    write_rows(tmp_path / "docs" / "mmlu" / "anatomy.dev.jsonl", MMLU[:1])
    return tmp_path / "docs"


def test_both_surfaces_and_examples_of_a_folder(tiny_base, folder, tmp_path, capsys):
    arguments = ["--tasks", "piqa,mmlu:1,mmlu", "--surfaces", "raw,chat", "--data", folder, "--dtype", "bfloat16"]
    run(tiny_base.path, *arguments, "--out", tmp_path / "out", "--json")
    record = json.loads(capsys.readouterr().out)
    assert [(one["task"], one["surface"], one["num_fewshot"]) for one in record["tasks"]] == [
        (task, surface, shots) for surface in ("raw", "chat") for task, shots in (("piqa", 0), ("mmlu", 1), ("mmlu", 0))
    ]
    assert record["settings"]["dtype"] == "bfloat16"
    assert record["settings"]["data"] == "folder"
    assert str(folder) not in (tmp_path / "out" / "record.json").read_text()
    run(tiny_base.path, *arguments, "--out", tmp_path / "out")
    shown, told = capsys.readouterr()
    assert "measured before" in told
    assert "95 % interval" in shown
    assert "not above chance: " in shown


def test_a_dry_run_only_says_what_would_be_asked(tiny_base, folder, tmp_path, capsys):
    run(tiny_base.path, "--tasks", "piqa,lambada_openai", "--data", folder, "--dry-run", "--out", tmp_path / "o")
    shown = capsys.readouterr().out
    assert "piqa, raw: 3 items, 6 requests" in shown
    assert "lambada_openai, raw: 2 items, 2 requests" in shown
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "mmlu:five"], "--tasks: expected a number of answered questions"),
        (["--tasks", "mmlu:26"], "less than or equal to 25"),
        (["--surfaces", "raw,raw"], "--surfaces: surfaces is [raw]"),
        (["--surfaces", "cooked"], "--surfaces: expected"),
        (["--device", "gpu"], "--device: expected auto, cpu or cuda"),
        (["--dtype", "float16"], "--dtype: expected float32 or bfloat16"),
        (["--data", "nowhere"], "--data: expected auto, hub, package or a folder; found 'nowhere'"),
        (["--tasks", "lambada_openai:2"], "no answered questions"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_base, arguments, words):
    with pytest.raises(InputError, match=re.escape(words)):
        run(tiny_base.path, *arguments)


def test_a_name_that_is_nearly_one_is_answered_with_it(tiny_base):
    with pytest.raises(InputError, match="--tasks: ") as refused:
        run(tiny_base.path, "--tasks", "arc_esy")
    assert refused.value.hint == "Did you mean arc_easy?"
    with pytest.raises(InputError, match=r"expected MODEL or a command \(judge\), found 'jduge'") as refused:
        run("jduge", "results.json")
    assert refused.value.hint.endswith("eval judge`?")


def test_a_folder_that_is_named_nearly_like_a_command_is_taken_for_a_folder(tmp_path, monkeypatch):
    (tmp_path / "judges").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="judges"):
        run("judges")


@pytest.mark.parametrize("command", ["eval", "chat"])
def test_a_run_is_answered_with_where_its_models_are(tmp_path, command):
    (tmp_path / MARKER).touch()
    with pytest.raises(InputError, match="found the folder of a run") as refused:
        app([command, str(tmp_path)], standalone_mode=False)
    assert "no model yet" in refused.value.hint
    for stage in ("base", "export"):
        (tmp_path / stage / "model").mkdir(parents=True)
    with pytest.raises(InputError) as refused:
        app([command, str(tmp_path)], standalone_mode=False)
    tuned, base = tmp_path / "export" / "model", tmp_path / "base" / "model"
    assert refused.value.hint == f"Its tuned model is {tuned}, its base model is {base}."


@pytest.mark.parametrize("command", ["eval", "chat"])
def test_a_copy_of_a_run_without_its_hidden_file_is_known_too(tmp_path, command):
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "export" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match="found the folder of a run") as refused:
        app([command, str(tmp_path)], standalone_mode=False)
    assert str(tmp_path / "export" / "model") in refused.value.hint


@pytest.mark.parametrize("command", ["eval", "chat"])
def test_a_name_that_only_recipes_know_is_answered_with_how_to_come_by_a_folder(command):
    with pytest.raises(InputError, match="names of this kind are for recipes") as refused:
        app([command, "package:smollm2-135m-instruct"], standalone_mode=False)
    assert "base/model" in refused.value.hint


def test_another_evaluation_is_replaced_when_asked_to(tiny_base, folder, tmp_path, capsys):
    out = tmp_path / "out"
    for limit, more in ((2, []), (1, ["--replace"])):
        run(tiny_base.path, "--tasks", "piqa", "--data", folder, "--limit", limit, "--out", out, *more)
        assert json.loads((out / "record.json").read_text())["tasks"][0]["n"] == limit
    with pytest.raises(InputError, match="without another evaluation"):
        run(tiny_base.path, "--tasks", "piqa", "--data", folder, "--limit", 2, "--out", out)


@pytest.mark.slow
def test_as_torchrun_starts_them_one_process_speaks_and_the_scores_are_the_same(tiny_base, folder, tmp_path):
    arguments = ["--tasks", "piqa,lambada_openai", "--surfaces", "raw,chat", "--data", folder, "--device", "cpu"]
    alone = run_program("eval", tiny_base.path, *arguments, env=OFFLINE)
    place = meeting_place()
    ranks = [
        start_program(
            *("eval", tiny_base.path, *arguments, "--out", tmp_path / "out"),
            stdout=tmp_path / f"stdout-{rank}",
            stderr=tmp_path / f"stderr-{rank}",
            env=OFFLINE | torchrun_environment(rank, 2, 2, place.port),
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.join(120)
        process.kill()
        process.join()
    said = "".join((tmp_path / f"stderr-{rank}").read_text() for rank in range(2))
    assert [alone.returncode, *(process.exitcode for process in ranks)] == [0, 0, 0], said
    assert (tmp_path / "stdout-0").read_text() == alone.stdout
    assert (tmp_path / "stdout-1").read_text() == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "answers.jsonl",
        "record.json",
        "samples.jsonl",
    ]
    assert said.count("  piqa: acc") == 1
