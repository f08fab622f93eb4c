"""Conversations as the model sees them: every token, and whether it is trained on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from genesis_sft.checkpoint.control_tokens import add_to_tokenizer
from genesis_sft.console import say
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.formats import FORMATS
from genesis_sft.conversations.sources import read_conversations
from genesis_sft.errors import InputError, ModelError
from genesis_sft.recipe import SourceSection
from genesis_sft.tokens.chatml import ChatMLEncoder, Encoded, TrainOn

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

_DEFAULT_LIMIT = 3
# control characters in data must not reach the terminal as commands: their pictures do (U+2400 and on)
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= dict.fromkeys(range(128, 160), 65533) | {0x7F: 0x2421}

Kind = Literal["trained", "masked", "control"]


def show_file(
    path: str | Path,
    tokenizer_path: str | Path,
    *,
    limit: int | None = None,
    as_json: bool = False,
    format: str = "auto",
    train_on: Sequence[str] = ("assistant", "end_of_turn"),
    reasoning: str = "keep",
    show_ids: bool = False,
) -> None:
    """Write conversations of a file to stdout: in colour, or as JSON lines, one as soon as its row is read.

    A JSON line holds ``row`` (row in the file, from 0), ``input_ids``, ``trained`` (``[start, stop)`` of labels)
    and ``text`` (what the ids decode to).

    Args:
        path: Conversations: .jsonl, .jsonl.gz, .json, .parquet.
        tokenizer_path: Model folder, or a tokenizer.json. Control tokens that it lacks are added in memory.
        limit: How many conversations; 3 when absent, all for JSON.
        as_json: Whether to write JSON lines.
        format: Format of the rows.
        train_on: What is trained on, as in a recipe.
        reasoning: ``"keep"`` or ``"strip"``, as in a recipe.
        show_ids: Whether to list every token with position and id below the text; JSON has the ids anyway.

    Raises:
        DataError: The file cannot be read, or a row is no conversation.
        ModelError: There is no tokenizer, or it is not safe to use.
        InputError: An option has no such value.
    """
    _require("format", format, ("auto", *FORMATS))
    _require("reasoning", reasoning, ("keep", "strip"))
    if tuple(train_on) not in (("assistant",), ("assistant", "end_of_turn")):
        raise InputError(f"expected train_on assistant or assistant,end_of_turn; found {','.join(train_on)}")
    source = SourceSection(name="file", path=str(path), format=cast(Any, format))
    rules = cast(Sequence[TrainOn], train_on)
    encoder = ChatMLEncoder(load_tokenizer(Path(tokenizer_path)), rules, cast(Any, reasoning))
    limit = limit if limit is not None or as_json else _DEFAULT_LIMIT
    conversations: Iterator[Conversation] = islice(read_conversations(source), limit)
    first = next(conversations, None)
    if first is None:
        say(f"no conversations in {path}")
        return
    conversations = chain([first], conversations)
    if as_json:
        _write_json(conversations, encoder)
    else:
        _write_text(conversations, encoder, show_ids)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder or tokenizer.json, with the control tokens.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    from transformers import PreTrainedTokenizerFast

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(
            f"expected a model folder with a tokenizer.json, or a tokenizer.json, at {path}; found none",
            hint="A finished run has one in base/model, e.g. runs/quickstart/base/model.",
        )
    try:
        if path.is_dir():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        else:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # the tokenizers library raises bare Exception on a malformed file
        raise ModelError(f"expected a tokenizer in {file}, found: {str(error).splitlines()[0]}") from None
    add_to_tokenizer(tokenizer)
    return cast("PreTrainedTokenizerBase", tokenizer)


def runs(encoded: Encoded, encoder: ChatMLEncoder) -> Iterator[tuple[Kind, bool, list[int]]]:
    """Yield (kind, whether trained, ids) of neighbouring ids that are alike; every control token is one by itself."""
    trained = [False] * len(encoded.input_ids)
    for start, stop in encoded.trained:
        trained[start:stop] = [True] * (stop - start)

    def alike(position: int) -> tuple[int, bool]:
        id = encoded.input_ids[position]
        return (position if id in encoder.text.special_ids else -1, trained[position])

    for (control, is_trained), positions in groupby(range(len(trained)), key=alike):
        kind: Kind = "control" if control >= 0 else "trained" if is_trained else "masked"
        yield kind, is_trained, [encoded.input_ids[position] for position in positions]


def _require(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"expected {option} to be one of {', '.join(allowed)}; found {value!r}")


def _write_json(conversations: Iterator[Conversation], encoder: ChatMLEncoder) -> None:
    for conversation in conversations:
        encoded = encoder.encode(conversation)
        line = {
            "row": conversation.row,
            "input_ids": encoded.input_ids,
            "trained": encoded.trained,
            "text": encoder.decode(encoded.input_ids, show_special=True),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _write_text(conversations: Iterator[Conversation], encoder: ChatMLEncoder, show_ids: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    in_colour = console.is_terminal and not console.no_color
    if in_colour:
        legend = Text.assemble(
            ("trained", "green"), "  ", ("masked", "dim"), "  control tokens ", ("marked", "reverse")
        )
    else:
        legend = Text("[[ ]] around what is trained")
    console.print(legend)
    for conversation in conversations:
        encoded = encoder.encode(conversation)
        console.print(
            f"\nrow {conversation.row}: {len(encoded.input_ids)} tokens, {encoded.num_trained} trained", markup=False
        )
        console.print(_as_text(encoded, encoder, in_colour), end="")
        if show_ids:
            _print_ids(encoded, encoder, console)


def _as_text(encoded: Encoded, encoder: ChatMLEncoder, in_colour: bool) -> Any:
    from rich.text import Text

    text = Text()
    after_control = was_trained = False
    for kind, is_trained, ids in runs(encoded, encoder):
        if is_trained != was_trained and not in_colour:
            text.append("[[" if is_trained else "]]")
        part = encoder.text.decode(ids, after_control=after_control, show_special=True).translate(_VISIBLE)
        style = "green" if is_trained else "dim"
        text.append(part, style=f"{style} reverse" if kind == "control" else style)
        after_control, was_trained = kind == "control", is_trained
    return text


def _print_ids(encoded: Encoded, encoder: ChatMLEncoder, console: Console) -> None:
    position = 0
    for kind, is_trained, ids in runs(encoded, encoder):
        for id in ids:
            note = f"{kind}, trained" if kind == "control" and is_trained else kind
            token = repr(encoder.decode([id], show_special=True))
            console.print(f"{position:6} {id:7} {token:24} {note}", markup=False)
            position += 1
