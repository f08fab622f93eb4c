"""The chat template for other programs, and the proof that it gives the ids that the model is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genesis_sft.checkpoint.control_tokens import THINK, THINK_END
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.tokens.rendering import EMPTY_THOUGHT, Reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from genesis_sft.tokens.chatml import ChatMLEncoder

# No system message of its own; content as it is, neither stripped nor escaped.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% set reasoning = message['reasoning'] or message['reasoning_content'] %}"
    "{% if message['role'] == 'assistant' and reasoning %}"
    "{{ '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TemplateProof:
    """How often template and encoder gave the same ids.

    No template can be right on every conversation: it renders one text, in which a control token that someone typed
    *is* a control token, and white space at the start of a message may merge with the line break before it (not where
    messages are encoded in one piece with their header). Conversations with either are left out and counted.

    Attributes:
        n: All conversations that were given.
        n_equal: Those with the same ids.
        n_exempt: Those left out.
        first_difference: Where the first difference is and what stands there, if there is one.
    """

    n: int
    n_equal: int
    n_exempt: int
    first_difference: str | None

    @property
    def holds(self) -> bool:
        """Whether every conversation that was not left out has the same ids."""
        return self.n_equal + self.n_exempt == self.n


def template_hash() -> str:
    """Return the hex SHA-256 of the chat template; stands in the metadata of token stores."""
    return hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()


def template_matches(
    tokenizer: PreTrainedTokenizerBase, encoder: ChatMLEncoder, conversations: Iterable[Conversation]
) -> TemplateProof:
    """Compare ``tokenizer.apply_chat_template`` with the encoder on every conversation.

    Args:
        tokenizer: Has the chat template, as it was exported.
        encoder: What the model was trained with.
        conversations: What to compare on; the more varied, the more it proves.
    """
    num_equal = num_exempt = num = 0
    first_difference = None
    for conversation in conversations:
        num += 1
        if _is_exempt(conversation, encoder):
            num_exempt += 1
            continue
        expected = encoder.encode(conversation).input_ids
        rows = [_as_row(message, encoder.reasoning) for message in conversation.messages]
        found = tokenizer.apply_chat_template(rows, tokenize=True, return_dict=False)
        if found == expected:
            num_equal += 1
        elif first_difference is None:
            first_difference = _describe(conversation, encoder, expected, found)
    return TemplateProof(num, num_equal, num_exempt, first_difference)


def _is_exempt(conversation: Conversation, encoder: ChatMLEncoder) -> bool:
    for message in conversation.messages:
        reasoning = message.reasoning if encoder.keeps_reasoning else None
        follows_header = reasoning is None and not (encoder.reasoning == "empty" and message.role == "assistant")
        if follows_header and not encoder.header_in_one_piece and message.content[0].isspace():
            return True
        texts = message.content if reasoning is None else reasoning + message.content
        if any(name in texts for name in encoder.text.added.values()):
            return True
    return False


def _as_row(message: Message, policy: Reasoning) -> dict[str, Any]:
    row = {"role": message.role, "content": message.content}
    if policy == "empty" and message.role == "assistant":
        # the template has no such rule of its own: it is given the text
        return row | {"content": f"{THINK}{EMPTY_THOUGHT}{THINK_END}\n\n{message.content}"}
    if policy == "keep" and message.reasoning is not None:
        return row | {"reasoning": message.reasoning}
    return row


def _describe(conversation: Conversation, encoder: ChatMLEncoder, expected: list[int], found: list[int]) -> str:
    shorter = min(len(expected), len(found))
    at = next((place for place in range(shorter) if expected[place] != found[place]), shorter)

    def show(ids: list[int]) -> str:
        return f"{ids[at : at + 5]} ({encoder.decode(ids[at : at + 5], show_special=True)!r})"

    return (
        f"source {conversation.source!r}, row {conversation.row}, position {at}: "
        f"trained on {show(expected)}, template gives {show(found)}"
    )
