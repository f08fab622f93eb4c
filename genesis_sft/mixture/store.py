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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from genesis_sft.errors import DataError
from genesis_sft.mixture.index import Index, read_index
from genesis_sft.mixture.ledger import Ledger
from genesis_sft.mixture.select import Mask
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
        found = {store.name: str(store.info.get("key")) for store in stores}
        if wrong := [source.name for source in self.ledger.sources if found.get(source.name) != source.key]:
            raise DataError(
                f"expected the tokens that {path / LEDGER} counts, found others for {', '.join(wrong)}",
                hint="The folder was put together from two preparations: make it anew.",
            )
        by_name = {store.name: store for store in stores}
        names = tuple(source.name for source in self.ledger.sources)
        self.train, self.held_out = (
            TokenTable(_read_index(path / side, names, by_name), by_name) for side in (TRAIN, HELD_OUT)
        )

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
        stores = []
        for name in names:
            try:
                stores.append(SourceStore(path / SOURCES / name, name))
            except (KeyError, TypeError, AttributeError, ValueError, pa.ArrowException) as error:
                raise _damaged(path / SOURCES / name, error) from None
        return cls(path, stores)

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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"expected a ledger that adds up in {path / LEDGER}, found: {error}",
            hint="Move the folder away and prepare the data again.",
        ) from None


def _read_index(path: Path, names: tuple[str, ...], stores: Mapping[str, SourceStore]) -> Index:
    """Read one side of a mixture; every example of it lies within a conversation of its source."""
    try:
        index = read_index(path)
        if index.names != names:
            raise ValueError(f"it is of the sources {', '.join(map(str, index.names))}")
        outside = index.source[~_lies_within(index, [stores[name] for name in names])]
        if len(outside):
            of = ", ".join(names[number] for number in sorted({*outside.tolist()}) if 0 <= number < len(names))
            raise ValueError(f"{len(outside):,} of {len(index):,} examples lie in no conversation of the parts of {of}")
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None
    return index


def _lies_within(index: Index, stores: Sequence[SourceStore]) -> Mask:
    """Return which examples are part of a conversation that is there."""
    sizes = np.array([len(store) for store in stores], np.int64)
    lies = (index.source >= 0) & (index.source < len(stores))
    lies[lies] = (index.position[lies] >= 0) & (index.position[lies] < sizes[index.source[lies]])
    lengths = np.zeros(len(index), np.int64)
    for number, store in enumerate(stores):
        mine = lies & (index.source == number)
        lengths[mine] = store.num_tokens[index.position[mine]]
    lies &= (index.system_stop >= 0) & (index.system_stop <= index.start) & (index.start < index.stop)
    lies &= (index.stop <= lengths) & (index.num_tokens == index.system_stop + index.stop - index.start)
    lies &= (index.num_trained >= 0) & (index.num_trained <= index.num_tokens)
    return lies


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"expected what `data prepare` wrote in {path}, found it damaged: {error or type(error).__name__}",
        hint="Move the folder away and prepare the data again.",
    )
