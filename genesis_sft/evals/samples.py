"""Answers to a few chat prompts while a model is trained: what the numbers look like as text."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from genesis_sft.evals.chat_prompts import read_prompts
from genesis_sft.evals.generate import generate_greedily
from genesis_sft.recipe import EvalsSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.training.watching.monitor import Sample

MOST_NEW_TOKENS = 96


def sampler(
    tokenizer: PreTrainedTokenizerFast, section: EvalsSection
) -> Callable[[PreTrainedModel], tuple[Sample, ...]]:
    """Return a function that asks a model the prompts which the report shows; greedy answers, `MOST_NEW_TOKENS` long.

    Args:
        tokenizer: Of the model, with control tokens.
        section: Says which repetition penalty answers have.
    """
    encoder = ChatMLEncoder(tokenizer)
    prompts = [prompt for prompt in read_prompts() if prompt.sample]
    encoded = [encoder.encode_prompt(prompt.messages) for prompt in prompts]
    longest = min(MOST_NEW_TOKENS, section.max_new_tokens)

    def sample(model: PreTrainedModel) -> tuple[Sample, ...]:
        written = generate_greedily(model, encoded, encoder.stop_ids, longest, section.repetition_penalty)
        answers = [encoder.parse_answer(ids) for ids in written]
        return tuple(
            Sample(prompt=prompt.messages[-1].content, answer=answer.content, ended=answer.ended)
            for prompt, answer in zip(prompts, answers, strict=True)
        )

    return sample
