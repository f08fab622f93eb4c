"""Promises of the check: the numbers are nats per token, and the words follow from the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from genesis_sft.checkpoint.consistency import check_consistency
from genesis_sft.checkpoint.plausibility import REFUSED, entropy, judge, measure, sample_passages
from genesis_sft.errors import ModelError
from tests.conftest import build_llama


@pytest.mark.parametrize(
    ("nats", "verdict"),
    [
        (2.0, "predicts text"),
        (3.99, "predicts text"),
        (4.0, "weak"),
        (4.99, "weak"),
        (5.0, "no better than word frequencies"),
        (9.99, "no better than word frequencies"),
        (10.0, "worse than guessing: the export is broken"),
        (21.8, "worse than guessing: the export is broken"),
        (math.nan, "worse than guessing: the export is broken"),
        (math.inf, "worse than guessing: the export is broken"),
    ],
)
def test_the_words_follow_from_the_numbers(nats: float, verdict: str) -> None:
    assert judge(nats, uniform=10.0, unigram=5.0) == verdict
    assert (verdict in REFUSED) == (not nats < 5.0)


def test_entropy_of_a_half_and_two_quarters() -> None:
    assert entropy([2, 1, 1]) == pytest.approx(1.5 * math.log(2))
    assert entropy([7]) == 0.0


def test_the_sample_is_four_passages_of_about_a_thousand_words() -> None:
    passages = sample_passages()
    assert list(passages) == ["narrative", "encyclopedia", "dialogue", "instructions"]
    assert 850 <= sum(len(text.split()) for text in passages.values()) <= 1100
    assert not any("===" in text or text != text.strip() for text in passages.values())


def test_a_head_of_zeros_costs_exactly_what_guessing_costs(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_llama(400, tied=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = measure(model, tiny_tokenizer)
    assert found.uniform == pytest.approx(math.log(400))
    assert found.nats_per_token == pytest.approx(math.log(400), abs=1e-5)
    assert [part.nats_per_token for part in found.passages] == pytest.approx([math.log(400)] * 4, abs=1e-5)


def test_every_token_but_the_first_of_a_passage_is_predicted_once(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    found = measure(build_llama(400), tiny_tokenizer)  # 512 positions: the longer passages take several windows
    lengths = [len(tiny_tokenizer(text)["input_ids"]) for text in sample_passages().values()]
    assert max(lengths) > 512
    assert [part.num_tokens for part in found.passages] == [length - 1 for length in lengths]


def test_a_model_that_knows_the_frequencies_costs_the_unigram_entropy(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    counts = torch.zeros(400)
    for text in sample_passages().values():
        for id_ in tiny_tokenizer(text)["input_ids"][1:]:
            counts[id_] += 1
    model = build_llama(400, tied=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias = torch.nn.Parameter((counts / counts.sum()).clamp_min(1e-30).log())
    found = measure(model, tiny_tokenizer)
    assert found.nats_per_token == pytest.approx(found.unigram, abs=1e-4)


def test_a_random_model_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert measure(build_llama(400), tiny_tokenizer).verdict in REFUSED


def test_a_tokenizer_that_makes_no_tokens_of_text_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    mute = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"\x01": 0}, [])))
    with pytest.raises(ModelError, match="turns plain text into tokens"):
        measure(build_llama(400), mute)


def test_a_random_head_is_worse_than_guessing(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_llama(400, tied=False)
    torch.nn.init.normal_(model.lm_head.weight, std=1.0)
    assert measure(model, tiny_tokenizer).verdict == "worse than guessing: the export is broken"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tiny_tokenizer: PreTrainedTokenizerFast, value: float) -> None:
    model = build_llama(400)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    with pytest.raises(ModelError, match=r"the first is model.layers.1.mlp.up_proj.weight \(1 values\)"):
        check_consistency(model, tiny_tokenizer)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    check_consistency(build_llama(400), tiny_tokenizer)
    check_consistency(build_llama(448), tiny_tokenizer)  # padded
    with pytest.raises(ModelError, match=r"knows ids up to 399 .* but the model has only 399 rows"):
        check_consistency(build_llama(399), tiny_tokenizer)


@pytest.mark.parametrize(("name", "value"), [("eos_token_id", [0, 400]), ("bos_token_id", 49152), ("pad_token_id", -1)])
def test_a_special_id_outside_the_rows_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str, value: int | list[int]
) -> None:
    model = build_llama(400)
    setattr(model.config, name, value)
    with pytest.raises(ModelError, match=f"{name} of the config.json is .*ids run from 0 to 399"):
        check_consistency(model, tiny_tokenizer)


def test_a_config_that_states_other_rows_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_llama(400)
    model.config.vocab_size = 404
    with pytest.raises(ModelError, match=r"vocab_size \(404\); found 400 and 400"):
        check_consistency(model, tiny_tokenizer)
