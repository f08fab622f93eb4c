"""Does the model end its turn? Greedy answers to shipped prompts, which are never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from transformers import PreTrainedModel

from genesis_sft.console import progress
from genesis_sft.conversations.conversation import Message
from genesis_sft.errors import RecipeError
from genesis_sft.evals.generate import generate_greedily
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.tokens.chatml import ChatMLEncoder

PROMPTS_FILE = "chat_prompts.yaml"
PROMPTS_AT_ONCE = 40
"""Prompts in one batch: decoding reads all weights for each token, so that many rows cost little more than one."""


@dataclass(frozen=True)
class ChatPrompt:
    """One of the shipped prompts.

    Attributes:
        id: Its name.
        messages: What is said, the user last.
        sample: Whether the report shows the answer.
    """

    id: str
    messages: tuple[Message, ...]
    sample: bool


def read_prompts(count: int | None = None) -> tuple[ChatPrompt, ...]:
    """Return the first ``count`` shipped prompts; all of them when absent.

    Raises:
        RecipeError: There are not so many.
    """
    text = resources.files(__package__).joinpath(PROMPTS_FILE).read_text(encoding="utf-8")
    prompts = tuple(_read_prompt(entry) for entry in yaml.safe_load(text)["prompts"])
    if count is not None and count > len(prompts):
        raise RecipeError(f"expected evals.chat_prompts to be at most {len(prompts)}, found {count}")
    return prompts[:count]


def answer_prompts(
    model: PreTrainedModel,
    encoder: ChatMLEncoder,
    prompts: Sequence[ChatPrompt],
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
) -> tuple[ChatAnswer, ...]:
    """Return the model's greedy answers.

    Args:
        model: In eval mode.
        encoder: Of its tokenizer.
        prompts: What is asked.
        max_new_tokens: Longest answer; one that reaches it has not ended.
        repetition_penalty: See :func:`genesis_sft.evals.generate.generate_greedily`.
    """
    encoded = [encoder.encode_prompt(prompt.messages) for prompt in prompts]
    answers: dict[int, list[int]] = {}
    by_length = sorted(range(len(prompts)), key=lambda place: len(encoded[place]))  # little padding
    with progress("chat", len(prompts), "answers") as bar:
        for start in range(0, len(by_length), PROMPTS_AT_ONCE):
            places = by_length[start : start + PROMPTS_AT_ONCE]
            written = generate_greedily(
                model, [encoded[place] for place in places], encoder.stop_ids, max_new_tokens, repetition_penalty, bar
            )
            answers.update(zip(places, written, strict=True))
    return tuple(_as_answer(prompt, answers[place], encoder) for place, prompt in enumerate(prompts))


def _read_prompt(entry: dict[str, Any]) -> ChatPrompt:
    messages = tuple(Message(message["role"], message["content"]) for message in entry["messages"])
    return ChatPrompt(entry["id"], messages, entry.get("sample", False))


def _as_answer(prompt: ChatPrompt, ids: list[int], encoder: ChatMLEncoder) -> ChatAnswer:
    parsed = encoder.parse_answer(ids)
    return ChatAnswer(
        id=prompt.id,
        messages=tuple({"role": message.role, "content": message.content} for message in prompt.messages),
        answer=parsed.content,
        reasoning=parsed.reasoning,
        ended=parsed.ended,
        num_tokens=len(ids),
        sample=prompt.sample,
    )
