"""Promises of the conversion: a distributed checkpoint becomes a folder that computes the same, or nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genesis_sft.checkpoint.convert import Converted, convert
from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.opened import open_checkpoint
from genesis_sft.checkpoint.tensors.dcp import DcpSource
from genesis_sft.errors import CheckFailed, RunDirError
from tests.checkpoint.genesis.same import assert_computes_the_same
from tests.checkpoint.genesis.sections import (
    load_state,
    replace_head,
    save_edited,
    section_of,
)
from tests.checkpoint.genesis.train import TinyGenesis

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "genesis_sft", "base", "convert", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def test_two_ranks_checkpoint_becomes_the_same_model_without_a_word_on_its_layout(
    tiny_genesis: TinyGenesis, genesis_dcp: Path, tmp_path: Path, output_of: Callable[[], list[str]]
) -> None:
    out = tmp_path / "out" / "model"
    flags = ["--num-heads", 4, "--rope-theta", 500_000, "--norm-eps", 1e-5, "--context", 256, "--bos"]
    texts = [part for file in tiny_genesis.held_out_text for part in ("--text", file)]
    process = start(
        genesis_dcp, out, "--tokenizer", tiny_genesis.tokenizer_file, *flags, *texts, "--training-loss", 0.6, "--json"
    )
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    answer = json.loads(stdout)
    assert (answer["verdict"], answer["refused"], answer["causes"]) == ("predicts text", False, [])
    assert answer["parity"]["max_abs_delta_logit"] < 1e-4
    assert answer["parity"]["same_greedy_ids"]
    assert output_of() == ["model"]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "intake.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert_computes_the_same(tiny_genesis, out)
    config = json.loads((out / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    intake = json.loads((out / "intake.json").read_text())
    assert intake["found_by_trying"] == ["rope_layout"]
    assert intake["conventions"]["rope_layout"] == "interleaved"
    assert intake["names"]["app.model._orig_mod.layers.2.attention.wk.weight"] == "k of layer 2"
    assert intake["checkpoint"]["left_out"]["optimizer state"] > 0
    assert str(tmp_path) not in json.dumps(intake)


def test_the_optimizers_tensors_are_never_read(
    tiny_genesis: TinyGenesis, genesis_dcp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = DcpSource.read
    monkeypatch.setattr(DcpSource, "read", lambda self, name: asked.append(name) or read(self, name))
    opened = open_checkpoint(section_of(tiny_genesis, genesis_dcp))
    logits(opened.stored, opened.stated, torch.tensor([[1, 300]]))
    assert len(opened.stored.source.tensors) == 3 * 9 + 3
    assert set(asked) == set(opened.stored.source.tensors)
    assert not any("optimizer" in name or "exp_avg" in name for name in asked)


def test_an_export_in_bfloat16_is_held_to_what_it_rounds_to(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    converted = convert(section_of(tiny_genesis), tmp_path / "model", dtype="bfloat16")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert converted.verification.parity is not None
    assert converted.verification.parity.holds
    assert torch.equal(weights["lm_head.weight"], load_state(tiny_genesis)["output.weight"].bfloat16())


def test_a_warning_lets_a_refused_model_through(
    tiny_genesis: TinyGenesis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", replace_head)
    with pytest.raises(CheckFailed):
        convert(section_of(tiny_genesis, model), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    converted = convert(section_of(tiny_genesis, model, verify="warn"), tmp_path / "model")
    assert converted.verification.is_refused
    assert "warning: the output head, or the whole model, is untrained or lost" in capsys.readouterr().err
    assert (tmp_path / "model" / "config.json").exists()
    assert json.loads((tmp_path / "model" / "intake.json").read_text())["verification"]["refused"] is True


def test_what_lies_at_the_place_is_not_touched(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    process = start(tiny_genesis.state_file, tmp_path / "mine")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "something is there" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_dry_run_shows_names_and_sizes_and_writes_nothing(
    tiny_genesis: TinyGenesis, genesis_dcp: Path, tmp_path: Path
) -> None:
    process = start(
        genesis_dcp, tmp_path / "model", "--tokenizer", tiny_genesis.tokenizer_file, "--num-heads", 4, "--dry-run"
    )
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "-> gate" in stdout
    assert "hidden size 64" in stdout
    assert "(nobody states it: will be found by trying)" in stdout
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_under_the_name(
    tiny_genesis: TinyGenesis, tmp_path: Path, output_of: Callable[[], list[str]]
) -> None:
    """Killed while it proves the folder that is written beside the place, which takes a fresh process and seconds."""
    out = tmp_path / "out" / "model"
    texts = [part for file in tiny_genesis.held_out_text for part in ("--text", file)]
    process = start(tiny_genesis.state_file, out, "--config", tiny_genesis.config_file, *texts)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".model.partial-*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert all(name.startswith(".model.partial-") for name in output_of())


def test_a_folder_that_cannot_be_made(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    """A file in the way: root may write into folders that are read-only."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunDirError, match="could not write") as caught:
        convert(section_of(tiny_genesis), tmp_path / "file" / "model")
    assert caught.value.exit_status == 2
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(RunDirError, match="could not write"):
        convert(section_of(tiny_genesis), tmp_path / "locked" / "model")


def test_the_same_conversion_gives_the_same_bytes(
    tiny_genesis: TinyGenesis, genesis_converted: Converted, tmp_path: Path
) -> None:
    again = convert(section_of(tiny_genesis), tmp_path / "model")
    for file in sorted(genesis_converted.model.path.iterdir()):
        assert (again.model.path / file.name).read_bytes() == file.read_bytes(), file.name
    assert again.conventions == Conventions(
        num_heads=4,
        num_kv_heads=2,
        rope_layout="interleaved",
        rope_theta=500_000.0,
        norm_eps=1e-5,
        head="own",
        bos=True,
        dummy_prefix=True,
    )
