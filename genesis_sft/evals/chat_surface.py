r"""Benchmarks as conversations: what the harness renders for a chat becomes the ids that training has for it.

With a chat template the harness renders a prompt to text and tokenises it together with the answer; white space at the
end of the prompt, which is the line break of ``<|im_start|>assistant\n``, it moves into what is scored. Here the prompt
is one of `ChatMLEncoder.encode_prompt`: it ends behind the whole header, and control tokens that stand in a document
are plain text. The answer has the ids that training would train, *without* the end of the turn: whether a model stops
is measured on its own, and a score with it could not be compared with that of the raw surface.

The space that parts an answer from the text before it is left out, as the harness does for multiple choice: nothing
stands before an answer in its turn. So LAMBADA asks for ``word`` rather than ``" word"``.

WinoGrande and LAMBADA ask to go on with a text that stands in the user's turn, which is not what an assistant does:
there a change of the score says little (``DOUBTFUL_AS_CHAT``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from genesis_sft.checkpoint.control_tokens import IM_END, IM_START
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.errors import InputError
from genesis_sft.tokens.chatml import ChatMLEncoder

_KEPT = 4096


class ChatContext(str):
    """A rendered prompt that still knows its messages, as text with control tokens in it cannot be read back.

    Args:
        text: The prompt as text.
        messages: What is said, the user last.
        prefix: How the answer begins, where the task says so.
    """

    messages: tuple[Message, ...]
    prefix: str

    def __new__(cls, text: str, messages: tuple[Message, ...], prefix: str = "") -> ChatContext:
        """Make the text, and keep the messages with it."""
        made = super().__new__(cls, text)
        made.messages, made.prefix = messages, prefix
        return made

    def __getnewargs__(  # type: ignore[override]  # the harness may keep requests in a file
        self,
    ) -> tuple[str, tuple[Message, ...], str]:
        return str(self), self.messages, self.prefix


def render_chat(history: Sequence[Mapping[str, Any]], *, ends_with_answer: bool = False) -> ChatContext:
    """Return the messages of a request as ChatML that ends where the answer is to go on.

    Args:
        history: ``{"role", "content"}`` each, the user's last.
        ends_with_answer: Whether a last message of the assistant's stands behind it, as the beginning of the answer.
    """
    messages = tuple(Message(one["role"], one["content"]) for one in history)
    asked, prefix = (messages[:-1], messages[-1].content) if ends_with_answer else (messages, "")
    turns = [f"{IM_START}{message.role}\n{message.content}{IM_END}\n" for message in asked]
    return ChatContext(f"{''.join(turns)}{IM_START}assistant\n{prefix}", asked, prefix)


class ChatSurface:
    """Turns requests into ids; prompts and answers that come again are encoded once.

    Args:
        encoder: Of the model's tokenizer.
    """

    def __init__(self, encoder: ChatMLEncoder) -> None:
        self._encoder = encoder
        self._prompt = functools.lru_cache(_KEPT)(self._encode_prompt)
        self._answer = functools.lru_cache(_KEPT)(self._encode_answer)

    def encode_pair(self, context: ChatContext, answer: str) -> tuple[list[int], list[int]]:
        """Return the ids of the prompt, up to the end of the assistant's header, and those of the answer.

        Raises:
            InputError: The messages are no conversation, or there is nothing to score.
        """
        try:
            prompt = self._prompt(context.messages)
            if not context.prefix:
                return [*prompt], [*self._answer(answer.lstrip(" ") or answer)]
            before, whole = self._answer(context.prefix), self._answer(context.prefix + answer)
        except BadRow as error:
            raise InputError(f"a request of a benchmark cannot be put as a conversation: {error}") from None
        return [*prompt, *before], [*whole[len(before) :]]

    def _encode_prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return tuple(self._encoder.encode_prompt(messages))

    def _encode_answer(self, answer: str) -> tuple[int, ...]:
        """Return what stands between header and end of turn; which conversation it ends makes no difference."""
        question = (Message("user", "?"),)
        prompt = self._encoder.encode_prompt(question)
        ids = self._encoder.encode(Conversation((*question, Message("assistant", answer)))).input_ids
        assert list(ids[: len(prompt)]) == prompt, "the prompt is not how the conversation begins"
        return tuple(int(id) for id in ids[len(prompt) : len(ids) - 1 - self._encoder.newline_length])
