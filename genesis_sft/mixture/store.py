"""A finished mixture: the sources' tokens, the index over them, and the ledger.

A folder::

    sources/<name>/                every well-formed conversation of a source as ids; see tokens/sources/store.py
    train.arrow  held_out.arrow    which of them, and which part; see mixture/index.py
    ledger.json                    where every row went
    rejects.jsonl                  every row that is no conversation: source, file, row, line, reason and detail
    dropped.jsonl                  {"source", "row", "reason"} of every other row that was left out
    touched.json                   task to the numbers of the benchmark items that some conversation holds
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from genesis_sft.errors import DataError
from genesis_sft.mixture.index import read_index
from genesis_sft.mixture.ledger import Ledger
from genesis_sft.mixture.table import TokenTable

if TYPE_CHECKING:
    from genesis_sft.conversations.conversation import Conversation
    from genesis_sft.tokens.sources.store import SourceStore

__all__ = ["DROPPED", "HELD_OUT", "LEDGER", "REJECTS", "SOURCES", "TOUCHED", "TRAIN", "TokenStore", "TokenTable"]

SOURCES, TRAIN, HELD_OUT = "sources", "train.arrow", "held_out.arrow"
LEDGER, TOUCHED = "ledger.json", "touched.json"
REJECTS, DROPPED = "rejects.jsonl", "dropped.jsonl"


class TokenStore:
    """A finished mixture.

    Args:
        path: Its folder.
        stores: The sources in the recipe's order.

    Attributes:
        path: Its folder.
        stores: As given.
        train: Examples to train on.
        held_out: Examples that are never trained on.
        ledger: Where every row went.

    Raises:
        DataError: The index or the ledger is damaged, or is not of these sources.
    """

    def __init__(self, path: Path, stores: Sequence[SourceStore]) -> None:
        self.path, self.stores = path, tuple(stores)
        self.ledger = _read_ledger(path)
        found = {store.name: str(store.info["key"]) for store in stores}
        if wrong := [source.name for source in self.ledger.sources if found.get(source.name) != source.key]:
            raise DataError(
                f"expected the tokens that {path / LEDGER} counts, found others for {', '.join(wrong)}",
                hint="The folder was put together from two preparations: make it anew.",
            )
        by_name = {store.name: store for store in stores}
        try:
            self.train = TokenTable(read_index(path / TRAIN), by_name)
            self.held_out = TokenTable(read_index(path / HELD_OUT), by_name)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DataError(f"expected the index of a mixture in {path}, found a damaged one: {error}") from None

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """Open a mixture that `build_mixture` wrote into a folder with its sources.

        Raises:
            DataError: A file is missing or damaged.
        """
        path = Path(folder)
        if missing := [name for name in (TRAIN, HELD_OUT, LEDGER) if not (path / name).is_file()]:
            raise DataError(
                f"expected a mixture of tokens in {path}, found no {', '.join(missing)}",
                hint="`genesis-sft data prepare RECIPE` writes one; so does the data stage of a run, into RUN/data.",
            )
        from genesis_sft.tokens.sources.store import SourceStore

        names = [source.name for source in _read_ledger(path).sources]
        return cls(path, [SourceStore(path / SOURCES / name, name) for name in names])

    def summary(self) -> str:
        """Return the mixture in one line."""
        total = self.ledger.total
        tokens, trained = total("tokens"), total("trained_tokens")
        parts = [f"{len(self.train):,} examples, {tokens:,} tokens, {trained:,} trained ({trained / tokens:.1%})"]
        parts += [f"{total('over_length'):,} too long"] if total("over_length") else []
        parts += [f"{total('cut'):,} cut"] if total("cut") else []
        parts += [f"{total('split'):,} split"] if total("split") else []
        parts += [f"{total('contaminated'):,} contaminated"] if total("contaminated") else []
        parts += [f"{total('held_out'):,} held out", f"of {total('rows_read'):,} rows"]
        return "; ".join([*parts[:-2], ", ".join(parts[-2:])])

    def samples(self) -> Iterator[Conversation]:
        """Yield some conversations of each source as text, taken or not."""
        for store in self.stores:
            yield from store.samples()


def _read_ledger(path: Path) -> Ledger:
    try:
        return Ledger.from_dict(json.loads((path / LEDGER).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"expected a ledger that adds up in {path / LEDGER}, found: {error}") from None
