"""An export that does not behave like the model in memory is refused, each fault by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.errors import CheckFailed
from genesis_sft.export import ExportProof, export, prove
from genesis_sft.recipe import BaseSection, ExportSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.training.result import TrainingState

CONVERSATIONS = [
    Conversation(
        (
            Message("system", "Be brief."),
            Message("user", f"What is {number} + 1?"),
            Message("assistant", f"{number + 1}.", reasoning="one more"),
        )
    )
    for number in range(5)
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, ExportProof]:
    """A base whose weights were 'trained' by adding noise, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("export")
    base = prepare_base(BaseSection(model=str(tiny_folder), verify="warn"), folder).model
    model = base.load_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_model(model, str(folder / "weights.safetensors"))
    trained = TrainingState(folder, 1, 1, 1, 1.0, 1.0, 0)
    out = folder / "out"
    out.mkdir()
    model_dir, proof = export(ExportSection(), trained, base, CONVERSATIONS, out)
    return model_dir.path, proof


def test_plain_transformers_loads_what_was_trained(exported: tuple[Path, ExportProof]) -> None:
    folder, proof = exported
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    trained = load_file(folder.parents[1] / "weights.safetensors")
    # tied weights are stored once, under either name
    embedding = trained.get("model.embed_tokens.weight", trained.get("lm_head.weight"))
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert torch.equal(model.model.norm.weight, trained["model.norm.weight"])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert proof.max_logit_difference == 0.0
    assert (proof.greedy_tokens, proof.template_conversations, proof.template_exceptions) == (16, 5, 0)
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id[0] == im_end
    messages = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_stop_token(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 0}))


def spoil_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace(r"<|im_end|>\n", "<|im_end|>"))


def spoil_vocabulary(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_weights, "a logit of the reloaded folder differs"),
        (spoil_stop_token, "stops at"),
        (spoil_template, "chat template gives other ids"),
        (spoil_vocabulary, "tokens, the config says"),
    ],
)
def test_each_fault_is_caught(
    exported: tuple[Path, ExportProof], tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:

    folder, _ = exported
    model: LlamaForCausalLM = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    shutil.copytree(folder, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(CheckFailed, match=words):
        prove(tmp_path / "model", model, ChatMLEncoder(tokenizer), CONVERSATIONS)
