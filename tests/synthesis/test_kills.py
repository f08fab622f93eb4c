"""Killed at any moment and started again: the same files, and nothing that was answered is asked twice.

The command itself in real processes, killed with SIGKILL, against a server that counts for itself.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import orjson
import pytest

from genesis_sft.synthesis.store.job_store import JobStore
from tests.program import start_program
from tests.synthesis import command
from tests.synthesis.conftest import LoopbackServer, StartServer

NO_CACHE = 10**9
"""Tokens: without a prompt cache, usage does not depend on the order in which requests arrive."""

FAULTS: list[dict[str, Any]] = [
    {"fault": "rate_limit", "probability": 0.05, "retry_after": "0.01"},
    {"fault": "overloaded", "probability": 0.05},
    {"fault": "server_error", "probability": 0.04},
    {"fault": "disconnect", "probability": 0.03},
    {"fault": "cut_off", "probability": 0.03},
    {"fault": "malformed", "probability": 0.02},
    {"fault": "refusal", "probability": 0.02},
    {"fault": "max_tokens", "probability": 0.02},
    {"fault": "empty", "probability": 0.01},
]


WAITS = {
    "genesis_sft.synthesis.writing.pace.FIRST_WAIT_SECONDS": 0.005,
    "genesis_sft.synthesis.writing.batch_waiting.FIRST_POLL_SECONDS": 0.01,
    "genesis_sft.synthesis.writing.batch_mending.SETTLE_SECONDS": 0.1,
}
WHOLE = 50
"""Kills of `make test-all`; `make test` is content with a third of them, which take a minute less."""


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, server: LoopbackServer, conversations: int, *, budget: float = 1000, **provider: Any) -> Path:
        (tmp_path / name).mkdir()
        return command.write_recipe(
            tmp_path / name,
            constitution=str(command.tiny_constitution(tmp_path)),
            conversations=conversations,
            budget_usd=budget,
            provider={"base_url": server.url, "concurrency": 8, "attempts": 20, "timeout_seconds": 20.0, **provider},
            steps={"principles": "sampled"},
        )

    return make


def store_of(recipe: Path) -> Path:
    return recipe.parent / "out" / "requests.sqlite"


def answered_keys(recipe: Path) -> set[str]:
    if not store_of(recipe).exists():
        return set()
    connection = sqlite3.connect(store_of(recipe).as_uri() + "?mode=ro", uri=True)
    try:
        return {row[0] for row in connection.execute("SELECT key FROM requests WHERE state = 'answered'")}
    finally:
        connection.close()


def log_of(recipe: Path) -> Path:
    return recipe.parent / "log.txt"


def start(recipe: Path, *arguments: object) -> BaseProcess:
    log, env = log_of(recipe), command.environment()
    return start_program("synthesize", *arguments, recipe, stdout=log, stderr=log, env=env, faster=WAITS)


def run_to_the_end(recipe: Path, *arguments: object, status: int = 0) -> None:
    process = start(recipe, *arguments)
    process.join(120)
    process.kill()
    process.join()
    assert process.exitcode == status, log_of(recipe).read_text()[-2000:]


def end_well(recipe: Path) -> dict[str, Any]:
    """Run to the end; returns the files that were written, and what each step was answered."""
    run_to_the_end(recipe)
    out = recipe.parent / "out"
    card = orjson.loads((out / "card.json").read_bytes())
    del card["cost"]["maybe_spent_usd"]  # tells of the kills: what was under way may have been paid for
    run_to_the_end(recipe, "export", "--steps", recipe.parent / "steps.jsonl")
    rows = {path.name: path.read_bytes() for path in (*out.glob("*.jsonl"), recipe.parent / "steps.jsonl")}
    assert rows.keys() == {"conversations.jsonl", "rejected.jsonl", "steps.jsonl"}
    return {"card": card, **rows}


def kill_often(
    recipe: Path, server: LoopbackServer, kills: int, longest_requests: int, *, creating: int = 0
) -> Iterator[int]:
    """Start the run and kill it, again and again; yields the length of the server's log at each kill.

    The first ``creating`` kills come when the server has just made a batch, and its answer may be on its way.
    """
    draw = draw_of_kills()
    for kill in range(kills):
        before, goal = len(server.log()), draw.randint(0, longest_requests)
        at_creation = kill < creating
        process = start(recipe)
        deadline = time.monotonic() + 30
        while process.is_alive() and time.monotonic() < deadline:
            new = server.log()[before:]
            if any(entry["path"] == "create" for entry in new) if at_creation else len(new) >= goal:
                break
            time.sleep(0.005)
        if not at_creation:
            time.sleep(draw.random() * (0.02 if goal else 0.3))  # also before the first request, and while it starts
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode != 0 or goal == 0, "the run ended before it had been killed often enough"
        yield len(server.log())


def kill_while_files_are_written(recipe: Path, kills: int) -> None:
    """Start the run again where nothing is left to ask, and kill it while it writes out what there is."""
    began = time.monotonic()
    run_to_the_end(recipe)
    longest, draw = time.monotonic() - began, draw_of_kills()
    for _ in range(kills):
        process = start(recipe)
        process.join(draw.random() * longest)
        process.kill()
        process.join()


def draw_of_kills() -> random.Random:
    seed = random.randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown if the test fails
    return random.Random(seed)


def assert_nothing_answered_was_asked_again(server: LoopbackServer, kills: list[tuple[int, set[str]]]) -> None:
    log = server.log()
    for place, keys in kills:
        again = [entry["key"] for entry in log[place:] if entry.get("key") in keys]
        assert not again, f"{len(again)} requests were asked again that had been answered at log line {place}"


def assert_every_bill_is_accounted_for(recipe: Path, server: LoopbackServer) -> None:
    with JobStore.read(store_of(recipe)) as store:
        totals = store.totals()
    assert totals.reserved == 0
    assert totals.spent <= server.billed() <= totals.spent + totals.maybe_spent


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_files(
    start_server: StartServer, make_recipe: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    num_kills = WHOLE if request.config.getoption("--real-model") else WHOLE // 3
    script = {"faults": FAULTS, "latency_seconds": 0.005, "cache_minimum": NO_CACHE}
    straight_server, server = start_server(**script), start_server(**script)
    straight, recipe = make_recipe("straight", straight_server, 80), make_recipe("killed", server, 80)
    expected = end_well(straight)
    assert expected["conversations.jsonl"]
    assert expected["rejected.jsonl"]
    longest = 14 * WHOLE // num_kills  # spread over the run
    kills = [(place, answered_keys(recipe)) for place in kill_often(recipe, server, num_kills, longest)]
    assert len(kills[-1][1]) > 50, "the kills came before anything was answered"
    assert end_well(recipe) == expected
    kill_while_files_are_written(recipe, num_kills // 5)
    assert end_well(recipe) == expected
    assert_nothing_answered_was_asked_again(server, kills)
    assert_every_bill_is_accounted_for(recipe, server)
    assert_every_bill_is_accounted_for(straight, straight_server)


@pytest.mark.slow
def test_killed_with_batches_at_the_provider(
    start_server: StartServer, make_recipe: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    num_kills = WHOLE // 5 if request.config.getoption("--real-model") else WHOLE // 15
    script = {
        "batches": {"polls": 3, "expired": 0.05, "errored": 0.05, "invalid": 0.01, "break_results": 2},
        "cache_minimum": NO_CACHE,
    }
    straight_server, server = start_server(**script), start_server(**script)
    expected = end_well(make_recipe("straight", straight_server, 40, batches=True))
    recipe = make_recipe("killed", server, 40, batches=True)
    often = kill_often(recipe, server, num_kills, longest_requests=4, creating=num_kills * 2 // 5)
    kills = [(place, answered_keys(recipe)) for place in often]
    assert end_well(recipe) == expected
    answered = [entry["key"] for entry in server.log() if entry["path"] == "item" and entry.get("status") == 200]
    assert len(set(answered)) == len(answered), "an item that was answered was sent a second time"
    assert_nothing_answered_was_asked_again(server, kills)
    assert_every_bill_is_accounted_for(recipe, server)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "seed"), [(0.02, 0), (0.1, 1), (0.3, 2), (0.5, 3)])
def test_32_workers_never_spend_more_than_the_budget_by_the_servers_own_count(
    start_server: StartServer, make_recipe: Callable[..., Path], budget: float, seed: int
) -> None:
    server = start_server(faults=FAULTS, seed=seed, at_once=24, retry_after="0.01")
    recipe = make_recipe("spent", server, 300, budget=budget, concurrency=32)
    run_to_the_end(recipe, status=1)
    assert server.billed() <= round(budget * 1e9)
    assert "the budget of" in log_of(recipe).read_text()
    with JobStore.read(store_of(recipe)) as store:
        totals = store.totals()
    assert server.billed() <= totals.spent + totals.maybe_spent <= round(budget * 1e9)
    assert totals.answered > 0
