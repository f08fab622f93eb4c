"""The job store under bad conditions: a full disk, odd answers, damaged rows, a copy without its log."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.cli import synthesize
from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.asking.request import Answer, Usage
from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.store import room
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.replay import replay, survey
from tests.synthesis.command import write_recipe
from tests.synthesis.test_store import ROOT, put
from tests.synthesis.writing import TinyChain, TinyProvider, answer, request, scenario


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "requests.sqlite"


def test_nothing_is_sent_or_reserved_where_the_disk_is_nearly_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=10_000) as store:
            first = await store.reserve(request(0), 1000)
            monkeypatch.setattr(room, "FREE_BYTES", 2**62)  # more than any disk has
            provider = TinyProvider()
            with pytest.raises(RunDirError, match=r"MB are free, and .* MB are needed"):
                await provider.ask(request(await store.reserve(request(1), 1000)))
            assert provider.asked == []
            with pytest.raises(RunDirError, match="nearly full"):
                await store.intend_batch([request(2)], [500], "{}")
            assert store.ledger.reserved == 1000
            await store.answered(first, answer(), 30)  # what is paid for is still taken in

    asyncio.run(run())
    with JobStore.read(path) as store:
        totals = store.totals()
    assert (totals.requests, totals.answered, totals.spent) == (1, 1, 30)


@pytest.mark.parametrize("missing", [0, 1])
def test_room_for_the_answers_themselves_is_wanted_too(
    path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Two answers of 50 tokens, of eight bytes each."""
    found = os.statvfs("/")
    free = room.FREE_BYTES + 2 * 50 * 8 - missing
    values = [*found[:1], 1, found.f_blocks, free, free, *found[5:]]  # bytes: blocks of one

    async def run() -> None:
        with JobStore.open(path, budget=None) as store:
            monkeypatch.setattr(room.os, "statvfs", lambda _: os.statvfs_result(values))
            await store.intend_batch([request(0), request(1)], [500, 500], "{}")

    if missing:
        with pytest.raises(RunDirError, match="nearly full"):
            asyncio.run(run())
    else:
        asyncio.run(run())


def test_the_disk_is_not_looked_at_for_every_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = room.os.statvfs

    def counted(where: Path) -> Any:
        nonlocal looks
        looks += 1
        return look(where)

    async def run() -> float:
        with JobStore.open(path, budget=None) as store:
            monkeypatch.setattr(room.os, "statvfs", counted)
            began = time.monotonic()
            await asyncio.gather(*(store.reserve(request(n), 1) for n in range(300)))
            return time.monotonic() - began

    seconds = asyncio.run(run())
    assert 1 <= looks <= 1 + seconds


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "raw", [nested(100_000), {"number": 10**5000}, {"set": {1}}], ids=["deep", "long number", "no JSON"]
)
def test_a_response_that_cannot_be_written_is_left_out_and_its_answer_counts(path: Path, raw: dict[str, Any]) -> None:
    put(path, (request(), Answer("Text.", "end", Usage(1, 2, 3, 4), "m", raw=raw)))
    with JobStore.open(path, budget=None) as store:
        assert store.by_key(0)[request().key].answer.text == "Text."
        assert "cannot be written" in store.raw(request().key)["left out"]
        assert store.ledger.spent == 30
        assert store.ledger.maybe_spent == 0


def test_an_answer_larger_than_the_file_takes_is_never_asked_again(path: Path) -> None:
    async def run() -> Answer:
        with JobStore.open(path, budget=None) as store:
            await store._commits.change(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000))
            return await store.answered(await store.reserve(request(), 1000), answer("long " * 2000), 30)

    worked_with = asyncio.run(run())
    with JobStore.read(path) as store:
        stored = store.by_key(0)[request().key].answer
        assert (stored.text, stored.stop) == (worked_with.text, worked_with.stop) == ("", "other")
        assert store.raw(request().key) == {"left out": "the answer is too large"}
        assert store.totals().spent == 30


def test_absurd_numbers_of_tokens_and_dollars_do_not_stop_the_sums(path: Path) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=10_000) as store:
            for number in range(3):
                attempt = await store.reserve(request(number), 1000)
                await store.answered(attempt, answer(usage=Usage(2**62, 2**70, -5, 2**200)), 2**80)
            assert store.ledger.spent == 3000  # what was reserved, in the place of what cannot be

    asyncio.run(run())
    with JobStore.open(path, budget=10_000) as store:
        totals = store.totals()
        assert (totals.spent, totals.maybe_spent, totals.answered) == (3000, 0, 3)
        assert totals.usage == Usage(3 * 10**12, 3 * 10**12, 0, 3 * 10**12)
        assert store.by_step()["question"].cost == 3000


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE answers SET text = x'ff'",
        "UPDATE answers SET reasoning = x'ff'",
        "UPDATE answers SET text = CAST(x'ff' AS TEXT)",
        "UPDATE requests SET body = '{'",
        "UPDATE requests SET body = '[]'",
        "UPDATE requests SET body = '{}'",
        "UPDATE attempts SET input = 'many'",
        "DROP TABLE answers",
    ],
)
def test_damaged_rows_are_an_error_for_users(path: Path, damage: str) -> None:
    asked = TinyChain().next(scenario(0), {})
    put(path, (asked, answer()), (request(1), answer()))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(damage)
    connection.commit()
    connection.close()
    with JobStore.read(path) as store, pytest.raises(RunDirError, match=str(path)):
        replay(TinyChain(), scenario(0), store)  # type: ignore[arg-type]
    with JobStore.read(path) as store, pytest.raises(RunDirError, match=str(path)):
        survey(TinyChain(), (scenario(0),), store)  # type: ignore[arg-type]


def test_a_request_that_is_under_way_makes_its_conversation_under_way(path: Path) -> None:
    chain, plan = TinyChain(), tuple(scenario(number) for number in range(3))
    first = chain.next(plan[0], {})

    async def run() -> None:
        with JobStore.open(path, budget=None) as store:
            attempt = await store.reserve(first, 1000)  # type: ignore[arg-type]
            await store.reserve(request(1, text="of other prompts"), 1000)
            found = survey(chain, plan, store)  # type: ignore[arg-type]
            assert (found.begun, found.open) == (1, plan)
            await store.refused(attempt, "no")
            assert survey(chain, plan, store).begun == 0  # type: ignore[arg-type]

    asyncio.run(run())


def test_what_could_not_be_recorded_is_not_reserved(path: Path) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=10_000) as store:
            await store.reserve(request(0), 1000)
            pages = await store._commits.change(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await store._commits.change(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())
            with pytest.raises(RunDirError, match="full"):
                await store.reserve(request(1, text="long " * 10_000), 3000)
            with pytest.raises(RunDirError, match="full"):
                await store.intend_batch([request(2), request(3)], [500, 500], "{}")
            assert (store.ledger.reserved, store.ledger.left) == (1000, 9000)

    asyncio.run(run())


def test_a_cancelled_reservation_stands_as_it_may_have_been_recorded(path: Path) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=10_000) as store:
            reserving = asyncio.create_task(store.reserve(request(0), 1000))
            await asyncio.sleep(0)
            reserving.cancel()
            await asyncio.gather(reserving, return_exceptions=True)
            assert store.ledger.reserved == 1000

    asyncio.run(run())
    with JobStore.open(path, budget=10_000) as store:
        assert (store.ledger.maybe_spent, store.ledger.reserved) == (1000, 0)


@pytest.mark.parametrize(("end", "maybe_spent"), [("dropped", 0), ("lost", 900)])
def test_a_batch_that_is_given_up_is_closed_with_what_it_may_have_cost(path: Path, end: str, maybe_spent: int) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=10_000) as store:
            batch = await store.intend_batch([request(0), request(1)], [500, 400], "{}")
            if end == "lost":
                assert await store.batch_lost(batch.id, "nobody knows it") == 900
            else:
                await store.batch_dropped(batch.id)
            assert (store.ledger.spent, store.ledger.maybe_spent, store.ledger.reserved) == (0, maybe_spent, 0)

    asyncio.run(run())
    with JobStore.open(path, budget=10_000) as store:
        assert store.open_batches() == []
        totals = store.totals()
        assert (totals.spent, totals.maybe_spent, totals.reserved, totals.under_way) == (0, maybe_spent, 0, 0)


def test_a_project_is_read_as_it_was_at_one_moment(tmp_path: Path) -> None:
    project = Project.open(openai_recipe_without_server(tmp_path))
    put(project.store_path, (request(1), answer()))
    with project.reading() as store:
        assert store is not None
        put(project.store_path, (request(2), answer()))
        assert store.scenarios() == [1]
    with project.reading() as store:
        assert store is not None
        assert store.scenarios() == [1, 2]


def test_one_lock_for_all_links_to_a_store(path: Path) -> None:
    put(path)
    other = path.parent.parent / "other"
    other.mkdir()
    (other / "requests.sqlite").symlink_to(path)
    folder = path.parent.parent / "folder"
    folder.symlink_to(path.parent)
    with JobStore.open(path, budget=None):
        for link in (other, folder):
            with pytest.raises(RunDirError, match="writes to"), JobStore.open(link / "requests.sqlite", budget=None):
                pass


def test_an_interruption_while_the_files_are_written_says_where_the_answers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    recipe = openai_recipe_without_server(tmp_path)
    monkeypatch.setattr("genesis_sft.synthesis.writing.run.write_project", lambda *_: None)
    monkeypatch.setattr(synthesize, "_export", interrupted)
    with pytest.raises(KeyboardInterrupt):  # exit status 130
        synthesize.synthesize_command(recipe)
    told = capsys.readouterr().err
    assert "every answer is kept" in told
    assert f"genesis-sft synthesize export {recipe}" in told


def openai_recipe_without_server(folder: Path) -> Path:
    provider = {"api": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    return write_recipe(folder, conversations=2, provider=provider)


WRITE_AND_BE_KILLED = """
import asyncio, os, signal, sys, time
from pathlib import Path
from genesis_sft.synthesis.store.job_store import JobStore
from tests.synthesis.writing import answer, request
async def main():
    with JobStore.open(Path(sys.argv[1]), budget=None) as store:
        for number in range(20):
            await store.answered(await store.reserve(request(number), 1000), answer(), 40)
        print("written", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


def test_answers_reach_the_database_itself_while_its_writer_waits(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_BE_KILLED, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"written\n"
        until = time.monotonic() + 30
        while (found := answers_of_a_copy(path)) < 20 and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert found == 20
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 0
    with JobStore.open(path, budget=None):  # empties the log that the kill left
        assert log.stat().st_size == 0


def test_a_store_that_was_closed_while_somebody_read_is_whole_without_its_log(path: Path) -> None:
    put(path)
    with JobStore.read(path):
        put(path, *((request(number), answer()) for number in range(5)))
        assert answers_of_a_copy(path) == 5


def answers_of_a_copy(path: Path) -> int:
    copy = path.with_name("copy.sqlite")
    shutil.copyfile(path, copy)
    connection = sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.DatabaseError:  # copied while it was written
        return 0
    finally:
        connection.close()


LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
connection.close()
"""


def test_another_program_that_looks_into_the_store_does_not_take_its_log_away(tmp_path: Path) -> None:
    """Who closes a database last removes its write-ahead log; that the writer is still there is seen by its locks."""
    path = tmp_path / "requests.sqlite"

    def answers_seen_by_another_program() -> int:
        command = [sys.executable, "-c", LOOK, str(path)]
        return int(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    async def answer_and_look() -> list[int]:
        seen = []
        with JobStore.open(path, budget=None) as store:
            for number in range(3):
                await store.answered(await store.reserve(request(number), 1000), answer(), 30)
                seen.append(answers_seen_by_another_program())
        return seen

    assert asyncio.run(answer_and_look()) == [1, 2, 3]
