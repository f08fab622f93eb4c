"""Killed at any moment and started again: the same result, and nothing that was answered is asked twice.

Real processes, killed with SIGKILL, against a server that counts for itself.
"""

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from genesis_sft.synthesis.store.job_store import JobStore
from tests.synthesis.command import tiny_constitution
from tests.synthesis.conftest import LoopbackServer, StartServer
from tests.synthesis.run_written import run_to_the_end, start

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


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, server: LoopbackServer, conversations: int, *, budget: float = 1000, **provider: Any) -> Path:
        (tmp_path / name).mkdir()
        settings = {
            "constitution": str(tiny_constitution(tmp_path)),
            "out": "out",
            "conversations": conversations,
            "budget_usd": budget,
            "provider": {"base_url": server.url, "concurrency": 8, "attempts": 20, "timeout_seconds": 20.0, **provider},
            "steps": {"principles": "sampled"},
        }
        path = tmp_path / name / "recipe.yaml"
        path.write_text(yaml.safe_dump({"seed": 3, "synthesis": settings}))
        return path

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


def end_well(recipe: Path) -> bytes:
    log = recipe.parent / "log.txt"
    assert run_to_the_end(recipe, log) == 0, log.read_text()[-2000:]
    return (recipe.parent / "out" / "outcomes.jsonl").read_bytes()


def kill_often(
    recipe: Path, server: LoopbackServer, kills: int, longest_requests: int, *, creating: int = 0
) -> Iterator[int]:
    """Start the run and kill it, again and again; yields the length of the server's log at each kill.

    The first ``creating`` kills come when the server has just made a batch, and its answer may be on its way.
    """
    seed = random.randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown if the test fails
    draw = random.Random(seed)
    for kill in range(kills):
        before, goal = len(server.log()), draw.randint(0, longest_requests)
        at_creation = kill < creating
        process = start(recipe, recipe.parent / "log.txt")
        deadline = time.monotonic() + 30
        while process.is_alive() and time.monotonic() < deadline:
            new = server.log()[before:]
            if any(entry["path"] == "create" for entry in new) if at_creation else len(new) >= goal:
                break
            time.sleep(0.001)
        if not at_creation:
            time.sleep(draw.random() * (0.02 if goal else 0.3))  # also before the first request, and while it starts
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode != 0 or goal == 0, "the run ended before it had been killed often enough"
        yield len(server.log())


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
def test_killed_50_times_it_ends_in_the_same_file(start_server: StartServer, make_recipe: Callable[..., Path]) -> None:
    script = {"faults": FAULTS, "latency_seconds": 0.005, "cache_minimum": NO_CACHE}
    straight_server, server = start_server(**script), start_server(**script)
    expected = end_well(make_recipe("straight", straight_server, 80))
    recipe = make_recipe("killed", server, 80)
    kills = [(place, answered_keys(recipe)) for place in kill_often(recipe, server, 50, longest_requests=14)]
    assert len(kills[-1][1]) > 50, "the kills came before anything was answered"
    assert end_well(recipe) == expected
    assert_nothing_answered_was_asked_again(server, kills)
    assert_every_bill_is_accounted_for(recipe, server)
    assert_every_bill_is_accounted_for(recipe.parents[1] / "straight" / "recipe.yaml", straight_server)


@pytest.mark.slow
def test_killed_with_batches_at_the_provider(start_server: StartServer, make_recipe: Callable[..., Path]) -> None:
    script = {
        "batches": {"polls": 3, "expired": 0.05, "errored": 0.05, "invalid": 0.01, "break_results": 2},
        "cache_minimum": NO_CACHE,
    }
    straight_server, server = start_server(**script), start_server(**script)
    expected = end_well(make_recipe("straight", straight_server, 40, batches=True))
    recipe = make_recipe("killed", server, 40, batches=True)
    kills = [(place, answered_keys(recipe)) for place in kill_often(recipe, server, 10, longest_requests=4, creating=4)]
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
    log = recipe.parent / "log.txt"
    assert run_to_the_end(recipe, log) == 0, log.read_text()[-2000:]
    assert server.billed() <= round(budget * 1e9)
    assert "the budget of" in log.read_text()
    with JobStore.read(store_of(recipe)) as store:
        totals = store.totals()
    assert server.billed() <= totals.spent + totals.maybe_spent <= round(budget * 1e9)
    assert totals.answered > 0
