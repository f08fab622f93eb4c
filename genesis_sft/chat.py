"""Talk to a model folder in the terminal, token by token as it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import say, visible
from genesis_sft.conversations.conversation import Message
from genesis_sft.errors import InputError, ModelError
from genesis_sft.evals.generate import generate_steps, penalize, room
from genesis_sft.tokens.chatml import ChatMLEncoder


def chat(
    folder: str | Path,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    as_json: bool = False,
) -> None:
    """Answer the lines of standard input, one after the other, as one conversation.

    Args:
        folder: A model folder.
        system: System prompt.
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        repetition_penalty: Above 1, tokens that the answer holds already become less likely, as in evaluations.
        seed: Decides the draws when ``temperature`` is above 0.
        as_json: Print one JSON object an answer instead of streaming text.

    Raises:
        InputError: Standard input is closed, or holds something else than text.
        ModelError: The folder is no model folder, the model's outputs are not numbers, or the conversation does not fit
            into its context.
    """
    if sys.stdin is None:
        raise InputError("expected messages on standard input, found it closed")
    model_dir = ModelDir.open(folder)
    model, encoder = model_dir.load_model(), ChatMLEncoder(model_dir.load_tokenizer())
    generator = torch.Generator().manual_seed(seed)
    messages = [Message("system", system)] if system else []
    interactive = sys.stdin.isatty()
    if interactive:
        say("Type a message and Enter; an empty line starts a new conversation, Ctrl-D ends.")
    while (line := _read_line(interactive)) is not None:
        if not line.strip():
            messages = messages[:1] if system else []
            continue
        messages.append(Message("user", line))
        ids: list[int] = []
        for token in generate_ids(model, encoder, messages, max_new_tokens, temperature, generator, repetition_penalty):
            before = _printable(encoder, ids)
            ids.append(token)
            if not as_json:
                print(visible(_printable(encoder, ids)[len(before) :]), end="", flush=True)
        ended = bool(ids) and ids[-1] in encoder.stop_ids
        answer = encoder.parse_answer(ids)
        messages.append(Message("assistant", answer.content, answer.reasoning or None))
        if as_json:
            row = {"prompt": line, "answer": answer.content, "reasoning": answer.reasoning, "ended": ended}
            print(json.dumps({**row, "num_tokens": len(ids)}, ensure_ascii=not _prints_unicode()), flush=True)
        else:
            full = "" if len(ids) == max_new_tokens else ": the model's context is full"
            print("" if ended else f"\n[cut off after {len(ids)} tokens{full}]", flush=True)


def generate_ids(
    model: PreTrainedModel,
    encoder: ChatMLEncoder,
    messages: Sequence[Message],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    repetition_penalty: float = 1.0,
) -> Iterator[int]:
    """Yield the ids of the answer, the stop token last if the model gives one; none behind the model's context.

    Raises:
        ModelError: The messages alone fill the context, or the model's outputs are not numbers.
    """
    prompt = encoder.encode_prompt(messages)
    if room(model, len(prompt)) < 1:
        raise ModelError(
            f"expected a conversation that leaves room for an answer in the model's context of "
            f"{model.config.max_position_embeddings} tokens, found one of {len(prompt)} tokens",
            hint="An empty line starts a new conversation.",
        )

    written: list[int] = []

    def choose(logits: torch.Tensor, _: Sequence[int]) -> torch.Tensor:
        logits = penalize(logits, [written], repetition_penalty)
        if temperature > 0:
            return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)[:, 0]
        return logits.argmax(dim=-1)

    for step in generate_steps(model, [prompt], encoder.stop_ids, max_new_tokens, choose):
        for _, token in step:
            written.append(token)
            yield token


def _printable(encoder: ChatMLEncoder, ids: Sequence[int]) -> str:
    """Text of the ids so far, without control tokens, and without an end that the next token may complete."""
    return encoder.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}\r")


def _read_line(interactive: bool) -> str | None:
    if interactive:
        print("> ", end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in {error.encoding} on standard input, found other bytes") from None
    return line.rstrip("\n") if line else None


def _prints_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
