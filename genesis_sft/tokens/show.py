"""Conversations as the model sees them: every token, and whether it is trained on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from genesis_sft.checkpoint.control_tokens import add_to_tokenizer
from genesis_sft.console import say
from genesis_sft.conversations.clean import read_conversations
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.conversations.formats import FORMATS
from genesis_sft.errors import DataError, InputError, ModelError
from genesis_sft.recipe import SourceSection
from genesis_sft.tokens.chatml import ChatMLEncoder, Encoded, TrainOn

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

_DEFAULT_LIMIT, _DEFAULT_PAGE_LIMIT = 3, 20
# control characters in data must not reach the terminal as commands: their pictures do (U+2400 and on)
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= dict.fromkeys(range(128, 160), 65533) | {0x7F: 0x2421}

Kind = Literal["trained", "masked", "control"]


@dataclass(frozen=True)
class Shown:
    """A conversation to be shown.

    Attributes:
        row: Its row in the source, from 0.
        encoded: Its ids and labels.
        source: Name of the source; empty for a file.
    """

    row: int
    encoded: Encoded
    source: str = ""

    @property
    def title(self) -> str:
        """What stands above it."""
        where = f"{self.source}, row {self.row}" if self.source else f"row {self.row}"
        return f"{where}: {len(self.encoded.input_ids)} tokens, {self.encoded.num_trained} trained"


def show(
    examples: Iterable[Shown],
    encoder: ChatMLEncoder,
    *,
    limit: int | None = None,
    as_json: bool = False,
    html: Path | None = None,
    show_ids: bool = False,
) -> int:
    """Write conversations to stdout, in colour or as JSON lines, one as soon as it is read; or to an HTML page.

    A JSON line holds ``source`` (where there is one), ``row`` (from 0), ``input_ids``, ``trained`` (``[start, stop)``
    of labels) and ``text`` (what the ids decode to).

    Args:
        examples: The conversations.
        encoder: Knows the tokens.
        limit: How many; when absent 3, on a page 20, all for JSON.
        as_json: Whether to write JSON lines.
        html: The page to write instead.
        show_ids: Whether to list every token with position and id below the text; JSON and the page have them anyway.

    Returns:
        How many were shown; where there are none, nothing is written.

    Raises:
        InputError: In place of the page lies a file that is none.
    """
    limit = limit if limit is not None or as_json else _DEFAULT_LIMIT if html is None else _DEFAULT_PAGE_LIMIT
    shown = islice(examples, limit)
    first = next(shown, None)
    if first is None:
        return 0
    counted = _Counted(chain([first], shown))
    if html is not None:
        from genesis_sft.tokens.show_html import write_page

        write_page(html, counted, encoder)
    elif as_json:
        _write_json(counted, encoder)
    else:
        _write_text(counted, encoder, show_ids)
    return counted.number


def show_file(
    path: str | Path,
    tokenizer_path: str | Path,
    *,
    limit: int | None = None,
    row: int | None = None,
    as_json: bool = False,
    html: Path | None = None,
    format: str = "auto",
    train_on: Sequence[str] = ("assistant", "end_of_turn"),
    reasoning: str = "keep",
    show_ids: bool = False,
) -> None:
    """Show conversations of a file; see `show`.

    Args:
        path: Conversations: .jsonl, .json, .csv, .parquet, .arrow.
        tokenizer_path: Model folder, or a tokenizer.json. Control tokens that it lacks are added in memory.
        limit: How many conversations.
        row: The row to show, from 0, and no other.
        as_json: Whether to write JSON lines.
        html: The page to write instead.
        format: Format of the rows.
        train_on: What is trained on, as in a recipe.
        reasoning: ``"keep"``, ``"strip"`` or ``"empty"``, as in a recipe.
        show_ids: Whether to list every token with position and id below the text.

    Raises:
        DataError: The file cannot be read, a row before the last one shown is no conversation, or there is no such row.
        ModelError: There is no tokenizer, or it is not safe to use.
        InputError: An option has no such value, or in place of the page lies a file that is none.
    """
    _require("format", format, ("auto", *FORMATS))
    _require("reasoning", reasoning, ("keep", "strip", "empty"))
    if tuple(train_on) not in (("assistant",), ("assistant", "end_of_turn")):
        raise InputError(f"expected train_on assistant or assistant,end_of_turn; found {','.join(train_on)}")
    source = SourceSection(name="file", path=str(path), format=cast(Any, format))
    rules = cast(Sequence[TrainOn], train_on)
    encoder = ChatMLEncoder(load_tokenizer(Path(tokenizer_path)), rules, cast(Any, reasoning))
    conversations: Iterator[Conversation] = read_conversations(source)
    if row is not None:
        conversations = islice((one for one in conversations if one.row == row), 1)
    examples = (Shown(one.row, encoder.encode(one)) for one in conversations)
    number = show(examples, encoder, limit=limit, as_json=as_json, html=html, show_ids=show_ids)
    if not number and row is not None:
        raise DataError(f"expected a conversation in row {row} of {path}, found none", hint="Rows are counted from 0.")
    if not number:
        say(f"no conversations in {path}")


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


class _Counted:
    """Iterates, and knows how far it came."""

    def __init__(self, examples: Iterable[Shown]) -> None:
        self._examples, self.number = examples, 0

    def __iter__(self) -> Iterator[Shown]:
        for one in self._examples:
            self.number += 1
            yield one


def _write_json(examples: Iterable[Shown], encoder: ChatMLEncoder) -> None:
    for one in examples:
        encoded = one.encoded
        line = {
            **({"source": one.source} if one.source else {}),
            "row": one.row,
            "input_ids": encoded.input_ids,
            "trained": encoded.trained,
            "text": encoder.decode(encoded.input_ids, show_special=True),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _write_text(examples: Iterable[Shown], encoder: ChatMLEncoder, show_ids: bool) -> None:
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
    for one in examples:
        console.print(f"\n{one.title}", markup=False)
        console.print(_as_text(one.encoded, encoder, in_colour), end="")
        if show_ids:
            _print_ids(one.encoded, encoder, console)


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
