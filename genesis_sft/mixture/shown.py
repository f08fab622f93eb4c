"""Examples of a finished mixture for `genesis_sft.tokens.show`, from their stored ids."""

from __future__ import annotations

from collections.abc import Iterator

from genesis_sft.errors import DataError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.tokens.chatml import Encoded
from genesis_sft.tokens.show import Shown


def examples(store: TokenStore, *, source: str | None = None, row: int | None = None) -> Iterator[Shown]:
    """Yield the examples to train on, in the order of the index.

    Args:
        store: The mixture.
        source: Only those of this source.
        row: Only those of this row of their source; several where it was split or is repeated.

    Raises:
        DataError: There is no such source, or no such example.
    """
    names = [one.name for one in store.ledger.sources]
    if source is not None and source not in names:
        raise DataError(f"expected one of the sources {', '.join(names)}; found {source!r}")
    table, found = store.train, False
    for index in range(len(table)):
        if (source is None or table.source(index) == source) and row in (None, table.row(index)):
            found = True
            encoded = Encoded(table.input_ids(index).tolist(), table.trained(index))
            yield Shown(table.row(index), encoded, table.source(index))
    if not found:
        what = " of ".join(filter(None, (f"row {row}" if row is not None else "", source or "any source")))
        raise DataError(
            f"expected an example of {what} in {store.path}, found none to train on",
            hint="dropped.jsonl names the rows that were left out; others were not taken, or held out.",
        )
