"""Promises of the control tokens: never split, the mean of what exists, and nothing else changes by a bit."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS, add_control_tokens
from genesis_sft.errors import ModelError
from tests.conftest import build_llama, train_byte_level

TEXT = "<|im_start|>user\nHi 2024<|im_end|>\n<think>a</think>"


def mean_of(rows: torch.Tensor) -> torch.Tensor:
    """The mean in float64, one row at a time, rounded once."""
    total = torch.zeros(rows.shape[1:], dtype=torch.float64)
    for row in rows:
        total += row.double()
    return (total / len(rows)).float()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_and_old_rows_stay_bit_identical(
    tiny_tokenizer: PreTrainedTokenizerFast, tied: bool
) -> None:
    tokenizer, model = copy.deepcopy(tiny_tokenizer), build_llama(400, tied=tied)
    old_in, old_out = model.model.embed_tokens.weight.detach().clone(), model.lm_head.weight.detach().clone()
    assert add_control_tokens(model, tokenizer) == CONTROL_TOKENS
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [400, 401, 402, 403]
    assert (len(tokenizer), model.config.vocab_size) == (404, 404)
    for table, old in ((model.model.embed_tokens.weight, old_in), (model.lm_head.weight, old_out)):
        assert table.shape == (404, 32)
        assert torch.equal(table[:400], old)
        for row in table[400:]:
            torch.testing.assert_close(row, mean_of(old), rtol=0, atol=1e-9)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.config.tie_word_embeddings == tied


def test_a_bias_of_the_head_grows_too(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer, model = copy.deepcopy(tiny_tokenizer), build_llama(400, tied=False)
    model.lm_head.bias = torch.nn.Parameter(torch.arange(400.0))
    add_control_tokens(model, tokenizer)
    assert model.lm_head.bias.tolist() == [*range(400), 199.5, 199.5, 199.5, 199.5]


@pytest.mark.parametrize("name", ["tiny_tokenizer", "tiny_sentencepiece_tokenizer"])
def test_control_tokens_are_whole_and_special_and_the_text_between_them_is_as_before(
    name: str, request: pytest.FixtureRequest
) -> None:
    before = request.getfixturevalue(name)
    tokenizer = copy.deepcopy(before)
    model = build_llama(len(tokenizer))
    add_control_tokens(model, tokenizer)
    start, end, think, stop = (len(before) + i for i in range(4))

    def plain(text: str) -> list[int]:
        ids: list[int] = before(text, add_special_tokens=False)["input_ids"]
        return ids

    expected = [start, *plain("user\nHi 2024"), end, *plain("\n"), think, *plain("a"), stop]
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == expected
    assert tokenizer.decode(expected) == TEXT
    assert tokenizer.decode(expected, skip_special_tokens=True) == "user\nHi 2024\na"
    assert {start, end, think, stop} <= set(tokenizer.all_special_ids)


def test_tokens_that_are_there_keep_their_ids_and_rows() -> None:
    tokenizer = train_byte_level(with_control_tokens=True)
    rows = len(tokenizer)
    model = build_llama(rows)
    old = model.model.embed_tokens.weight.detach().clone()
    assert add_control_tokens(model, tokenizer) == ("<think>", "</think>")
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [1, 2, rows, rows + 1]
    assert torch.equal(model.model.embed_tokens.weight[:rows], old)
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_token_that_is_there_but_not_special_becomes_special() -> None:
    tokenizer = train_byte_level(with_control_tokens=True)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=True, lstrip=True, rstrip=True)])
    id_ = tokenizer.convert_tokens_to_ids("<think>")
    assert add_control_tokens(build_llama(len(tokenizer)), tokenizer) == ("</think>",)
    token = tokenizer.added_tokens_decoder[id_]
    assert (token.content, token.special, token.normalized, token.lstrip, token.rstrip) == (
        "<think>",
        True,
        False,
        False,
        False,
    )


def test_adding_twice_changes_nothing() -> None:
    tokenizer = train_byte_level()
    model = build_llama(len(tokenizer))
    add_control_tokens(model, tokenizer)
    weights, text = copy.deepcopy(model.state_dict()), tokenizer.backend_tokenizer.to_str()
    assert add_control_tokens(model, tokenizer) == ()
    assert tokenizer.backend_tokenizer.to_str() == text
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("padding", "rows_after"), [(16, 416), (4, 404), (3, 404), (1, 404)])
@pytest.mark.parametrize("tied", [True, False])
def test_padding_rows_are_used_up_before_rows_are_added(
    tiny_tokenizer: PreTrainedTokenizerFast, padding: int, rows_after: int, tied: bool
) -> None:
    tokenizer, model = copy.deepcopy(tiny_tokenizer), build_llama(400 + padding, tied=tied)
    with torch.no_grad():
        model.model.embed_tokens.weight[400:] = 1000.0  # must not enter the mean
        model.lm_head.weight[400:] = 1000.0
    old = model.model.embed_tokens.weight.detach().clone()
    old_head = model.lm_head.weight.detach().clone()
    add_control_tokens(model, tokenizer)
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [400, 401, 402, 403]
    assert model.config.vocab_size == rows_after == model.model.embed_tokens.weight.shape[0]
    for table, before in ((model.model.embed_tokens.weight, old), (model.lm_head.weight, old_head)):
        assert torch.equal(table[:400], before[:400])
        assert torch.equal(table[404:], before[404:])
        torch.testing.assert_close(table[403], mean_of(before[:400]), rtol=0, atol=1e-9)


def test_ids_with_gaps_are_refused_rather_than_given_twice() -> None:
    from tokenizers import Tokenizer, models

    gaps = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 4}, unk_token="a"))  # the next id is 3, then 4
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=gaps, unk_token="a", bos_token="a", eos_token="a")
    with pytest.raises(ModelError, match="ids have gaps"):
        add_control_tokens(build_llama(8), tokenizer)
