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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS, IM_END, IM_START, THINK, THINK_END
from genesis_sft.conversations.conversation import Conversation, Message, check_prompt
from genesis_sft.tokens.headers import behind_header, read_headers
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
    "TemplateProof",
    "template_matches",
]

TrainOn = Literal["assistant", "end_of_turn"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as ids.

    Attributes:
        input_ids: Token ids, length T.
        trained: ``[start, stop)`` positions in ``input_ids`` whose ids are labels, ascending, not touching each other.
            They are positions of the labels themselves: the shift by one happens where the loss is computed.
    """

    input_ids: list[int]
    trained: list[tuple[int, int]]

    @property
    def num_trained(self) -> int:
        """Number of labels."""
        return sum(stop - start for start, stop in self.trained)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote in its turn.

    Attributes:
        content: The answer.
        reasoning: What stood between ``<think>`` and ``</think>``, if anything.
        ended: Whether the model ended its turn.
    """

    content: str
    reasoning: str | None
    ended: bool


class _Piece(NamedTuple):
    """Part of a rendering: ids that are given, or a text to encode; of which the header is a piece before it."""

    trained: bool
    ids: list[int] | None
    text: str = ""
    after_control: bool = False
    header: list[int] | None = None


class ChatMLEncoder:
    """Encodes conversations for training, and prompts for chat and evaluation, by the same rules.

    Args:
        tokenizer: A fast tokenizer that has the four control tokens; it is not changed.
        train_on: ``("assistant",)`` trains the text of assistant turns and masks every control token.
            ``("assistant", "end_of_turn")`` trains all that the model itself has to produce: ``<think>``, ``</think>``
            and ``<|im_end|>`` too. Never trained: headers, other roles, the line break after ``<|im_end|>``.
        reasoning: ``"strip"`` leaves reasoning out, everywhere.

    Attributes:
        im_start_id, im_end_id, think_id, think_end_id: Ids of the control tokens.
        eos_id: The tokenizer's own end of text, if it has one.
        stop_ids: Ids that end a turn: ``<|im_end|>`` and the end of text.

    Raises:
        ModelError: The tokenizer lacks a control token, cannot keep text apart from control tokens, or merges the line
            break of a header with the text behind it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        train_on: Sequence[TrainOn] = ("assistant", "end_of_turn"),
        reasoning: Literal["keep", "strip"] = "keep",
    ) -> None:
        self.text = TextTokenizer(tokenizer, CONTROL_TOKENS)
        self.keeps_reasoning = reasoning == "keep"
        self.trains_end_of_turn = "end_of_turn" in train_on
        ids = {name: id for id, name in self.text.added.items()}
        self.im_start_id, self.im_end_id, self.think_id, self.think_end_id = (ids[name] for name in CONTROL_TOKENS)
        self.eos_id: int | None = tokenizer.eos_token_id
        self.stop_ids = frozenset({self.im_end_id} if self.eos_id is None else {self.im_end_id, self.eos_id})
        self._headers = read_headers(self.text)
        self._header = {role: [self.im_start_id, *text] for role, text in self._headers.ids.items()}
        self._newline = self.text.encode(["\n"], after_control=True)[0]

    def encode(self, conversation: Conversation) -> Encoded:
        """Return the ids and trained spans of a conversation; `encode_many` is faster for many."""
        return self.encode_many([conversation])[0]

    def encode_many(self, conversations: Iterable[Conversation]) -> list[Encoded]:
        r"""Return the ids and trained spans of each conversation.

        With ids 1 and 2 for ``<|im_start|>`` and ``<|im_end|>``, and one id for every other word and line break,
        user "hi", assistant "yo" become::

            Encoded(input_ids=[1, user, \n, hi, 2, \n, 1, assistant, \n, yo, 2, \n], trained=[(9, 11)])

        Raises:
            ModelError: The tokenizer turned text into a control token, or merged it with a header.
        """
        return self._encode_pieces([self._render(conversation.messages) for conversation in conversations])

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        r"""Return the ids of messages that end with the user's, and of ``<|im_start|>assistant\n`` after them.

        Raises:
            BadRow: The messages are no conversation, or do not end with the user's.
        """
        check_prompt(messages)
        pieces = [*self._render(messages), _Piece(False, self._header["assistant"])]
        return self._encode_pieces([pieces])[0].input_ids

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
        behind = 1 + len(self._newline)
        return [position + behind for position, id in enumerate(input_ids) if id == self.im_end_id]

    def _render(self, messages: Iterable[Message]) -> list[_Piece]:
        pieces = []
        for message in messages:
            by_model = message.role == "assistant"
            ends_turn = by_model and self.trains_end_of_turn
            pieces.append(_Piece(False, self._header[message.role]))
            if message.reasoning is not None and self.keeps_reasoning:
                pieces += [
                    _Piece(ends_turn, [self.think_id]),
                    _Piece(True, None, f"\n{message.reasoning}\n", after_control=True),
                    _Piece(ends_turn, [self.think_end_id]),
                    _Piece(True, None, f"\n\n{message.content}", after_control=True),
                ]
            else:
                pieces.append(self._content(message, by_model))
            pieces += [_Piece(ends_turn, [self.im_end_id]), _Piece(False, self._newline)]
        return pieces

    def _content(self, message: Message, trained: bool) -> _Piece:
        if not self._headers.in_one_piece:
            return _Piece(trained, None, message.content)
        text = f"{message.role}\n{message.content}"
        return _Piece(trained, None, text, after_control=True, header=self._headers.ids[message.role])

    def _encode_pieces(self, rendered: Sequence[list[_Piece]]) -> list[Encoded]:
        encoded = {
            after_control: iter(
                self.text.encode(
                    [
                        p.text
                        for pieces in rendered
                        for p in pieces
                        if p.ids is None and p.after_control == after_control
                    ],
                    after_control=after_control,
                )
            )
            for after_control in (False, True)
        }
        return [
            _join(
                [(p.trained, _own_ids(p, next(encoded[p.after_control])) if p.ids is None else p.ids) for p in pieces]
            )
            for pieces in rendered
        ]


def _own_ids(piece: _Piece, encoded: list[int]) -> list[int]:
    return encoded if piece.header is None else behind_header(encoded, piece.header, piece.text)


def _join(parts: Iterable[tuple[bool, list[int]]]) -> Encoded:
    input_ids: list[int] = []
    trained: list[tuple[int, int]] = []
    for is_trained, ids in parts:
        start = len(input_ids)
        input_ids += ids
        if is_trained and ids:
            if trained and trained[-1][1] == start:
                start = trained.pop()[0]
            trained.append((start, len(input_ids)))
    return Encoded(input_ids, trained)
