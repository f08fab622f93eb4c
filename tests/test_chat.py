"""Chat in a terminal: many turns, an end to the context, and nothing of the model's that steers the terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from genesis_sft import chat
from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.conversations.conversation import Message
from genesis_sft.errors import InputError, ModelError
from genesis_sft.evals.generate import generate_greedily
from genesis_sft.recipe import BaseSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from tests.conftest import build_llama


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> ModelDir:
    return prepare_base(BaseSection(model=str(tiny_folder), verify="warn"), tmp_path_factory.mktemp("chat")).model


@pytest.fixture(scope="module")
def encoder(base: ModelDir) -> ChatMLEncoder:
    return ChatMLEncoder(base.load_tokenizer())


def talk(monkeypatch: pytest.MonkeyPatch, base: ModelDir, typed: str, answer: list[int], **options: bool) -> None:
    """Let a model that always gives this answer talk."""

    def scripted(model: object, encoder: ChatMLEncoder, messages: list[Message], *_: object) -> Iterator[int]:
        encoder.encode_prompt(messages)  # refuses what is no conversation
        yield from answer

    monkeypatch.setattr(chat, "generate_ids", scripted)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    chat.chat(base.path, **options)


def test_an_empty_thought_does_not_end_the_conversation(
    base: ModelDir, encoder: ChatMLEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thought = encoder.text.encode(["\n\n"], after_control=True)[0]
    answer = [encoder.think_id, *thought, encoder.think_end_id, *thought, *encoder.text.encode(["ok"])[0]]
    talk(monkeypatch, base, "one\ntwo\n", [*answer, encoder.im_end_id], as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["prompt"], row["answer"]) for row in rows] == [("one", "ok"), ("two", "ok")]


def test_control_characters_of_a_model_are_shown(
    base: ModelDir, encoder: ChatMLEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = encoder.text.encode(["\x1b[31mred\r\n\N{RIGHT-TO-LEFT OVERRIDE}ü"])[0]
    talk(monkeypatch, base, "hi\n", [*answer, encoder.im_end_id])
    assert capsys.readouterr().out == "␛[31mred\n⟨U+202E⟩ü\n"


def test_a_closed_input(base: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="closed"):
        chat.chat(base.path)


def test_input_that_is_no_text(base: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(InputError, match="expected text in utf-8"):
        chat.chat(base.path)


def build_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=410, n_positions=512, n_embd=32, n_layer=2, n_head=4)).eval()


@pytest.mark.parametrize("kind", ["rotary", "learned positions"])
def test_an_answer_ends_with_the_context(encoder: ChatMLEncoder, kind: str) -> None:
    model = build_llama(410) if kind == "rotary" else build_gpt2()
    letters = 505 - len(encoder.encode_prompt([Message("user", "7")]))

    def ask(text: str) -> list[int]:
        encoder.stop_ids = frozenset()
        return list(chat.generate_ids(model, encoder, [Message("user", text)], 50, 0.0, torch.Generator()))

    assert len(ask("7" * (letters + 1))) == 7  # digits are a token each: 505 of 512 are taken
    with pytest.raises(ModelError, match="context of 512 tokens, found one of 512"):
        ask("7" * (letters + 8))


def test_greedy_chat_writes_what_the_evaluation_sees_and_draws_are_decided_by_the_seed(encoder: ChatMLEncoder) -> None:
    model = build_llama(410)
    encoder.stop_ids = frozenset({5})

    def ask(temperature: float, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return list(chat.generate_ids(model, encoder, [Message("user", "hi")], 30, temperature, generator))

    prompt = encoder.encode_prompt([Message("user", "hi")])
    assert ask(0.0, 0) == generate_greedily(model, [prompt], {5}, 30)[0]
    assert ask(1.0, 1) == ask(1.0, 1)
    assert len({tuple(ask(1.0, seed)) for seed in range(4)}) == 4


@pytest.mark.parametrize("penalty", [1.0, 1.3, 2.0])
def test_the_repetition_penalty_is_that_of_the_evaluation(encoder: ChatMLEncoder, penalty: float) -> None:
    model = build_llama(410)
    encoder.stop_ids = frozenset({5})
    messages = [Message("user", "hi")]
    found = list(chat.generate_ids(model, encoder, messages, 30, 0.0, torch.Generator(), penalty))
    assert found == generate_greedily(model, [encoder.encode_prompt(messages)], {5}, 30, penalty)[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_no_numbers(encoder: ChatMLEncoder, temperature: float) -> None:
    model = build_llama(410)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        next(chat.generate_ids(model, encoder, [Message("user", "hi")], 5, temperature, torch.Generator()))
