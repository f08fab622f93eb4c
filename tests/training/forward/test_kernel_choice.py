"""A kernel is used only where it computes what the reference does; on CPU there is one, and nothing is computed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM

from genesis_sft.errors import CheckFailed, InputError
from genesis_sft.training.forward import attention, kernel_choice
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION, VARLEN_ATTENTION
from genesis_sft.training.forward.kernel_choice import NAMES, choose_kernel
from tests.conftest import build_llama

EXAMPLES = [(np.arange(1, length), [(2, length - 1)]) for length in (24, 12, 8)]


def as_reference(*args: Any, **said: Any) -> Any:
    return attention._segment_attention(*args, **said)


def across_conversations(*args: Any, segment_starts: tuple[int, ...], **said: Any) -> Any:
    return attention._segment_attention(*args, segment_starts=(0, segment_starts[-1]), **said)


def wrong_gradient(module: Any, query: Any, key: Any, value: Any, mask: Any, **said: Any) -> Any:
    return attention._segment_attention(module, query, key, value.detach(), mask, **said)


def slow(*args: Any, **said: Any) -> Any:
    time.sleep(0.05)
    return attention._segment_attention(*args, **said)


def broken(*args: Any, **said: Any) -> Any:
    raise NotImplementedError("no kernel image for this device")


@pytest.fixture
def model() -> LlamaForCausalLM:
    model = build_llama(101).train()
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return model


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Adds kernels to those that are thought to be usable on this machine."""

    def plant(**kernels: Any) -> None:
        for name, kernel in kernels.items():
            monkeypatch.setitem(AttentionInterface._global_mapping, name, kernel)
            monkeypatch.setitem(AttentionMaskInterface._global_mapping, name, lambda *_, **__: None)
            monkeypatch.setitem(attention.KERNELS, name, kernel)
            monkeypatch.setitem(NAMES, name, name)
        monkeypatch.setattr(kernel_choice, "usable_kernels", lambda *_: [SEGMENT_ATTENTION, *kernels])

    return plant


def test_on_cpu_there_is_one_and_nothing_is_tried(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "forward_hidden", broken)
    for wanted in ("auto", "segments"):
        choice = choose_kernel(model, EXAMPLES, wanted)
        assert (choice.name, choice.milliseconds) == (SEGMENT_ATTENTION, {})


@pytest.mark.parametrize("wanted", ["varlen", "flash"])
def test_a_kernel_for_other_devices_is_refused(model: LlamaForCausalLM, wanted: str) -> None:
    with pytest.raises(InputError, match=rf"for cpu in float32 \(segments\); found {wanted}"):
        choose_kernel(model, EXAMPLES, wanted)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_fastest_of_those_that_agree(model: LlamaForCausalLM, planted: Any, dtype: torch.dtype | None) -> None:
    planted(slow=slow, across=across_conversations, gradient=wrong_gradient, broken=broken)
    choice = choose_kernel(model, EXAMPLES, autocast_dtype=dtype)
    assert choice.name == SEGMENT_ATTENTION
    assert set(choice.milliseconds) == {SEGMENT_ATTENTION, "slow"}
    assert set(choice.refused) == {"across", "gradient", "broken"}
    assert choice.refused["broken"] == "it does not run: no kernel image for this device"
    assert model.config._attn_implementation == SEGMENT_ATTENTION
    assert all(parameter.grad is None for parameter in model.parameters())


def test_another_kernel_is_taken_where_it_is_faster(
    model: LlamaForCausalLM, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(twin=as_reference)
    monkeypatch.setattr(attention, "_segment_attention", attention._segment_attention)
    monkeypatch.setitem(AttentionInterface._global_mapping, SEGMENT_ATTENTION, slow)
    assert choose_kernel(model, EXAMPLES).name == "twin"


@pytest.mark.parametrize("wrong", [across_conversations, wrong_gradient, broken])
def test_a_named_kernel_that_disagrees_is_an_error(model: LlamaForCausalLM, planted: Any, wrong: Any) -> None:
    planted(named=wrong)
    with pytest.raises(CheckFailed, match="expected named attention to agree"):
        choose_kernel(model, EXAMPLES, "named")


def test_a_named_kernel_that_agrees_is_taken_though_slower(model: LlamaForCausalLM, planted: Any) -> None:
    planted(named=slow)
    assert choose_kernel(model, EXAMPLES, "named").name == "named"


def test_a_kernel_without_dropout_is_left_out_where_the_model_has_it(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_choice, "usable_kernels", lambda *_: [SEGMENT_ATTENTION, VARLEN_ATTENTION])
    model.config.attention_dropout = 0.1
    assert choose_kernel(model, EXAMPLES).name == SEGMENT_ATTENTION
    with pytest.raises(InputError):
        choose_kernel(model, EXAMPLES, "varlen")
