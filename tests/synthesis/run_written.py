"""One run of writing in a process of its own, to be killed: all that the command does, with waits of milliseconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import asdict
from pathlib import Path

from genesis_sft.errors import GenesisError
from genesis_sft.run_dir import write_text
from genesis_sft.synthesis.asking.chain import Ended, Finished
from genesis_sft.synthesis.asking.request import Request
from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.store.job_store import JobStore, ReadStore
from genesis_sft.synthesis.store.replay import replay
from genesis_sft.synthesis.writing import batch_mending, batch_waiting, pace
from genesis_sft.synthesis.writing.run import write_project

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.synthesis.run_written", "genesis_sft.synthesis.providers.messages"])


def start(recipe: Path, log: Path) -> multiprocessing.process.BaseProcess:
    """Start a run; what it says goes to a log. The key of its environment is none."""
    process = CONTEXT.Process(target=_run, args=(recipe, log))
    process.start()
    return process


def run_to_the_end(recipe: Path, log: Path, seconds: float = 120) -> int | None:
    """Run until it ends by itself; returns the exit status."""
    process = start(recipe, log)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def _run(recipe: Path, log: Path) -> None:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 2)
    pace.FIRST_WAIT_SECONDS = 0.005
    batch_waiting.FIRST_POLL_SECONDS = 0.01
    batch_mending.SETTLE_SECONDS = 0.1
    project = Project.open(recipe)
    try:
        print("written:", write_project(project), file=sys.stderr)
        with JobStore.read(project.store_path) as store:
            write_text(project.out / "outcomes.jsonl", _outcomes(project, store))
    except GenesisError as error:
        print("error:", error, file=sys.stderr)
        sys.exit(error.exit_status)


def _outcomes(project: Project, store: ReadStore) -> str:
    """Return what became of every scenario, with what it took, as lines of JSON."""
    lines = []
    for scenario in project.scenarios:
        found = replay(project.chain, scenario, store)
        outcome: dict[str, object] = {"unfinished": True}
        if isinstance(found.outcome, Finished):
            outcome = {"messages": [asdict(message) for message in found.outcome.messages]}
        elif isinstance(found.outcome, Ended):
            outcome = {"reason": found.outcome.reason, "detail": found.outcome.detail}
        else:
            assert isinstance(found.outcome, Request)
        used = [(step, turn, one.key, asdict(one.answer), one.cost) for (step, turn), one in found.answers.items()]
        lines.append(json.dumps({"id": scenario.id, "outcome": outcome, "answers": used}))
    return "\n".join(lines) + "\n"
