r"""The header of a message, its role and a line break, and how text behind it is told apart from it.

Most tokenizers keep a line break: ``user\n`` has the same ids whatever follows, and so has what follows. Others do not.
SentencePiece's own default (``nmt_nfkc``) turns it into a space, takes it away at the end of a text, and merges it with
the word behind it::

    user\n       us er
    user\nwhy    us er ▁why        and not  us er why

For them a message is encoded in one piece with its header, and its content is what follows the ids of the header. So
the ids are those of the chat template, and the prompt that asks for an answer ends where the trained answer began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genesis_sft.conversations.conversation import ROLES
from genesis_sft.errors import ModelError
from genesis_sft.tokens.text import TextTokenizer

# What a tokenizer may take a line break for: nothing, a space, a character that it does not know.
_TAKEN_FOR = ("", " ", "\U0010fffd")
_CONTENTS = ("why", "The", "a", "7", "(", "'", "#", "é", "你", "😀", "\u0301a", "\u200ba", "▁a", " a", "  a", "\na",
             "\ta")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Headers:
    r"""How messages begin.

    Attributes:
        ids: Role to the ids of ``f"{role}\n"`` behind a control token.
        in_one_piece: Whether content has to be encoded in one piece with its header.
        before_answer: What the text of an answer's ids begins with and is not part of it.
        around_reasoning: What stands for the line breaks behind ``<think>`` and before ``</think>``.
        before_content: What stands for the two line breaks behind ``</think>``.
    """

    ids: Mapping[str, list[int]]
    in_one_piece: bool
    before_answer: str = ""
    around_reasoning: tuple[str, str] = ("\n", "\n")
    before_content: str = "\n\n"


def read_headers(text: TextTokenizer) -> Headers:
    """Find out by trying how messages begin with a tokenizer.

    Raises:
        ModelError: The ids of a header depend on the content behind it, so that no prompt could end on them.
    """
    encoded = text.encode([f"{role}\n" for role in ROLES], after_control=True)
    ids = dict(zip(ROLES, encoded, strict=True))
    if all(_keeps_line_break(text, role) for role in ROLES):
        return Headers(ids, in_one_piece=False)
    for role in ROLES:
        messages = [f"{role}\n{content}" for content in (*_CONTENTS, *_merging(text, role))]
        for message, found in zip(messages, text.encode(messages, after_control=True), strict=True):
            behind_header(found, ids[role], message)
    answer, thought, content = text.encode(["assistant\na", "\na\n", "\n\na"], after_control=True)
    reasoning = text.decode(thought, after_control=True)
    return Headers(
        ids,
        in_one_piece=True,
        before_answer=_space_before(text.decode(answer[len(ids["assistant"]) :])),
        around_reasoning=(_space_before(reasoning), reasoning[len(reasoning.rstrip()) :]),
        before_content=_space_before(text.decode(content, after_control=True)),
    )


def behind_header(ids: list[int], header: list[int], message: str) -> list[int]:
    r"""Return the ids of a message's content: those behind its header.

    Args:
        ids: Ids of the message in one piece with its header, e.g. ``us er ▁why``.
        header: Ids of the header alone, e.g. ``us er``.
        message: The text of ``ids``, for the error.

    Raises:
        ModelError: The ids do not begin with the header's.
    """
    if ids[: len(header)] != header:
        alone = message[: message.index("\n") + 1]
        raise ModelError(
            f"expected a tokenizer that keeps the line break behind a role, or lets a message begin with the ids of "
            f"its header; this one turns the line break into what merges with the text behind it: {alone!r} has the "
            f"ids {header[:8]}, {message[:30]!r} begins with {ids[: len(header)][:8]}",
            hint="Give the base model a token for the line break and save both: "
            r"tokenizer.add_tokens(AddedToken('\n', normalized=False)), "
            "model.resize_token_embeddings(len(tokenizer)).",
        )
    return ids[len(header) :]


def _keeps_line_break(text: TextTokenizer, role: str) -> bool:
    found, *others = text.encode([f"{role}{between}why" for between in ("\n", *_TAKEN_FOR)], after_control=True)
    return found not in others


def _merging(text: TextTokenizer, role: str) -> Iterator[str]:
    """Yield contents for which a piece of the vocabulary could reach from the role into the content."""
    for piece in text.vocabulary():
        for place, character in enumerate(piece):
            if character == "▁" and place and f"▁{role}".endswith(piece[:place]) and piece[place + 1 :]:
                yield piece[place + 1 :].replace("▁", " ")


def _space_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
