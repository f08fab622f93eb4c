"""Promises on writing a folder: one shard or many, it loads; a disk that is full is an error in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from genesis_sft.checkpoint.llama import write_folder as module
from genesis_sft.checkpoint.llama.forward import logits
from genesis_sft.checkpoint.llama.hf_layout import hf_config, hf_tensors
from genesis_sft.checkpoint.llama.write_folder import write_folder
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import RunDirError
from tests.checkpoint.llama.random_llamas import Shape, as_stored, random_state, usual

SHAPE = Shape(rows=400)


def write(folder: Path, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype = torch.float32) -> None:
    stored, conventions = as_stored(random_state(SHAPE)), usual(SHAPE)
    folder.mkdir()
    write_folder(
        folder,
        hf_tensors(stored, conventions),
        hf_config(stored.sizes, conventions, context=64, dtype=str(dtype).removeprefix("torch.")),
        tokenizer,
        dtype=dtype,
        num_tensors=21,
    )


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000, 1], ids=["one shard", "some shards", "a shard for each tensor"])
def test_a_folder_loads_however_many_shards_it_has(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", shard_bytes)
    write(tmp_path / "model", tiny_tokenizer)
    files = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"]
    else:
        count = len(files)
        assert count == 21 if shard_bytes == 1 else 2 < count < 21
        assert files == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(4 * t.numel() for t in random_state(SHAPE).values())
        assert set(index["weight_map"].values()) == set(files)
    ModelDir.open(tmp_path / "model")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        found = model(input_ids=ids).logits
    torch.testing.assert_close(found, logits(as_stored(random_state(SHAPE)), usual(SHAPE), ids), atol=1e-4, rtol=1e-4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tiny_tokenizer)


def test_weights_can_be_read_by_whoever_can_read_the_config(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "model", tiny_tokenizer)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_special_ids_are_the_tokenizers(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "model", tiny_tokenizer)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (tiny_tokenizer.eos_token_id, None)
    generation: dict[str, Any] = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": tiny_tokenizer.bos_token_id, "eos_token_id": tiny_tokenizer.eos_token_id}


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
    ids=["from the system", "from safetensors"],
)
def test_a_full_disk_is_said_in_plain_words(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(RunDirError, match="No space left on device") as caught:
        write(tmp_path / "model", tiny_tokenizer)
    assert caught.value.hint == "Is there room left on the disk?"


def test_only_one_shard_is_in_memory(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor is asked for when the shard before it lies on disk."""
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    on_disk: list[int] = []
    stored, conventions = as_stored(random_state(SHAPE)), usual(SHAPE)

    def watched() -> Iterator[tuple[str, torch.Tensor]]:
        for item in hf_tensors(stored, conventions):
            on_disk.append(len(list(tmp_path.glob("*.safetensors"))))
            yield item

    config = hf_config(stored.sizes, conventions, context=64, dtype="float32")
    write_folder(tmp_path, watched(), config, tiny_tokenizer, dtype=torch.float32, num_tensors=21)
    assert on_disk == [0, *range(20)]
