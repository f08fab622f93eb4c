"""Promises of GGUF intake: the very weights and ids of the original, or a refusal that names what is not understood."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from genesis_sft.checkpoint import from_gguf
from genesis_sft.checkpoint.from_gguf import read_gguf
from genesis_sft.errors import ModelError
from tests.checkpoint.toy_gguf import write_gguf
from tests.conftest import TRAINING_TEXT, build_llama, train_byte_level


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_byte_level(with_control_tokens=True)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_logits_are_those_of_the_original(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tied: bool
) -> None:
    original = build_llama(len(tokenizer), tied=tied)
    model, _ = read_gguf(write_gguf(tmp_path / "m.gguf", original, tokenizer))
    state, expected = model.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    ids = torch.tensor([[5, 300, 7, 41, 5]])
    assert torch.equal(model(ids).logits, original(ids).logits)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.config.tie_word_embeddings == tied
    assert model.config.rms_norm_eps == 1e-5  # not float32's 9.999999747378752e-06
    assert not model.training


def test_ids_are_those_of_the_original_tokenizer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _, read = read_gguf(write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer))
    for text in (*TRAINING_TEXT, "<|im_start|>user\nIn 2024<|im_end|>"):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert read.decode(read(text)["input_ids"]) == text
    assert (read.bos_token, read.eos_token, read.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert {token.content: token.special for token in read.added_tokens_decoder.values()} == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
    }


def test_smollm_splits_2024_into_four_digits_and_gpt2_does_not(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    merging.train_from_iterator(["2024 2024 2024"], trainer)  # knows "2024" as one token
    merging_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=merging, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    model = build_llama(len(merging_tokenizer))
    pieces = {}
    for pre in ("smollm", "gpt-2"):
        _, read = read_gguf(write_gguf(tmp_path / f"{pre}.gguf", model, merging_tokenizer, pre=pre))
        pieces[pre] = read.tokenize("2024")
    assert pieces == {"smollm": ["2", "0", "2", "4"], "gpt-2": ["2024"]}


def test_the_stored_chat_template_is_left_out(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _, read = read_gguf(write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer))
    assert read.chat_template is None


def test_unused_ids_are_rows_but_no_tokens(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model, read = read_gguf(write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer, padding=8))
    assert len(read) == len(tokenizer)
    assert read.get_vocab() == tokenizer.get_vocab()
    assert model.config.vocab_size == len(tokenizer) + 8


def test_a_special_token_of_gpt2_is_not_added(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer, special="<|zero|>")
    _, read = read_gguf(path)
    assert len(read) == len(tokenizer)
    assert "<|endoftext|>" not in read.get_vocab()
    assert read("<|zero|>")["input_ids"] == [0]


def test_files_beside_it_are_not_read(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "beside")
    (tmp_path / "beside" / "chat_template.jinja").write_text("You are a stranger.")
    (tmp_path / "beside" / "generation_config.json").write_text('{"temperature": 0.2, "do_sample": true}')
    original = build_llama(len(tokenizer), seed=1)
    model, read = read_gguf(write_gguf(tmp_path / "beside" / "m.gguf", original, tokenizer))
    assert read.get_vocab() == tokenizer.get_vocab()
    assert read.chat_template is None
    assert torch.equal(model.model.embed_tokens.weight, original.model.embed_tokens.weight)
    assert model.generation_config.temperature != 0.2


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_can_be_saved_and_is_a_plain_one(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tied: bool
) -> None:
    original = build_llama(len(tokenizer), tied=tied)
    model, read = read_gguf(write_gguf(tmp_path / "m.gguf", original, tokenizer))
    assert model.config._attn_implementation == original.config._attn_implementation
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    for part in (model, read):
        part.save_pretrained(tmp_path / "saved")
    configs = [(tmp_path / "saved" / name).read_text() for name in ("config.json", "tokenizer_config.json")]
    assert not any(word in config.lower() for config in configs for word in ("quantization", "gguf", "name_or_path"))
    again = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    expected = original.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


def test_an_id_that_the_file_does_not_state_stays_unknown(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        build_llama(len(tokenizer)),
        tokenizer,
        leave_out_keys=["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"],
    )
    model, read = read_gguf(path)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (None, None)  # not LlamaConfig's 1 and 2
    assert read.bos_token is None


def test_bars_and_warnings_of_the_libraries_are_not_shown(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    read_gguf(write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "reading m.gguf\n")


def test_a_tensor_that_transformers_leaves_random_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer, leave_out="blk.1.ffn_up.weight")
    monkeypatch.setattr(from_gguf, "_refuse_other_tensors", lambda *_: None)
    with pytest.raises(ModelError, match=r"could not place .*model\.layers\.1\.mlp\.up_proj\.weight"):
        read_gguf(path)


def test_an_error_of_the_library_is_put_into_words(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError("inside")

    path = write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer)
    monkeypatch.setattr(from_gguf.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ModelError, match="transformers cannot read it: ZeroDivisionError: inside") as caught:
        read_gguf(path)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("strange", "expected"),
    [
        ({"pre": "poro-chat"}, "pre-tokenizer 'poro-chat'"),
        ({"architecture": "falcon"}, "found 'falcon'"),
        ({"extra": {"llama.rope.scaling.factor": 8.0}}, "llama.rope.scaling.factor"),
        ({"extra": {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"extra": {"llama.rope.dimension_count": 4}}, "RoPE over whole heads of size 8; found 4 of 8"),
        ({"leave_out": "blk.1.ffn_up.weight"}, "1 tensors are missing, the first is model.layers.1.mlp.up_proj.weight"),
        ({"leave_out": "token_embd.weight"}, "tensors are missing"),
        ({"extra": {"llama.feed_forward_length": 40}}, "expected blk.0.ffn_gate.weight of (40, 32); found (48, 32)"),
        ({"leave_out_keys": ["llama.attention.head_count_kv"]}, "has no 'llama.attention.head_count_kv'"),
        ({"leave_out_keys": ["tokenizer.ggml.merges"]}, "has no 'tokenizer.ggml.merges'"),
        ({"special": "<|ｚｅｒｏ|>"}, "reads 1 of its tokens otherwise than the file has them, such as '<|ｚｅｒｏ|>'"),
        ({"extra_tensor": "rope_freqs.weight"}, "rope_freqs.weight has no place"),
        ({"extra_tensor": "blk.0.attn_q.bias"}, "blk.0.attn_q.bias has no place"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, strange: dict[str, Any], expected: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer, **strange)
    with pytest.raises(ModelError) as caught:
        read_gguf(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [6, 200, 0.5, 0.97])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, kept: float) -> None:
    path = write_gguf(tmp_path / "m.gguf", build_llama(len(tokenizer)), tokenizer)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        read_gguf(path)
