"""Greedy answers to the shipped prompts, on which the checks of ``answer_checks.py`` are made."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from genesis_sft.console import progress
from genesis_sft.evals.chat_prompts import ChatPrompt
from genesis_sft.evals.generate import generate_greedily
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.tokens.chatml import ChatMLEncoder

PROMPTS_AT_ONCE = 40
"""Prompts in one batch: decoding reads all weights for each token, so that many rows cost little more than one."""


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
        written=encoder.decode(ids, show_special=True),
        rules=prompt.rules,
    )
