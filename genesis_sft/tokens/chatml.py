r"""ChatML: one function turns a conversation into token ids and says which of them are trained.

::

    <|im_start|>system\nBe brief.<|im_end|>\n
    <|im_start|>user\n7 times 8?<|im_end|>\n
    <|im_start|>assistant\n<think>\n7*8=56\n</think>\n\n56<|im_end|>\n
                          -------------------------------------------    trained

Text between two control tokens that the model writes itself is encoded in one piece (``\n\n56``), as the model would
write it. The text behind a header is encoded apart from the header, as it is when the model is asked to go on; with
tokenizers that do not keep line breaks it is what follows the header in one piece with it (`headers`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS, IM_END, IM_START, THINK, THINK_END
from genesis_sft.conversations.conversation import Conversation, Message, check_prompt
from genesis_sft.tokens.encoded import Answer, Encoded, EncodedBlock, TrainOn
from genesis_sft.tokens.headers import behind_header, read_headers
from genesis_sft.tokens.rendering import EMPTY_THOUGHT, LaidOut, Reasoning, Rendered, Renderer
from genesis_sft.tokens.template import CHAT_TEMPLATE, TemplateProof, template_matches
from genesis_sft.tokens.text import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CHAT_TEMPLATE",
    "IM_END",
    "IM_START",
    "THINK",
    "THINK_END",
    "Answer",
    "ChatMLEncoder",
    "Encoded",
    "EncodedBlock",
    "TemplateProof",
    "TrainOn",
    "template_matches",
]


class ChatMLEncoder:
    r"""Encodes conversations for training, and prompts for chat and evaluation, by the same rules.

    It can be pickled, and loaded without torch and transformers. A second one for the same tokenizer costs little.

    Args:
        tokenizer: A fast tokenizer that has the four control tokens; it is not changed.
        train_on: ``("assistant",)`` trains the text of assistant turns and masks every control token.
            ``("assistant", "end_of_turn")`` trains all that the model itself has to produce: ``<think>``, ``</think>``
            and ``<|im_end|>`` too. Never trained: headers, other roles, the line break after ``<|im_end|>``.
            ``Message.train`` overrides which turns are trained: all of a turn is masked, or it is trained as an
            assistant's would be, whatever its role.
        reasoning: ``"strip"`` leaves reasoning out, everywhere. ``"empty"`` gives every assistant turn the part
            ``<think>\n\n</think>\n\n``, whatever its reasoning was.

    Attributes:
        im_start_id, im_end_id, think_id, think_end_id: Ids of the control tokens.
        eos_id: The tokenizer's own end of text, if it has one.
        stop_ids: Ids that end a turn: ``<|im_end|>`` and the end of text.
        newline_length: Number of ids of the line break behind ``<|im_end|>``; none with some tokenizers.

    Raises:
        ModelError: The tokenizer lacks a control token, cannot keep text apart from control tokens, or merges the line
            break of a header with the text behind it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train_on: Sequence[TrainOn] = ("assistant", "end_of_turn"),
        reasoning: Reasoning = "keep",
    ) -> None:
        self.text = TextTokenizer.of(tokenizer, CONTROL_TOKENS)
        self.reasoning = reasoning
        self.trains_end_of_turn = "end_of_turn" in train_on
        ids = {name: id for id, name in self.text.added.items()}
        self.im_start_id, self.im_end_id, self.think_id, self.think_end_id = (ids[name] for name in CONTROL_TOKENS)
        self.eos_id: int | None = tokenizer.eos_token_id
        self.stop_ids = frozenset({self.im_end_id} if self.eos_id is None else {self.im_end_id, self.eos_id})
        self._headers = read_headers(self.text)
        newline, empty_thought = self.text.encode(["\n", EMPTY_THOUGHT], after_control=True)
        self.newline_length = len(newline)
        control_ids = (self.im_start_id, self.im_end_id, self.think_id, self.think_end_id)
        self._renderer = Renderer(
            self._headers, control_ids, newline, empty_thought, reasoning, self.trains_end_of_turn
        )

    @property
    def keeps_reasoning(self) -> bool:
        """Whether conversations keep the reasoning that they have."""
        return self.reasoning == "keep"

    @property
    def header_in_one_piece(self) -> bool:
        """Whether content is encoded in one piece with its header, because line breaks do not stay."""
        return self._headers.in_one_piece

    @property
    def engine(self) -> str:
        """Name of the library that `encode_block` uses: ``"tokie"`` where it was proven, ``"tokenizers"`` elsewhere."""
        return self.text.engines[0].name

    @property
    def engine_note(self) -> str:
        """Why that one, in a line."""
        return self.text.engines[0].note

    def with_reference(self, note: str) -> ChatMLEncoder:
        """Return a copy that uses tokenizers for everything; the note says why."""
        other = copy.copy(self)
        other.text = self.text.with_reference(note)
        return other

    def encode(self, conversation: Conversation) -> Encoded:
        """Return the ids and trained spans of a conversation; `encode_many` is faster for many."""
        return self.encode_many([conversation])[0]

    def encode_many(self, conversations: Iterable[Conversation]) -> list[Encoded]:
        r"""Return the ids and trained spans of each conversation; `encode_block` is faster for thousands.

        With ids 1 and 2 for ``<|im_start|>`` and ``<|im_end|>``, and one id for every other word and line break,
        user "hi", assistant "yo" become::

            Encoded(input_ids=[1, user, \n, hi, 2, \n, 1, assistant, \n, yo, 2, \n], trained=[(9, 11)])

        Raises:
            ModelError: The tokenizer turned text into a control token, or merged it with a header.
        """
        return self._encode([conversation.messages for conversation in conversations]).split()

    def encode_block(self, conversations: Sequence[Conversation]) -> EncodedBlock:
        r"""Return the ids and trained spans of many conversations at once, in flat arrays.

        The ids are those of `encode`; a faster library gives them where it was proven to give the same (`engine`). The
        example of `encode_many`, twice, is::

            EncodedBlock(ids=[1, user, \n, hi, ... yo, 2, \n], num_tokens=[12, 12], spans=[[9, 11], [9, 11]],
                         num_spans=[1, 1])

        Raises:
            ModelError: The tokenizer turned text into a control token, or merged it with a header.
        """
        return self._encode([conversation.messages for conversation in conversations], fast=True)

    def check_sample(self, conversations: Sequence[Conversation]) -> str | None:
        """Return a text of conversations, quoted, to which `encode_block`'s library gives other ids than tokenizers.

        ``None`` where there is no such text.
        """
        rendered = self._renderer.render(conversation.messages for conversation in conversations)
        text = self.text.first_difference(rendered.texts, rendered.after_control)
        return None if text is None else ascii(text[:80])

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        r"""Return the ids of messages that end with the user's, and of ``<|im_start|>assistant\n`` after them.

        Raises:
            BadRow: The messages are no conversation, or do not end with the user's.
        """
        check_prompt(messages)
        return [*self._encode([messages]).ids.tolist(), self.im_start_id, *self._headers.ids["assistant"]]

    def decode(self, ids: Sequence[int], *, show_special: bool = False) -> str:
        """Return the text of ids; special tokens are left out, or shown by name."""
        return self.text.decode(ids, show_special=show_special)

    def parse_answer(self, ids: Sequence[int]) -> Answer:
        """Return what a model wrote after the prompt, up to the end of its turn.

        Args:
            ids: Generated ids, without the prompt.
        """
        stop = next((position for position, id in enumerate(ids) if id in self.stop_ids), None)
        turn, reasoning = list(ids[:stop]), None
        if turn[:1] == [self.think_id]:
            end = turn.index(self.think_end_id) if self.think_end_id in turn else len(turn)
            before, behind = self._headers.around_reasoning
            reasoning = self.text.decode(turn[1:end], after_control=True).removeprefix(before).removesuffix(behind)
            content = self.text.decode(turn[end + 1 :], after_control=True).removeprefix(self._headers.before_content)
        else:
            content = self.text.decode(turn).removeprefix(self._headers.before_answer)
        return Answer(content, reasoning, ended=stop is not None)

    def message_ends(self, input_ids: Sequence[int]) -> list[int]:
        """Return the position behind each message: up to there, the ids are those of a shorter conversation."""
        behind = 1 + self.newline_length
        return [position + behind for position, id in enumerate(input_ids) if id == self.im_end_id]

    def _encode(self, conversations: Sequence[Sequence[Message]], *, fast: bool = False) -> EncodedBlock:
        """Encode, and check the result; everything that becomes ids goes through here."""
        if not conversations:
            none = np.zeros(0, np.int64)
            return EncodedBlock(np.zeros(0, np.uint32), none, np.zeros((0, 2), np.int32), none)
        rendered = self._renderer.render(conversations)
        encoded = self.text.encode_flat(rendered.texts, rendered.after_control, fast=fast)
        if (broken := self._renderer.find_broken_header(rendered, encoded)) is not None:
            text, ids, header = broken
            behind_header(ids, header, rendered.texts[text])
        laid_out = self._renderer.lay_out(rendered, encoded)
        self._check(rendered, laid_out)
        return EncodedBlock(*laid_out)

    def _check(self, rendered: Rendered, laid_out: LaidOut) -> None:
        """Assert what training relies on: no control token but the template's, trained turns end on a trained end.

        Both would show as a model that never stops, or stops at the wrong place, hours later.
        """
        ids, num_tokens, spans, num_spans = laid_out
        stops = num_tokens.cumsum()
        for id, expected in (
            (self.im_start_id, rendered.num_messages),
            (self.im_end_id, rendered.num_messages),
            (self.think_id, rendered.num_thoughts),
            (self.think_end_id, rendered.num_thoughts),
        ):
            owners = np.searchsorted(stops, np.flatnonzero(ids == id), side="right")
            found = np.bincount(owners, minlength=len(stops))
            assert np.array_equal(found, expected), f"conversation {(found != expected).argmax()}: control token {id}"
        if self.trains_end_of_turn:
            assert np.array_equal(num_spans, rendered.num_trained_turns), "a trained turn is not one span"
            last = np.repeat(stops - num_tokens, num_spans) + spans[:, 1] - 1
            assert (ids[last] == self.im_end_id).all(), "a trained turn does not end on a trained end of turn"
