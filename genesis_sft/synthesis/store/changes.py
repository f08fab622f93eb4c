"""The changes that are made to a job store, each within a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

from genesis_sft.synthesis.asking.request import Answer, Request
from genesis_sft.synthesis.store.records import LEFT_OUT, pack, request_body, without_content


def record_attempt(requests: Sequence[Request], most: Sequence[int], connection: sqlite3.Connection) -> list[int]:
    """Record requests that are about to be sent one by one; returns their attempts."""
    return [_record(one, cost, None, connection) for one, cost in zip(requests, most, strict=True)]


def record_batch(
    price: str, requests: Sequence[Request], most: Sequence[int], connection: sqlite3.Connection
) -> list[int]:
    """Record a batch that is about to be sent, with its prices and requests; returns their attempts."""
    sql = "INSERT INTO batches (created_at, count, price) VALUES (?, ?, ?)"
    batch = connection.execute(sql, (_now(), len(requests), price)).lastrowid
    return [_record(one, cost, batch, connection) for one, cost in zip(requests, most, strict=True)]


def end_answered(attempt: int, answer: Answer, raw: bytes, cost: int, connection: sqlite3.Connection) -> Answer:
    """Record an answer, the first one to a request as the one that counts; returns what was kept of it."""
    usage = answer.usage
    connection.execute(
        "UPDATE attempts SET outcome = 'answered', cost = ?, input = ?, cache_write = ?, cache_read = ?, output = ?, "
        "finished_at = ? WHERE id = ? AND outcome IS NULL",
        (cost, usage.input, usage.cache_write, usage.cache_read, usage.output, _now(), attempt),
    )
    try:
        _insert_answer(attempt, answer, raw, connection)
    except (sqlite3.DataError, OverflowError):  # larger than SQLite takes
        answer = without_content(answer)
        _insert_answer(attempt, answer, pack({LEFT_OUT: "the answer is too large"}), connection)
    _set_state(attempt, "answered", connection)
    return answer


def end_attempt(attempt: int, outcome: str, detail: str, maybe_cost: int, connection: sqlite3.Connection) -> None:
    """Record how an attempt ended without an answer."""
    connection.execute(
        "UPDATE attempts SET outcome = ?, detail = ?, maybe_cost = ?, finished_at = ? WHERE id = ? AND outcome IS NULL",
        (outcome, detail.encode(errors="replace").decode(), maybe_cost, _now(), attempt),
    )
    if outcome == "unanswerable":
        _set_state(attempt, "unanswerable", connection)


def end_lost(connection: sqlite3.Connection) -> None:
    """End the attempts that a killed process left open as perhaps paid for; a batch's can still be asked for."""
    connection.execute(
        "UPDATE attempts SET outcome = 'lost', detail = 'the process ended', maybe_cost = reserved, finished_at = ? "
        "WHERE outcome IS NULL AND batch IS NULL",
        (_now(),),
    )


def reservations(connection: sqlite3.Connection) -> dict[int, int]:
    """Return attempt to reservation of those under way."""
    rows = connection.execute("SELECT id, reserved FROM attempts WHERE outcome IS NULL")
    return {row["id"]: row["reserved"] for row in rows}


def name_batch(batch: int, server_id: str, connection: sqlite3.Connection) -> None:
    """Record that the provider has a batch, and under what name."""
    connection.execute("UPDATE batches SET server_id = ?, state = 'created' WHERE id = ?", (server_id, batch))


def set_batch_state(batch: int, state: str, connection: sqlite3.Connection) -> None:
    """Record what became of a batch."""
    connection.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch))


def _record(request: Request, most: int, batch: int | None, connection: sqlite3.Connection) -> int:
    key = request.key
    found = connection.execute("SELECT id FROM requests WHERE key = ?", (key,)).fetchone()
    row = _insert_request(request, key, connection) if found is None else found["id"]
    attempt = connection.execute(
        "INSERT INTO attempts (request, number, batch, sent_at, reserved) "
        "SELECT ?, 1 + count(*), ?, ?, ? FROM attempts WHERE request = ?",
        (row, batch, _now(), most, row),
    ).lastrowid
    assert attempt is not None
    return attempt


def _insert_request(request: Request, key: str, connection: sqlite3.Connection) -> int | None:
    return connection.execute(
        "INSERT INTO requests (key, scenario, turn, step, shared, body, num_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            request.scenario,
            request.turn,
            request.step,
            _shared_text(request.shared, connection),
            request_body(request),
            request.num_bytes,
        ),
    ).lastrowid


def _shared_text(text: str, connection: sqlite3.Connection) -> int | None:
    """Return the number of a text that many requests begin with: it is kept once."""
    if not text:
        return None
    found = connection.execute("SELECT id FROM shared_texts WHERE text = ?", (text,)).fetchone()
    if found is not None:
        return int(found["id"])
    return connection.execute("INSERT INTO shared_texts (text) VALUES (?)", (text,)).lastrowid


def _insert_answer(attempt: int, answer: Answer, raw: bytes, connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO answers (request, attempt, text, reasoning, stop, model, raw) "
        "SELECT request, id, ?, ?, ?, ?, ? FROM attempts WHERE id = ? ON CONFLICT (request) DO NOTHING",
        (answer.text, answer.reasoning, answer.stop, answer.model, raw, attempt),
    )


def _set_state(attempt: int, state: str, connection: sqlite3.Connection) -> None:
    sql = "UPDATE requests SET state = ? WHERE id = (SELECT request FROM attempts WHERE id = ?)"
    connection.execute(sql, (state, attempt))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
