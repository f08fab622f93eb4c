"""The benchmarks of training run end to end on a tiny model, and leave a file that says what was measured and where."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from genesis_sft.checkpoint.control_tokens import add_control_tokens
from tests.conftest import build_llama, train_byte_level

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def train_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("train")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a benchmark's program in this process, which has imported what it needs; what it measures starts its own."""

    def run(script: str, *arguments: str) -> int:
        monkeypatch.syspath_prepend(str(BENCH))
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        return int(importlib.import_module(script).main())

    return run


def run_of(*losses: float, tokens_per_second: float = 10.0, peak: int = 100) -> list[dict[str, Any]]:
    """A side's only run: 5 tokens in the warm-up, which takes long and does not count, and 20 in the timed step."""
    return [
        {
            "losses": list(losses),
            "seconds": [99.0, 20 / tokens_per_second],
            "tokens": [5, 20],
            "warmup": 1,
            "peak_bytes": {"resident": peak},
        }
    ]


def test_sides_that_do_not_train_the_same_are_not_compared(train_script: ModuleType) -> None:
    runs = {train_script.OURS: run_of(2.0, 1.9)} | {name: run_of(2.0, 1.9) for name in train_script.TRL}
    assert train_script.compare_losses(runs)["agree"]
    off = next(iter(train_script.TRL))
    found = train_script.compare_losses(runs | {off: run_of(2.0, 1.9 * 1.0002)})
    assert not found["agree"]
    assert found["largest_relative_difference"][off] == pytest.approx(2e-4)


def test_the_fixed_layout_is_compared_with_ours_on_its_own_rows(train_script: ModuleType) -> None:
    runs = {train_script.OURS: run_of(2.0), train_script.OURS_FEW: run_of(3.0), train_script.FIXED: run_of(3.0)}
    assert train_script.compare_losses(runs)["agree"]
    runs[train_script.FIXED] = run_of(2.0)
    assert not train_script.compare_losses(runs)["agree"]


def test_ratios_are_to_the_fastest_of_the_others(train_script: ModuleType) -> None:
    fast, slow, slowest = train_script.TRL
    runs = {
        train_script.OURS: run_of(2.0, tokens_per_second=30, peak=90),
        train_script.OURS_LARGE: run_of(2.0, tokens_per_second=36, peak=110),
        fast: run_of(2.0, tokens_per_second=20, peak=100),
        slow: run_of(2.0, tokens_per_second=10, peak=60),
        slowest: run_of(2.0, tokens_per_second=5, peak=120),
        train_script.OURS_FEW: run_of(2.0, tokens_per_second=24),
        train_script.FIXED: run_of(2.0, tokens_per_second=1.5),
    }
    assert train_script.compare_rates(runs) == {
        "trl_best": fast,
        "speed_over_trl_best": pytest.approx(1.5),
        "speed_over_trl_best_at_1024": pytest.approx(1.8),
        "memory_over_trl_best": pytest.approx(0.9),
        "memory_over_trl_best_at_1024": pytest.approx(1.1),
        "memory_over_trl_least": pytest.approx(1.5),
        "speed_over_trl_fixed": pytest.approx(16.0),
    }


@pytest.mark.slow
def test_cpu_benchmark_without_peers(bench: Callable[..., int], tmp_path: Path) -> None:
    tokenizer = train_byte_level()
    model = build_llama(len(tokenizer))
    add_control_tokens(model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as lines:
        for number in range(12):
            turns = [{"role": "user", "content": f"Count {number}"}, {"role": "assistant", "content": "one " * number}]
            lines.write(json.dumps({"messages": turns}) + "\n")
    status = bench(
        "train", "--data", str(tmp_path), "--model", str(tmp_path / "model"), "--peers", "none", "--rounds", "1",
        "--steps", "1", "--sequences", "3", "--commit", "abc", "--out", str(tmp_path / "result.json"),
    )  # fmt: skip
    assert status == 0
    result = json.loads((tmp_path / "result.json").read_text())
    side = result["sides"]["genesis-sft"]
    assert result["commit"] == "abc"
    assert result["machine"]["cores"] >= 1
    assert len(result["lengths"]) == 6  # a step of three as warm-up, and one
    assert sum(side["runs"][0]["tokens"]) == sum(result["lengths"])
    assert side["tokens_per_second"] == pytest.approx(side["runs"][0]["tokens"][1] / side["runs"][0]["seconds"][1])
    assert side["share_of_matmul_rate"] == pytest.approx(side["useful_gflops"] / result["matmul_gflops"]["best"])


@pytest.mark.slow
def test_gpu_benchmark_on_a_tiny_shape(bench: Callable[..., int], tmp_path: Path) -> None:
    status = bench(
        "train_gpu", "--shape", "tiny", "--device", "cpu", "--steps", "1", "--sequences", "2",
        "--parts", "attention", "fit", "--out", str(tmp_path / "result.json"),
    )  # fmt: skip
    assert status == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["runs"]) == ["ours attention=segments"] + [
        f"two ranks activation_checkpointing={kind}" for kind in ("none", "selective", "full")
    ]
    assert all("error" not in run for run in result["runs"].values()), result["runs"]
    assert result["losses"]["agree"]
    one, two = result["runs"]["ours attention=segments"], result["runs"]["two ranks activation_checkpointing=none"]
    assert one["kernels"][0]["milliseconds"] > 0
    assert two["ranks"] == "gloo"
    assert len(two["peaks_of_ranks"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_benchmark_says_that_there_is_no_gpu(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("train_gpu", "--out", str(tmp_path / "result.json")) == 2
    assert "expected a CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
