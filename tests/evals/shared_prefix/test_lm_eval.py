"""The backend under the harness's own command line and function."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import InputError
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


@pytest.mark.slow
def test_the_harness_s_command_line_gives_the_same_with_our_backend_and_its_own(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path
) -> None:
    found = {name: harness_samples(name, tiny_base, tasks, tmp_path / name) for name in ("genesis-sft", "hf")}
    assert len(found["hf"]) == 6
    for ours, theirs in zip(found["genesis-sft"], found["hf"], strict=True):
        for (mine, greedy), (yours, expected) in zip(
            (one[0] for one in ours["resps"]), (one[0] for one in theirs["resps"]), strict=True
        ):
            assert float(mine) == pytest.approx(float(yours), abs=1e-3)
            assert str(greedy) == str(expected)
        assert (ours["acc"], ours["acc_norm"]) == (theirs["acc"], theirs["acc_norm"])
        assert ours["prompt_hash"] == theirs["prompt_hash"]


def harness_samples(name: str, model: ModelDir, tasks: Path, out: Path, *more: str, ranks: int = 1) -> list[Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    arguments = [
        "--model",
        name,
        "--model_args",
        f"pretrained={model.path},dtype=float32",
    ]  # no device: each takes what there is
    arguments += ["--tasks", "ferries", "--include_path", str(tasks), "--log_samples", "--output_path", str(out), *more]
    command = [sys.executable, *launcher, "-m", "genesis_sft.evals.lm_eval", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = out.rglob("samples_ferries_*.jsonl")
    return sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: int(row["doc_id"]))


@pytest.mark.slow
def test_prompts_and_scores_do_not_depend_on_the_number_of_processes(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path
) -> None:
    more = ("--num_fewshot", "2", "--seed", "3")
    alone = harness_samples("genesis-sft", tiny_base, tasks, tmp_path / "alone", *more)
    together = harness_samples("genesis-sft", tiny_base, tasks, tmp_path / "together", *more, ranks=2)
    assert [row["prompt_hash"] for row in together] == [row["prompt_hash"] for row in alone]
    assert [(row["acc"], row["acc_norm"]) for row in together] == [(row["acc"], row["acc_norm"]) for row in alone]


@pytest.mark.slow
def test_with_a_chat_template_the_prompt_is_the_harness_s_and_the_scores_are_not(
    tasks: Path, tiny_base: ModelDir, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base.path, tmp_path / "model")
    tokenizer = tiny_base.load_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE  # as an exported model has it
    tokenizer.save_pretrained(folder)
    model = ModelDir.open(folder)
    found = {
        name: harness_samples(name, model, tasks, tmp_path / name, "--apply_chat_template")
        for name in ("genesis-sft", "hf")
    }
    for ours, theirs in zip(found["genesis-sft"], found["hf"], strict=True):
        assert ours["prompt_hash"] == theirs["prompt_hash"]
        # the line break of the header is not scored
        for mine, yours in zip(ours["resps"], theirs["resps"], strict=True):
            assert float(mine[0][0]) > float(yours[0][0])


@pytest.mark.slow
def test_a_folder_that_is_no_model_is_said_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genesis_sft.evals.lm_eval", "--model", "genesis-sft", "--tasks", "piqa"]
    command += ["--model_args", f"pretrained={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


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
    from genesis_sft.evals.lm_eval import Backend

    with pytest.raises(InputError, match=words):
        Backend(str(tiny_base.path), **argument)  # type: ignore[arg-type]
