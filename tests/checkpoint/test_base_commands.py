"""``genesis-sft base`` as a user meets it: exit status, what stands on stdout, the keys of --json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genesis_sft.checkpoint.convert import Converted
from tests.checkpoint.genesis.same import assert_computes_the_same
from tests.checkpoint.genesis.train import TinyGenesis
from tests.test_cli import Result, assert_refused, genesis


def texts(tiny: TinyGenesis) -> list[object]:
    return [part for file in tiny.held_out_text for part in ("--text", file)]


def answer(result: Result, status: int) -> dict[str, object]:
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("command", ["convert", "verify", "diagnose"])
def test_help_shows_an_example(command: str) -> None:
    result = genesis("base", command, "--help")
    assert result.returncode == 0
    shown = " ".join(result.stdout.split())
    assert f"Example: genesis-sft base {command} " in shown
    assert "--training-loss" in shown


@pytest.mark.slow
def test_a_model_that_predicts_nothing_is_a_no(tiny_folder: Path) -> None:
    found = answer(genesis("base", "verify", tiny_folder, "--training-loss", "1.93", "--json"), 1)
    assert set(found) >= {"verdict", "nats_per_token", "uniform", "unigram", "training_loss", "parity", "causes"}
    assert found["refused"] is True
    assert found["training_loss"] == 1.93
    assert found["parity"] is None
    assert any("in contradiction to the training loss of 1.93" in cause for cause in found["causes"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "nowhere"], "expected a model folder, checkpoint or .gguf file at nowhere; there is nothing"),
        (["diagnose", "nowhere"], "nowhere"),
        (["convert", "nowhere", "out"], "expected a checkpoint at nowhere; found nothing"),
        (["convert", "x", "out", "--dtype", "int4"], "--dtype: expected stored, float32, bfloat16, float16"),
        (["convert", "x", "out", "--rope-layout", "spiral"], "--rope-layout: expected 'interleaved' or 'half_split'"),
        (["convert", "x", "out", "--verify", "never"], "--verify: expected 'stop' or 'warn'"),
        (["verify", "x", "--training-loss", "nan"], "--training-loss"),
        (["convert", "x"], "Missing argument 'OUT'"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, arguments: list[str], words: str) -> None:
    assert_refused(genesis("base", *arguments, cwd=tmp_path), words)
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_missing_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    assert_refused(genesis("base", "verify", tiny_folder, "--text", tmp_path / "gone.txt"), "gone.txt")


@pytest.mark.slow
def test_a_right_folder_is_a_yes(tiny_genesis: TinyGenesis, genesis_converted: Converted) -> None:
    checkpoint = ["--checkpoint", tiny_genesis.state_file, "--config", tiny_genesis.config_file]
    found = answer(
        genesis("base", "verify", genesis_converted.model.path, *checkpoint, *texts(tiny_genesis), "--json"), 0
    )
    assert found["verdict"] == "predicts text"
    assert found["causes"] == []
    assert set(found["nats_per_token"]) == {*(file.stem for file in tiny_genesis.held_out_text), "all"}  # type: ignore[call-overload]
    assert found["nats_per_token"]["all"] < 0.8 < found["unigram"] < found["uniform"]  # type: ignore[index,operator]
    assert found["parity"]["holds"] is True  # type: ignore[index]
    assert found["parity"]["max_abs_delta_logit"] < 1e-4  # type: ignore[index]
    assert found["parity"]["first_differing_part"] is None  # type: ignore[index]


@pytest.mark.slow
def test_a_diagnosis_names_the_cause_and_writes_the_corrected_folder(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    wrong = ["--config", tiny_genesis.config_file, "--rope-layout", "half_split"]
    found = answer(
        genesis(
            "base",
            "diagnose",
            tiny_genesis.state_file,
            *wrong,
            *texts(tiny_genesis),
            "--write",
            tmp_path / "model",
            "--json",
        ),
        0,
    )
    assert set(found) >= {"cause", "conventions", "margin", "ranking"}
    assert found["cause"] == "RoPE layout: query and key rows are interleaved, and were taken as half-split"
    assert found["conventions"]["rope_layout"] == "interleaved"  # type: ignore[index]
    assert found["margin"]["nats"] > 0.5 > 4 * found["margin"]["standard_error"]  # type: ignore[index]
    margins = [tried["margin"] for tried in found["ranking"]]  # type: ignore[attr-defined]
    assert margins == sorted(margins)
    assert_computes_the_same(tiny_genesis, tmp_path / "model")


@pytest.mark.slow
def test_a_conversion_that_is_refused_is_a_no_as_json_too(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    wrong = ["--config", tiny_genesis.config_file, "--rope-theta", "10000"]
    result = genesis(
        "base", "convert", tiny_genesis.state_file, tmp_path / "model", *wrong, *texts(tiny_genesis), "--json"
    )
    found = answer(result, 1)
    assert found["refused"] is True
    assert "RoPE theta is 500,000, not 10,000" in str(found["causes"])
    assert "hint: State it rightly" in result.stderr
    assert list(tmp_path.iterdir()) == []
