"""Looking into a job store: what is in it, also while another process writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genesis_sft.synthesis.asking.request import Step
from genesis_sft.synthesis.store.records import (
    BY_STEP,
    STORED,
    TOTALS,
    OpenBatch,
    StepTotals,
    Stored,
    Totals,
    read_step_totals,
    read_stored,
    read_usage,
    unpack,
)
from genesis_sft.synthesis.store.schema import store_error


class ReadStore:
    """What can be asked of a job store, also while another process writes to it.

    Args:
        path: The file.
        connection: That reads it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._reader = path, connection
        self._shared_texts: dict[int, str] = {}

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Show the store as it is now within the ``with`` block, whatever another process writes meanwhile."""
        self._rows("BEGIN")
        try:
            self._rows("SELECT count(*) FROM batches")  # SQLite takes its picture at the first look, not before
            yield
        finally:
            self._rows("ROLLBACK")

    def by_key(self, scenario: int) -> dict[str, Stored]:
        """Return all answers of a scenario by the key of their request.

        Some may be out of use, where the prompts or the model changed since: `replay` takes those that are not.
        """
        rows = self._rows(STORED + "WHERE requests.scenario = ? ORDER BY answers.attempt", (scenario,))
        try:
            return {row["key"]: read_stored(row, self._shared(row["shared"])) for row in rows}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise store_error(self.path, ValueError(f"malformed row of scenario {scenario}: {error}")) from None

    def unanswerable(self, scenario: int) -> dict[str, str]:
        """Return key to reason of those requests of a scenario that the provider cannot answer."""
        rows = self._rows(
            "SELECT key, detail FROM requests JOIN attempts ON attempts.request = requests.id "
            "WHERE scenario = ? AND state = 'unanswerable' AND outcome = 'unanswerable'",
            (scenario,),
        )
        return {row["key"]: row["detail"] for row in rows}

    def under_way(self) -> set[str]:
        """Return the keys of the requests that are under way."""
        sql = "SELECT key FROM attempts JOIN requests ON requests.id = attempts.request WHERE outcome IS NULL"
        return {row["key"] for row in self._rows(sql)}

    def scenarios(self) -> list[int]:
        """Return the numbers of all scenarios of which something was ever asked, in order."""
        return [row[0] for row in self._rows("SELECT DISTINCT scenario FROM requests ORDER BY scenario")]

    def answers_by_scenario(self) -> list[tuple[int, int]]:
        """Return the number of each scenario with that of its answers, those out of use included."""
        sql = "SELECT scenario, count(*) FROM requests WHERE state = 'answered' GROUP BY scenario ORDER BY scenario"
        return [(row[0], row[1]) for row in self._rows(sql)]

    def raw(self, key: str) -> dict[str, Any]:
        """Return the provider's response to a request, as it came.

        Raises:
            KeyError: There is none.
        """
        sql = "SELECT raw FROM answers JOIN requests ON requests.id = answers.request WHERE key = ?"
        for row in self._rows(sql, (key,)):
            return unpack(row["raw"])
        raise KeyError(key)

    def totals(self) -> Totals:
        """Return sums over everything."""
        (row,) = self._rows(TOTALS)
        faults = self._rows(
            "SELECT outcome, count(*) FROM attempts WHERE outcome NOT IN ('answered', 'unanswerable') "
            "GROUP BY outcome ORDER BY outcome"
        )
        return Totals(
            requests=row["requests"],
            answered=row["answered"],
            unanswerable=row["unanswerable"],
            attempts=row["attempts"],
            faults={fault[0]: fault[1] for fault in faults},
            usage=read_usage(row),
            spent=row["spent"],
            maybe_spent=row["maybe_spent"],
            reserved=row["reserved"],
            under_way=row["under_way"],
        )

    def by_step(self) -> dict[Step, StepTotals]:
        """Return sums over the answers to each step that has some."""
        return dict(read_step_totals(row) for row in self._rows(BY_STEP))

    def open_batches(self) -> list[OpenBatch]:
        """Return the batches whose results are not collected, oldest first."""
        sql = (
            "SELECT id, server_id, created_at, count, price FROM batches "
            "WHERE state IN ('intended', 'created') ORDER BY id"
        )
        return [OpenBatch(**row) for row in self._rows(sql)]

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> ReadStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self, number: int | None) -> str:
        if number is None:
            return ""
        if number not in self._shared_texts:
            (row,) = self._rows("SELECT text FROM shared_texts WHERE id = ?", (number,))
            self._shared_texts[number] = row["text"]
        return self._shared_texts[number]

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        try:  # all at once: what is wrong with the file is found here, not where the rows are used
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise store_error(self.path, error) from None
