"""The job store: what is committed survives, what is answered counts once, and other people's files are left alone."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.asking.request import Answer, Fault, Step, Usage
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.records import pack, unpack
from genesis_sft.synthesis.store.replay import replay, survey
from tests.synthesis.writing import SHARED, TinyChain, answer, request, scenario

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "requests.sqlite"


def put(path: Path, *asked: tuple[object, object]) -> None:
    async def write() -> None:
        with JobStore.open(path, budget=None) as store:
            for one, outcome in asked:
                attempt = await store.reserve(one, 1000)  # type: ignore[arg-type]
                if isinstance(outcome, Answer):
                    await store.answered(attempt, outcome, 30)
                elif isinstance(outcome, Fault):
                    await store.failed(attempt, outcome)

    asyncio.run(write())


def test_an_answer_comes_back_as_it_was_given(path: Path) -> None:
    given_answer = Answer("Tëxt 😀", "max_tokens", Usage(1, 2, 3, 4), "model-x", "thoughts", {"id": "r1", "n": [1.5]})
    asked = request(7, 2, "revision", "Why?", temperature=0.5)
    put(path, (asked, given_answer))
    with JobStore.read(path) as store:
        (stored,) = store.by_key(7).values()
        assert stored.request == asked
        assert stored.key == asked.key
        assert stored.cost == 30
        assert (stored.answer.text, stored.answer.reasoning) == ("Tëxt 😀", "thoughts")
        assert (stored.answer.stop, stored.answer.usage, stored.answer.model) == (
            "max_tokens",
            Usage(1, 2, 3, 4),
            "model-x",
        )
        assert store.raw(asked.key) == {"id": "r1", "n": [1.5]}
        assert store.by_key(8) == {}


def test_a_request_is_on_the_disk_before_reserve_returns_and_an_answer_before_answered_does(path: Path) -> None:
    async def look() -> None:
        with JobStore.open(path, budget=None) as store:
            attempt = await store.reserve(request(), 700)
            other = sqlite3.connect(path)  # as another process sees the file
            assert other.execute("SELECT reserved, outcome FROM attempts").fetchall() == [(700, None)]
            await store.answered(attempt, answer(), 30)
            assert other.execute("SELECT outcome, cost FROM attempts").fetchall() == [("answered", 30)]
            assert other.execute("SELECT count(*) FROM answers").fetchone() == (1,)
            other.close()

    asyncio.run(look())


def test_scenarios_are_listed_in_order_whatever_came_first(path: Path) -> None:
    steps: tuple[Step, ...] = ("draft", "question", "question", "question")
    put(path, *((request(n, 0, step), answer()) for n, step in zip((5, 1, 5, 3), steps, strict=True)))
    with JobStore.read(path) as store:
        assert store.scenarios() == [1, 3, 5]
        assert store.answers_by_scenario() == [(1, 1), (3, 1), (5, 2)]


def test_what_a_killed_process_left_open_counts_as_perhaps_paid_for(path: Path) -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from genesis_sft.synthesis.store.job_store import JobStore\n"
        "from tests.synthesis.writing import answer, request\n"
        "async def main():\n"
        "    with JobStore.open(Path(sys.argv[1]), budget=10_000) as store:\n"
        "        await store.answered(await store.reserve(request(0), 1000), answer(), 40)\n"
        "        await store.reserve(request(1), 1000)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    with JobStore.open(path, budget=10_000) as store:
        assert (store.ledger.spent, store.ledger.maybe_spent, store.ledger.reserved) == (40, 1000, 0)
        totals = store.totals()
        assert (totals.answered, totals.attempts, dict(totals.faults)) == (1, 2, {"lost": 1})
        assert store.by_key(0)[request(0).key].answer.text == "An answer."
        assert store.by_key(1) == {}


def test_faults_are_counted_by_kind_and_money_by_what_is_known(path: Path) -> None:
    put(
        path,
        (request(0), Fault("rate limit", "slow down")),
        (request(0), Fault("cut off", "half an answer", maybe_paid=True)),
        (request(0), answer()),
        (request(1), Fault("rate limit", "slow down")),
    )
    with JobStore.read(path) as store:
        totals = store.totals()
    assert dict(totals.faults) == {"cut off": 1, "rate limit": 2}
    assert (totals.requests, totals.answered, totals.attempts) == (2, 1, 4)
    assert (totals.spent, totals.maybe_spent, totals.reserved) == (30, 1000, 0)
    assert totals.usage == Usage(10, 0, 90, 20)


def test_averages_by_step(path: Path) -> None:
    put(
        path,
        (request(0), answer("ab")),
        (request(1), answer("äb", reasoning="xyz")),
        (request(0, 0, "draft"), answer("a")),
    )
    with JobStore.read(path) as store:
        steps = store.by_step()
    assert steps["question"].answers == 2
    assert steps["question"].answer_bytes == 2 + 3 + 3
    assert steps["question"].request_bytes == request(0).num_bytes + request(1).num_bytes
    assert steps["question"].usage == Usage(20, 0, 180, 40)
    assert (steps["draft"].answers, steps["draft"].cost) == (1, 30)


def test_a_second_process_is_told_who_writes(path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom genesis_sft.synthesis.store.job_store import JobStore\n"
        "with JobStore.open(Path(sys.argv[1]), budget=None):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunDirError, match=f"process {process.pid}"), JobStore.open(path, budget=None):
            pass
        with JobStore.read(path) as store:  # readers are welcome
            assert store.totals().requests == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    with JobStore.open(path, budget=None) as store:  # the kernel has let go
        assert store.totals().requests == 0


def test_a_second_writer_is_refused_when_the_lock_was_removed(path: Path) -> None:
    """And the first goes on: SQLite is not disturbed by what holds the second back."""

    async def ask(store: JobStore, number: int) -> None:
        await store.answered(await store.reserve(request(number), 100), answer(), 30)

    with JobStore.open(path, budget=None) as store:
        asyncio.run(ask(store, 0))
        path.with_name("requests.sqlite.lock").unlink()
        with pytest.raises(RunDirError, match=r"another genesis-sft .* writes to"), JobStore.open(path, budget=None):
            pass
        asyncio.run(ask(store, 1))
    with JobStore.open(path, budget=None) as store:
        assert store.totals().spent == 60


@pytest.mark.parametrize("content", [b"somebody's notes\n", b"SQLite format 3\0" + bytes(200), b"x"])
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for open_ in (lambda: JobStore.open(path, budget=None).__enter__(), lambda: JobStore.read(path)):
        with pytest.raises(RunDirError, match="found another"):
            open_()
    assert path.read_bytes() == content


def test_another_version_is_refused_and_left_alone(path: Path) -> None:
    put(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA user_version=9")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RunDirError, match="version 9"), JobStore.open(path, budget=None):
        pass
    assert path.read_bytes() == before


def test_a_store_that_was_closed_is_one_file(path: Path) -> None:
    put(path, *((request(n), answer()) for n in range(10)))
    assert sorted(found.name for found in path.parent.iterdir()) == ["requests.sqlite", "requests.sqlite.lock"]


def test_a_missing_store_cannot_be_read(path: Path) -> None:
    with pytest.raises(RunDirError, match="no such file"):
        JobStore.read(path)
    assert not path.exists()


def test_a_damaged_file_is_named(path: Path) -> None:
    put(path, *((request(n, text="x" * 3000), answer("y" * 3000)) for n in range(40)))
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096] = os.urandom(len(content) - 12288)
    path.write_bytes(content)
    with pytest.raises(RunDirError, match="damaged"), JobStore.read(path) as store:
        list(store.every())


def test_a_full_disk_stops_new_requests_and_still_takes_answers_once_there_is_room(path: Path) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=None) as store:
            first, second = await store.reserve(request(0), 1000), await store.reserve(request(1), 1000)
            limit = "PRAGMA max_page_count"
            pages = await store._commits.change(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await store._commits.change(lambda c: c.execute(f"{limit}={pages}").fetchone())
            large = answer("long " * 100_000)
            with pytest.raises(RunDirError, match="full"):
                await store.answered(first, large, 30)
            with pytest.raises(RunDirError, match="full"):
                await store.reserve(request(2), 1000)
            store._commits._connection.execute(f"{limit}=1000000").fetchone()
            await store.answered(second, answer("short"), 30)

    asyncio.run(run())
    with JobStore.read(path) as store:
        assert store.by_key(0)[request(0).key].answer.text == "long " * 100_000
        assert store.by_key(1)[request(1).key].answer.text == "short"
        assert store.totals().requests == 2


def test_answers_that_cannot_be_saved_are_named_at_the_end(path: Path) -> None:
    async def run() -> None:
        with JobStore.open(path, budget=None) as store:
            attempt = await store.reserve(request(0), 1000)
            pages = await store._commits.change(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await store._commits.change(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())
            with pytest.raises(RunDirError, match="full"):
                await store.answered(attempt, answer("long " * 100_000), 30)

    with pytest.raises(RunDirError, match="1 answers could not be written"):
        asyncio.run(run())
    with JobStore.open(path, budget=None) as store:
        assert store.ledger.maybe_spent == 1000


def test_what_is_wrong_with_one_change_does_not_harm_those_committed_with_it(path: Path) -> None:
    async def run() -> list[object]:
        with JobStore.open(path, budget=None) as store:
            attempts = [await store.reserve(request(n), 1000) for n in range(3)]
            waits = (
                store.answered(attempts[0], answer(), 30),
                store._commits.change(lambda c: c.execute("SELECT ?", (2**70,)), paid=True),
                store.answered(attempts[2], answer(), 30),
            )
            return list(await asyncio.gather(*waits, return_exceptions=True))

    outcomes = asyncio.run(run())
    assert isinstance(outcomes[1], OverflowError)
    with JobStore.read(path) as store:
        assert [bool(store.by_key(n)) for n in range(3)] == [True, False, True]


def test_many_changes_share_a_commit(path: Path) -> None:
    async def run() -> int:
        with JobStore.open(path, budget=None) as store:
            commits = 0

            def count(statement: str) -> None:
                nonlocal commits
                commits += statement == "COMMIT"

            await store._commits.change(lambda c: c.set_trace_callback(count))
            await asyncio.gather(*(store.reserve(request(n), 1) for n in range(200)))
            return commits

    assert asyncio.run(run()) < 20


def test_the_shared_beginning_is_stored_once(path: Path) -> None:
    put(path, *((request(n), answer()) for n in range(10)))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT text FROM shared_texts").fetchall() == [(SHARED,)]
    connection.close()


def test_answers_to_other_prompts_or_models_are_kept_and_not_used(path: Path) -> None:
    old, new, plan = TinyChain("old"), TinyChain("new"), (scenario(0), scenario(1))

    def first_question(chain: TinyChain) -> object:
        return chain.next(plan[0], {})

    put(path, (first_question(old), answer("of old")))
    put(path, (first_question(new), answer("of new")))
    with JobStore.read(path) as store:
        for chain, text in ((old, "of old"), (new, "of new")):  # also when the recipe goes back to the old one
            found = replay(chain, plan[0], store)  # type: ignore[arg-type]
            assert found.answers["question", 0].answer.text == text
            seen = survey(chain, plan, store)  # type: ignore[arg-type]
            assert (seen.finished, seen.begun, seen.stale, seen.open) == (0, 1, 1, plan)


hostile = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates and NUL included


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=hostile,
    reasoning=st.none() | hostile,
    raw=st.dictionaries(st.text(), st.recursive(hostile | st.integers() | st.booleans() | st.none(), st.lists)),
)
def test_whatever_a_provider_says_is_stored_and_reads_back_as_it_was_worked_with(
    tmp_path_factory: pytest.TempPathFactory, text: str, reasoning: str | None, raw: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("store") / "requests.sqlite"

    async def write() -> Answer:
        with JobStore.open(path, budget=None) as store:
            given_answer = Answer(text, "end", Usage(), "m", reasoning, raw)
            return await store.answered(await store.reserve(request(text=text), 1), given_answer, 0)

    worked_with = asyncio.run(write())
    with JobStore.read(path) as store:
        stored = store.by_key(0)[request(text=text).key]
        assert (stored.answer.text, stored.answer.reasoning) == (worked_with.text, worked_with.reasoning)
        assert stored.request == request(text=text)
        assert store.raw(stored.key) == raw


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)))
def test_packed_responses_unpack(raw: dict[str, object]) -> None:
    assert unpack(pack(raw)) == raw
    long = raw | {"padding": "word " * 300}
    assert unpack(pack(long)) == long
    assert len(pack(long)) < 1500 + 12 * len(repr(raw))


def test_a_snapshot_does_not_see_what_is_written_meanwhile(path: Path) -> None:
    """What is counted at two moments would else not fit together: a fresh set had answers that are out of use."""
    put(path, (request(1), answer("one")))
    with JobStore.read(path) as store:
        with store.snapshot():
            put(path, (request(2), answer("two")))
            assert store.answers_by_scenario() == [(1, 1)]
            assert store.totals().answered == 1
        assert store.answers_by_scenario() == [(1, 1), (2, 1)]
