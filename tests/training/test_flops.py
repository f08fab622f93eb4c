"""Useful operations against a count of every matrix product, and the table of devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genesis_sft.batches.collate import collate
from genesis_sft.training import flops as flops_module
from genesis_sft.training.flops import Utilization, device_peak_flops, mfu, step_flops
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION, forward_hidden
from genesis_sft.training.forward.padding import pad_vocab
from tests.conftest import build_llama


@pytest.mark.parametrize("tied", [True, False])
def test_products_are_those_that_pytorch_counts(tied: bool) -> None:
    model = build_llama(64, tied=tied)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    batch = collate([(np.arange(9), [(1, 9)]), (np.arange(20, 25), [(1, 5)])])
    with FlopCounterMode(display=False) as counter:
        model.lm_head(forward_hidden(model, batch)[batch.predict_from]).sum().backward()
    by_operator = counter.get_flop_counts()["Global"]
    counted = sum(number for name, number in by_operator.items() if "mm" in str(name))
    width = 4 * 8
    attention = 6 * 2 * width * (9 * 10 + 5 * 6)
    assert step_flops(model, [9, 5], num_trained=12) == counted + attention


def test_the_head_counts_for_every_token_by_convention() -> None:
    model = build_llama(64)
    assert step_flops(model, [14]) - step_flops(model, [14], num_trained=4) == 6 * 64 * 32 * 10


def test_attention_is_half_a_square_of_each_conversation() -> None:
    model = build_llama(64)
    together, apart = step_flops(model, [100]), step_flops(model, [50, 50])
    assert together - apart == 6 * 2 * 32 * (100 * 101 - 2 * 50 * 51)


@pytest.mark.parametrize("tied", [True, False])
def test_a_config_counts_as_its_model_does_and_padding_does_not_count(tied: bool) -> None:
    model = build_llama(61, tied=tied)
    expected = step_flops(model, [9, 5])
    assert step_flops(model.config, [9, 5]) == expected
    assert pad_vocab(model, 64).padded_vocab_size == 64
    assert step_flops(model, [9, 5]) == expected


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "pure_bfloat16", 756.0),
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA L4", "bfloat16", 121.0),
    ],
)
def test_devices_are_known_by_name(name: str, precision: str, tflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops_module.torch.cuda, "get_device_name", lambda _: name)
    assert device_peak_flops(torch.device("cuda"), precision)[0] == pytest.approx(tflops * 1e12)


def test_an_unknown_device_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops_module.torch.cuda, "get_device_name", lambda _: "Voodoo 2")
    found, source = device_peak_flops(torch.device("cuda"), "bfloat16")
    assert found is None
    assert "Voodoo 2" in source


def test_a_cpu_is_measured() -> None:
    found, source = device_peak_flops(torch.device("cpu"), "float32", hidden_size=256)
    assert found is not None
    assert 1e8 < found < 1e15
    assert source == "measured: 512 x 256 x 1024"


def test_utilization() -> None:
    assert mfu(6e12, 2.0, 10e12) == pytest.approx(0.3)


def answers(monkeypatch: pytest.MonkeyPatch, *peaks: float | None) -> list[float | None]:
    """Have the peak found to be these numbers, one after the other; return what is left of them."""
    left = list(peaks)
    monkeypatch.setattr(flops_module, "device_peak_flops", lambda *_, **__: (left.pop(0), "made up"))
    return left


def test_a_step_faster_than_the_peak_of_a_busy_cpu_has_it_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    left = answers(monkeypatch, 1e9, 4e9)
    utilization = Utilization(torch.device("cpu"), "float32", 64)
    assert utilization.of_step(1e9, 2.0, 1) == pytest.approx(0.5)
    assert left == [4e9], "only a step that was too fast is a reason"
    assert utilization.of_step(4e9, 2.0, 1) == pytest.approx(0.5)
    assert utilization.of_step(1e9, 2.0, 1) == pytest.approx(0.125)


def test_no_step_on_cpus_is_faster_than_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 1e9, 1.5e9)
    utilization = Utilization(torch.device("cpu"), "float32", 64)
    assert utilization.of_step(12e9, 2.0, 3) == 1.0  # 2e9 of each process
    assert utilization.of_step(6e9, 2.0, 3) == pytest.approx(0.5)


@pytest.mark.parametrize(("peak", "expected"), [(1e9, 2.0), (None, None)])
def test_peaks_of_the_table_stay_as_they_are(
    peak: float | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, peak)
    assert Utilization(torch.device("cuda"), "bfloat16", 64).of_step(4e9, 2.0, 1) == expected
