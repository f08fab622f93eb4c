"""The tables of the job store: what a ``requests.sqlite`` holds, and how one is told from any other file.

::

    shared_texts     beginnings of system prompts, once each
    requests         one row a key: what is asked; state: open, answered, unanswerable
    attempts         one row each time it was sent: what was reserved, how it ended, usage and cost. Never changed again
                     after it ended. Money is in nano-dollars (1e-9 US dollars). outcome: answered, unanswerable, a kind
                     of Fault, lost (the process was killed), refused (the provider takes no requests of ours), not sent
    answers          one row an answered request
    batches          one row a Message Batch: written before it is sent, with the prices of then as JSON; its id at the
                     provider after. state: intended, created, collected, dropped (it was not taken), lost (nobody has
                     its answers)

Look into it with ``sqlite3 requests.sqlite``, e.g. ``SELECT outcome, count(*) FROM attempts GROUP BY 1``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import replacing, sync_folder

VERSION = 1
"""Raised when tables change; a file of another version is refused."""

_APPLICATION_ID = 0x67736674  # "gsft": at byte 68 of the file, where `file` and we look for it
_HEADER_BYTES = 100
_BUSY_SECONDS = 30.0

_TABLES = """
CREATE TABLE shared_texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    scenario INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    step TEXT NOT NULL,
    shared INTEGER REFERENCES shared_texts,
    body TEXT NOT NULL,
    num_bytes INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'answered', 'unanswerable'))
);
CREATE INDEX requests_of_scenario ON requests (scenario);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY,
    created_at TEXT NOT NULL,
    count INTEGER NOT NULL,
    price TEXT NOT NULL,
    server_id TEXT UNIQUE,
    state TEXT NOT NULL DEFAULT 'intended'
        CHECK (state IN ('intended', 'created', 'collected', 'dropped', 'lost'))
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    request INTEGER NOT NULL REFERENCES requests,
    number INTEGER NOT NULL,
    batch INTEGER REFERENCES batches,
    sent_at TEXT NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    outcome TEXT,
    detail TEXT,
    cost INTEGER NOT NULL DEFAULT 0,
    maybe_cost INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0,
    cache_write INTEGER NOT NULL DEFAULT 0,
    cache_read INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0,
    finished_at TEXT
);
CREATE INDEX attempts_of_request ON attempts (request);
CREATE INDEX attempts_under_way ON attempts (batch) WHERE outcome IS NULL;
CREATE TABLE answers (
    request INTEGER PRIMARY KEY REFERENCES requests,
    attempt INTEGER NOT NULL REFERENCES attempts,
    text TEXT NOT NULL,
    reasoning TEXT,
    stop TEXT NOT NULL,
    model TEXT NOT NULL,
    raw BLOB NOT NULL
);
"""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open a job store, made where there is none; the caller holds its lock.

    Every commit is on the disk when it returns (WAL with ``synchronous=FULL``).

    Raises:
        RunDirError: Another file lies there (it is left alone), or it cannot be written.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            _create(path)
        require_ours(path)
        connection = _connect(path.absolute().as_uri() + "?mode=rw")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA wal_autocheckpoint=4000")  # besides those of the thread that writes
        truncate_log(connection)
    except (sqlite3.Error, OSError) as error:
        raise store_error(path, error) from None
    return connection


def truncate_log(connection: sqlite3.Connection) -> None:
    """Write what is in the write-ahead log into the database itself, as far as readers let it, without waiting."""
    with suppress(sqlite3.Error):  # what is in the log is safe there
        connection.execute("PRAGMA busy_timeout=0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.execute(f"PRAGMA busy_timeout={round(1000 * _BUSY_SECONDS)}")


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a job store that another process may be writing to.

    Raises:
        RunDirError: There is none, or another file lies there.
    """
    if not path.exists():
        raise RunDirError(f"expected the requests of a synthesis at {path}, found no such file")
    try:
        require_ours(path)
    except OSError as error:
        raise store_error(path, error) from None
    return reading_connection(path)


def reading_connection(path: Path) -> sqlite3.Connection:
    """Connect to a job store to read it; the file itself is not opened and closed as `require_ours` does.

    In a process that is connected to the database already, closing any other handle of the file would end SQLite's
    locks on it (POSIX locks belong to the process): another program could then take itself for the last one and remove
    the write-ahead log under us (sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        RunDirError: It cannot be read.
    """
    try:
        connection = _connect(path.absolute().as_uri() + "?mode=ro")
        connection.execute("SELECT count(*) FROM batches").fetchone()
    except (sqlite3.Error, OSError) as error:
        raise store_error(path, error) from None
    return connection


def require_ours(path: Path) -> None:
    """Refuse a file that is no job store of this version, by its header; nothing is written, nothing opened by SQLite.

    Raises:
        RunDirError: It is another file.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    ours = len(header) == _HEADER_BYTES and header.startswith(b"SQLite format 3\0")
    if not ours or int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
        raise RunDirError(
            f"expected no file {path}, or one that genesis-sft synthesize wrote; found another",
            hint="Name another folder as synthesis.out.",
        )
    if (found := int.from_bytes(header[60:64], "big")) != VERSION:
        raise RunDirError(
            f"expected requests of version {VERSION} in {path}, found version {found}",
            hint="Go on with the version of genesis-sft that wrote it, or name another folder as synthesis.out.",
        )


def store_error(path: Path, error: Exception) -> RunDirError:
    """Say in words for a user what SQLite or the system found wrong with the file."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    kept = "What was committed before is kept, and the same command goes on from there."
    if "full" in text or "No space" in text:
        return RunDirError(f"the disk of {path} is full", hint=f"Make room. {kept}")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return RunDirError(
            f"{path} is damaged: {text}",
            hint=f"Go back to a copy of it, or save what can be read with: sqlite3 {path} .recover",
        )
    return RunDirError(f"expected to read and write {path}: {text}", hint=f"Is the disk writable? {kept}")


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False, cached_statements=64
    )
    connection.row_factory = sqlite3.Row
    return connection


def _create(path: Path) -> None:
    """Build an empty store under another name first, so that no kill leaves a file that is half ours."""
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.executescript("BEGIN;" + _TABLES + "COMMIT;")
        finally:
            connection.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(path.parent)
