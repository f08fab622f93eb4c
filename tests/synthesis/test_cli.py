"""The command as a user meets it: what it prints, how it ends, and what it says of every mistake."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.ledger import format_usd
from tests.synthesis.command import (
    KEY,
    ROOT,
    Result,
    answer_json,
    anthropic_recipe,
    command,
    environment,
    openai_recipe,
    rows,
    succeed,
    synthesize,
    tiny_constitution,
    write_recipe,
)
from tests.synthesis.conftest import LoopbackServer, StartServer

pytestmark = pytest.mark.slow  # a process for each command


def refused(result: Result, *words: str, status: int = 2) -> str:
    """The message of a command that was refused, with nothing on stdout and no traceback."""
    assert result.returncode == status, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    for word in words:
        assert word in message
    return message


@contextmanager
def running(recipe: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background."""
    process = subprocess.Popen(
        command(recipe, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_asked(server: LoopbackServer, requests: int) -> None:
    deadline = time.monotonic() + 60
    while len(server.log()) < requests:
        assert time.monotonic() < deadline, "the command asks nothing"
        time.sleep(0.02)


def test_help_shows_every_command_with_an_example() -> None:
    for words in ([], ["status"], ["export"]):
        shown = " ".join(succeed(*words, "--help").stdout.split())
        assert f"Example: genesis-sft {' '.join(['synthesize', *words])} recipes/synthesis.yaml" in shown
    assert "--resume" in " ".join(succeed("--help").stdout.split())


def test_the_shipped_recipe_is_foreseen_without_key_network_or_files() -> None:
    """And nothing is written."""
    found = answer_json("recipes/synthesis.yaml", "--dry-run", "--limit", 40, ANTHROPIC_API_KEY=None)
    assert found["conversations"] == 40
    assert found["coverage"]["num_scenarios"] == 40
    assert 0 < found["cost_usd"]["low"] < found["cost_usd"]["expected"] < found["cost_usd"]["high"]
    assert not (ROOT / "data").exists()


def test_a_dry_run_shows_coverage_first_then_requests_price_and_prompts(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, conversations=20)
    shown = succeed(recipe, "--dry-run", "--show-prompts").stdout
    places = [shown.index(word) for word in ("plan: 20", "main principle", "to ask", "price: $", "no budget", "=====")]
    assert places == sorted(places)
    assert "prices.yaml of 20" in shown
    project = Project.open(recipe)
    first = project.chain.next(project.scenarios[0], {})
    assert first.shared in shown  # type: ignore[union-attr]
    assert first.messages[0][1] in shown  # type: ignore[union-attr]
    heads = {line.split(":")[0]: after for line, after in itertools.pairwise(shown.splitlines()) if "=====" in line}
    told = {
        head: after.endswith("stands in for answers within it that have not come yet") for head, after in heads.items()
    }
    assert told == {"===== question": False, "===== draft": True, "===== critique": True, "===== revision": True}
    assert "===== question: scenario 0, exchange 1, claude-haiku-4-5, at most" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "warning"),
    [("0.05", "the budget is likely too small, by $"), ("0.0001", "does not cover one more request")],
)
def test_a_budget_that_is_too_small_is_a_warning(tmp_path: Path, budget: str, warning: str) -> None:
    recipe = write_recipe(tmp_path, conversations=20)
    assert warning in succeed(recipe, "--dry-run", "--set", f"synthesis.budget_usd={budget}").stdout
    assert "too small" not in succeed(recipe, "--dry-run", "--set", "synthesis.budget_usd=1000").stdout


def test_a_run_is_written_resumed_at_no_cost_and_exported(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(key=KEY)
    recipe = anthropic_recipe(tmp_path, server, conversations=8)
    shown = succeed(recipe, "--limit", 4).stdout
    assert "4 finished, 8 planned" in shown
    assert f"{tmp_path / 'out' / 'conversations.jsonl'}" in shown
    assert "of $50.00" in shown or "budget: $50.00" in shown

    found = answer_json(recipe, "--resume")
    assert found["status"]["conversations"]["finished"] == 8
    assert found["status"]["spent_usd"] == pytest.approx(server.billed() / 1e9)
    kept = rows(tmp_path / "out" / "conversations.jsonl")
    assert len(kept) + len(rows(tmp_path / "out" / "rejected.jsonl")) == 8
    keys = server.answered_keys()
    assert len(keys) == len(set(keys))

    results = ("conversations.jsonl", "rejected.jsonl", "card.json", "card.md", "card.svg")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in results}
    # nothing is left to ask: neither key nor server is needed
    succeed(recipe, "--set", "synthesis.provider.key_from=ANTHROPIC_API_KEY", ANTHROPIC_API_KEY=None)
    steps = tmp_path / "steps.jsonl"
    succeed("export", recipe, "--steps", steps)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in results} == before
    assert server.answered_keys() == keys
    assert len(rows(steps)) == len(keys)


def test_status_is_right_during_a_run_and_after_it(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(latency_seconds=0.05)
    recipe = openai_recipe(tmp_path, server, conversations=30)
    nothing = answer_json("status", recipe)
    assert nothing["conversations"] == {"planned": 30, "finished": 0, "ended": {}, "under_way": 0, "to_begin": 30}
    with running(recipe) as process:
        wait_until_asked(server, 40)
        during = answer_json("status", recipe)
        assert process.poll() is None, "the run was over too early for this test"
        assert 0 < during["requests"]["answered"] < len(server.log())
        parts = during["conversations"]
        assert parts["finished"] + sum(parts["ended"].values()) + parts["under_way"] + parts["to_begin"] == 30
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    after = answer_json("status", recipe)
    assert after["conversations"]["finished"] + sum(after["conversations"]["ended"].values()) == 30
    assert after["requests"]["answered"] == len(server.answered_keys())
    assert after["attempts"]["under_way"] == 0


def test_faults_are_counted_by_kind(tmp_path: Path, start_server: StartServer) -> None:
    faults = [
        {"fault": "rate_limit", "at": [3], "retry_after": "0.01"},
        {"fault": "server_error", "at": [5]},
        {"fault": "disconnect", "at": [9]},
    ]
    server = start_server(faults=faults)
    recipe = anthropic_recipe(tmp_path, server, conversations=3)
    succeed(recipe)
    found = answer_json("status", recipe)
    assert found["attempts"]["faults"] == {"rate limit": 1, "server error": 1, "connection": 1}
    assert found["attempts"]["sent"] == found["requests"]["answered"] + 3
    assert found["maybe_spent_usd"] > 0
    assert found["spent_usd"] <= server.billed() / 1e9 <= found["spent_usd"] + found["maybe_spent_usd"]


def test_a_spent_budget_ends_with_status_1_and_what_is_finished_is_written(
    tmp_path: Path, start_server: StartServer
) -> None:
    server = start_server()
    recipe = anthropic_recipe(tmp_path, server, conversations=40, budget_usd=0.2)
    result = synthesize(recipe)
    assert result.returncode == 1, result.stderr
    assert "error: the budget of $0.2000 is used up" in result.stderr
    assert "hint: Raise synthesis.budget_usd" in result.stderr
    forecast = answer_json(recipe, "--dry-run")
    assert f"is likely to cost {format_usd(round(forecast['cost_usd']['expected'] * 1e9))} more" in result.stderr
    finished = len(rows(tmp_path / "out" / "conversations.jsonl")) + len(rows(tmp_path / "out" / "rejected.jsonl"))
    assert 0 < finished < 40
    assert server.billed() <= 0.2e9
    succeed(recipe, "--set", "synthesis.budget_usd=50")
    assert answer_json("status", recipe)["conversations"]["under_way"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_what_is_under_way_and_ends_with_75(
    tmp_path: Path, start_server: StartServer, number: signal.Signals
) -> None:
    server = start_server(latency_seconds=0.3)
    recipe = openai_recipe(tmp_path, server, conversations=200)
    with running(recipe) as process:
        wait_until_asked(server, 12)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "The same command goes on from there." in said
    found = answer_json("status", recipe)
    assert found["attempts"]["under_way"] == 0
    assert found["requests"]["answered"] == len(server.answered_keys())


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, str | None], list[str]]] = {
    "no key": ({}, {"ANTHROPIC_API_KEY": None}, ["ANTHROPIC_API_KEY", "found none"]),
    "no budget": ({"budget_usd": None}, {}, ["expected synthesis.budget_usd", "claude-haiku-4-5", "--dry-run"]),
    "no price": ({"provider": {"model": "made-up"}}, {}, ["price of 'made-up'", "input: 1.0"]),
    "no constitution": ({"constitution": "nowhere"}, {}, ["nowhere/principles.yaml"]),
    "misspelt": ({"conversation": 3}, {}, ["synthesis.conversation is no known key", "did you mean conversations?"]),
    "no questions": ({"steps": {"questions": "nowhere.jsonl"}}, {}, ["nowhere.jsonl"]),
    "benchmarks out of reach": ({}, {}, ["out of reach", "--set evals.data=package", "--set evals.tasks=[]"]),
    "neither key nor bench": ({}, {"ANTHROPIC_API_KEY": None}, ["ANTHROPIC_API_KEY", "found none"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path: Path, mistake: str) -> None:
    section, env, words = MISTAKES[mistake]
    recipe = write_recipe(tmp_path, **{"budget_usd": 1, **section})
    more = ["--set", "evals.tasks=[{task: piqa}]", "--set", f"evals.data={tmp_path}"] if "bench" in mistake else []
    refused(synthesize(recipe, *more, **env), *words)
    assert not (tmp_path / "out" / "conversations.jsonl").exists()


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    provider = {"api": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "attempts": 2, "concurrency": 2}
    constitution = str(tiny_constitution(tmp_path))
    recipe = write_recipe(tmp_path, conversations=40, provider=provider, constitution=constitution)
    assert "127.0.0.1:9" in refused(synthesize(recipe), "hint: ")


def test_an_unknown_model_is_named_with_those_there_are(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(models=["qwen3:4b", "llama3.2"])
    refused(synthesize(openai_recipe(tmp_path, server, conversations=3)), "local-model", "qwen3:4b")


def test_a_wrong_key_is_refused_and_never_shown(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server(key="another one")
    recipe = anthropic_recipe(tmp_path, server, conversations=3)
    result = synthesize(recipe)
    refused(result, "hint: ")
    assert KEY not in result.stderr
    assert all(KEY.encode() not in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_recipe_without_the_section_is_refused() -> None:
    refused(synthesize("recipes/quickstart.yaml", "--dry-run"), "section synthesis", "recipes/synthesis.yaml")


def test_prompts_without_a_dry_run_are_refused(tmp_path: Path) -> None:
    refused(synthesize(write_recipe(tmp_path), "--show-prompts"), "--dry-run")


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    refused(synthesize("export", write_recipe(tmp_path)), "requests.sqlite", "genesis-sft synthesize")


@pytest.mark.parametrize("name", ["requests.sqlite", "conversations.jsonl", "card.md"])
def test_another_ones_files_are_left_alone(tmp_path: Path, start_server: StartServer, name: str) -> None:
    server = start_server()
    recipe = openai_recipe(tmp_path, server, conversations=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b'{"mine": 1}\n')
    refused(synthesize(recipe), name, "found another")
    assert (tmp_path / "out" / name).read_bytes() == b'{"mine": 1}\n'
    assert server.log() == []


def test_a_database_of_another_program_is_left_alone(tmp_path: Path, start_server: StartServer) -> None:
    recipe = openai_recipe(tmp_path, start_server(), conversations=3)
    (tmp_path / "out").mkdir()
    with sqlite3.connect(tmp_path / "out" / "requests.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    for words in (["status", recipe], ["export", recipe], [recipe], [recipe, "--dry-run"]):
        refused(synthesize(*words), "requests.sqlite")


def test_a_second_process_is_refused_and_names_the_first(tmp_path: Path) -> None:
    provider = {"api": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    recipe = write_recipe(tmp_path, conversations=3, provider=provider)
    (tmp_path / "out").mkdir()
    with JobStore.open(tmp_path / "out" / "requests.sqlite", budget=None):
        refused(synthesize(recipe), f"process {os.getpid()}")
        assert answer_json("status", recipe)["conversations"]["to_begin"] == 3


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused(synthesize(write_recipe(tmp_path, budget_usd=1)), str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_json_is_all_that_stands_on_stdout(tmp_path: Path, start_server: StartServer) -> None:
    recipe = openai_recipe(tmp_path, start_server(), conversations=2)
    for words in ([recipe, "--dry-run"], [recipe, "--dry-run", "--show-prompts"], [recipe], ["status", recipe]):
        assert isinstance(orjson.loads(succeed(*words, "--json").stdout), dict)


def test_a_dry_run_refuses_a_place_that_the_run_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for out in ("taken", "taken/below"):
        recipe = write_recipe(tmp_path, out=out, budget_usd=1)
        for words in (["--dry-run"], []):
            refused(synthesize(recipe, *words), f"expected a folder at {tmp_path / 'taken'}, found a file")


def test_a_limit_above_the_plan_is_told(tmp_path: Path) -> None:
    recipe, told = write_recipe(tmp_path, conversations=5), "--limit 6 is more than the 5 planned conversations"
    for words in ([recipe, "--dry-run"], ["status", recipe]):
        assert told in succeed(*words, "--limit", 6).stderr
        assert told not in succeed(*words, "--limit", 6, "--json").stderr
        assert "planned conversations" not in succeed(*words, "--limit", 5).stderr


def test_a_model_without_a_price_is_foreseen_in_tokens_alone(tmp_path: Path) -> None:
    provider = {"api": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    shown = succeed(write_recipe(tmp_path, conversations=5, provider=provider), "--dry-run").stdout
    assert "assumed" in shown
    assert "range" not in shown
    assert "$" not in shown


def test_a_forecast_says_what_its_range_is_for(tmp_path: Path) -> None:
    said = {}
    for batches in (True, False):
        recipe = write_recipe(tmp_path, conversations=5, provider={"batches": batches})
        said[batches] = succeed(recipe, "--dry-run").stdout
    words = ("how often a batch finds", "synthesis.steps.principles=sampled")
    assert [[word in said[batches] for word in words] for batches in said] == [[True, True], [False, False]]


def test_a_budget_below_what_is_spent_is_told_without_negative_amounts(
    tmp_path: Path, start_server: StartServer
) -> None:
    recipe = anthropic_recipe(tmp_path, start_server(), conversations=12)
    succeed(recipe, "--limit", 3)
    lower = ("--set", "synthesis.budget_usd=0.001")
    stopped = synthesize(recipe, *lower)
    assert stopped.returncode == 1
    for text in (stopped.stderr, succeed(recipe, "--dry-run", *lower).stdout):
        assert "the budget is exceeded by $" in text
        assert "$-" not in text


def test_texts_from_files_and_servers_cannot_command_the_terminal(tmp_path: Path, start_server: StartServer) -> None:
    red, shown_red = "\x1b[31m", "␛[31m"
    constitution = tiny_constitution(tmp_path)
    prompts = orjson.loads((constitution / "prompts.yaml").read_bytes())
    prompts["draft"]["system"] += red
    (constitution / "prompts.yaml").write_bytes(orjson.dumps(prompts))
    recipe = openai_recipe(tmp_path, start_server(), conversations=2, constitution=str(constitution), out=f"out{red}")
    forecast, prompted, written, exported = (
        succeed(*words)
        for words in ([recipe, "--dry-run"], [recipe, "--dry-run", "--show-prompts"], [recipe], ["export", recipe])
    )
    with sqlite3.connect(tmp_path / f"out{red}" / "requests.sqlite") as store:
        store.execute("UPDATE attempts SET outcome = ? WHERE id = 1", (f"odd{red}",))
    store.close()
    status = succeed("status", recipe)
    for result in (forecast, prompted, written, exported, status):
        assert shown_red in result.stdout
        assert "\x1b" not in result.stdout + result.stderr
    assert prompted.stdout.count(shown_red) > forecast.stdout.count(shown_red)
