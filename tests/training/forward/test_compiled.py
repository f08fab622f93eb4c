"""Compiled layers compute what the plain ones do, with one graph for batches of all shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.errors import InputError, ModelError
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.compiled import compile_layers
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.recompute import recompute_activations
from genesis_sft.training.processes.parallel import Trainable, full, join_ranks
from tests.conftest import build_llama

# the compiler looks at .grad of every tensor, which warns
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

SECTION = TrainingSection(batch=BatchSection(sequences=2), precision="float32", device="cpu")


def segments_model() -> LlamaForCausalLM:
    model = build_llama(64)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return model


def batches() -> Iterator[Batch]:
    """Ever other numbers of tokens, conversations and longest conversations."""
    for lengths in ([26, 21, 12], [16, 27, 24, 9], [4, 18], [40]):
        yield collate([(np.arange(length), [(1, length)]) for length in lengths])


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def compiler_or_skip(model: LlamaForCausalLM):  # type: ignore[no-untyped-def]
    try:
        return compile_layers(model)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_under_autocast_queries_and_keys_that_were_rotated_in_float32_are_taken() -> None:
    """The default precision: transformers hands kernels float32 queries and keys beside bfloat16 values."""
    section = SECTION.model_copy(update={"precision": "bfloat16"})
    model = segments_model()
    compiler_or_skip(model)
    with join_ranks(section) as ranks:
        compiled = Trainable(Objective(model).train(), ranks, section)
        plain = Trainable(Objective(segments_model()).train(), ranks, section)
        for batch in batches():
            (found, losses, _), (expected, others, _) = (trainable(batch, 0.1) for trainable in (compiled, plain))
            found.backward()
            torch.testing.assert_close(losses, others, rtol=1e-2, atol=1e-2)
            assert found.item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["auto", "fsdp"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_gradients_are_those_of_the_plain_layers_and_one_graph_serves_all_batches(
    checkpointing: str, parallel: str
) -> None:
    section = SECTION.model_copy(update={"parallel": parallel})
    model = segments_model()
    recompute_activations(model, checkpointing)  # type: ignore[arg-type]
    recompilations = compiler_or_skip(model)
    assert recompilations.graphs == 0
    plain = Objective(segments_model()).train()
    with join_ranks(section) as ranks:
        trainable = Trainable(Objective(model).train(), ranks, section)
        for batch in batches():
            for module in (plain, trainable.module):
                module.zero_grad()
            plain(batch, 0.1)[0].backward()
            trainable(batch, 0.1)[0].backward()
            for (name, found), expected in zip(trainable.objective.named_parameters(), plain.parameters(), strict=True):
                assert found.grad is not None
                torch.testing.assert_close(full(found.grad), expected.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert recompilations.graphs == 1
    assert recompilations.summary() == "1 graph compiled"


@pytest.mark.slow
def test_names_stay_and_other_attention_still_works() -> None:
    model = segments_model().eval()
    names = list(model.state_dict())
    compiler_or_skip(model)
    assert list(model.state_dict()) == names
    ids = torch.arange(9)[None]
    plain = build_llama(64)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        model.set_attn_implementation("sdpa")  # as for text that is generated on the way
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)


def test_attention_dropout_is_refused() -> None:
    model = segments_model()
    model.config.attention_dropout = 0.1
    with pytest.raises(ModelError, match="dropout"):
        compile_layers(model)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    with pytest.raises(InputError, match="C\\+\\+ compiler") as caught:
        compile_layers(segments_model())
    assert caught.value.hint == "Install g++, or set training.compile to false."
