"""The backend under the harness's own command line and function."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import InputError
from genesis_sft.evals.lm_eval import Backend, main
from genesis_sft.tokens.chatml import CHAT_TEMPLATE

TASK = """\
task: ferries
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"question": f"how many ferries are {n} and {n}?", "choices": [str(2 * n), str(n), "many"], "label": n % 3}
        for n in range(6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ferries.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder


def by_function(name: str, model: ModelDir, tasks: Path, **options: Any) -> list[Any]:
    """Return the samples that the harness's function gives, in this process: most of a process's time is imports."""
    found = lm_eval.simple_evaluate(
        model=name,
        model_args={"pretrained": str(model.path), "dtype": "float32", "device": "cpu"},
        tasks=["ferries"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        **options,
    )
    assert found is not None
    return sorted(found["samples"]["ferries"], key=lambda row: int(row["doc_id"]))


def by_command(model: ModelDir, tasks: Path, out: Path, *more: str, ranks: int = 1) -> list[Any]:
    """Return the samples that the harness's command line writes with our backend."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    arguments = ["--model", "genesis-sft", "--model_args", f"pretrained={model.path},dtype=float32"]
    arguments += ["--tasks", "ferries", "--include_path", str(tasks), "--log_samples", "--output_path", str(out), *more]
    command = [sys.executable, *launcher, "-m", "genesis_sft.evals.lm_eval", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = out.rglob("samples_ferries_*.jsonl")
    return sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: int(row["doc_id"]))


def assert_same_scores(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == 6
    for mine, yours in zip(ours, theirs, strict=True):
        for [[score, greedy]], [[expected, is_greedy]] in zip(mine["resps"], yours["resps"], strict=True):
            assert float(score) == pytest.approx(float(expected), abs=1e-3)
            assert str(greedy) == str(is_greedy)
        for name in ("acc", "acc_norm", "prompt_hash"):
            assert mine[name] == yours[name]


@pytest.mark.slow
def test_the_harness_s_command_line_gives_with_our_backend_what_its_function_gives_with_its_own(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--real-model"):
        pytest.skip("the next one has the same command line, in two processes: make test-all")
    assert_same_scores(by_command(tiny_base, tasks, tmp_path / "out"), by_function("hf", tiny_base, tasks))


@pytest.mark.slow
def test_prompts_and_scores_do_not_depend_on_the_number_of_processes(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path
) -> None:
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 3)
    together = by_command(tiny_base, tasks, tmp_path / "out", "--num_fewshot", "2", "--seed", "3", ranks=2)
    for name in ("genesis-sft", "hf"):
        assert_same_scores(together, by_function(name, tiny_base, tasks, num_fewshot=2, **seeds))


def test_with_a_chat_template_the_prompt_is_the_harness_s_and_the_scores_are_not(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base.path, tmp_path / "model")
    tokenizer = tiny_base.load_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE  # as an exported model has it
    tokenizer.save_pretrained(folder)
    found = [by_function(name, ModelDir(folder), tasks, apply_chat_template=True) for name in ("genesis-sft", "hf")]
    for ours, theirs in zip(*found, strict=True):
        assert ours["prompt_hash"] == theirs["prompt_hash"]
        # the line break of the header is not scored
        for [[mine, _]], [[yours, _]] in zip(ours["resps"], theirs["resps"], strict=True):
            assert float(mine) > float(yours)


def test_a_folder_that_is_no_model_is_said_without_a_traceback(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OwnTasks(TaskManager):
        """Does not look through the harness's 13,000 tasks."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", OwnTasks)
    options = ["--model", "genesis-sft", "--tasks", "ferries", "--include_path", str(tasks)]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *options, "--model_args", f"pretrained={tmp_path}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"trust_remote_code": True}, "found trust_remote_code"),
        ({"dtype": "auto"}, "expected dtype float32 or bfloat16; found 'auto'"),
        ({"pass_tokens": -5}, "expected pass_tokens of 1 or more; found -5"),
        ({"pass_tokens": "1e3"}, "found '1e3'"),
    ],
)
def test_a_wrong_argument_is_refused(tiny_base: ModelDir, argument: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Backend(str(tiny_base.path), **argument)  # type: ignore[arg-type]
