"""The report of a run: what its stages left, read back and put on one page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from genesis_sft.errors import RecipeError, RunDirError
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.record_files import SAMPLES
from genesis_sft.recipe import Recipe, load_recipe, resolved_yaml
from genesis_sft.report.changes import Comparison
from genesis_sft.report.clean_subset import compare_untouched
from genesis_sft.report.compare import compare
from genesis_sft.report.flips import find_flips
from genesis_sft.report.page import HTML, JSON, MARKDOWN, write_report
from genesis_sft.report.run_results import RunResults
from genesis_sft.report.verdict import task_kind
from genesis_sft.run_dir import MARKER, RunDir, read_manifest
from genesis_sft.training.result import TrainingState
from genesis_sft.training.watching.metrics import EVENTS_FILE, read_events

STAGES_READ = {
    "base": 1,
    "questions": 1,
    "data": 2,
    "before": 2,
    "train": 2,
    "export": 1,
    "after": 2,
    "held_out": 2,
}
"""Stages whose results are read, and the version of each that this program writes and reads (``stages.py``)."""


def report_on_run(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    """Compare before and after, write the report; return the plain line of result."""
    results = read_results(recipe, run_dir)
    write_report(out, results)
    return summarize(results.comparison)


def write_again(run: str | Path, out: Path) -> list[Path]:
    """Write the report of a finished run to another folder; return the files.

    Args:
        run: The run folder.
        out: A folder, made where there is none; an earlier report in it is replaced.

    Raises:
        RunDirError: ``run`` is not the folder of a finished run, or another version of the program wrote it.
        InputError: Its records cannot be read.
    """
    run_dir = RunDir(run)
    require_finished(run_dir)
    results = read_results(recipe_of(run_dir), run_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_report(out, results)
    return [out / name for name in (HTML, MARKDOWN, JSON)]


def require_finished(run_dir: RunDir, more: Iterable[str] = ()) -> None:
    """Refuse a folder in which a stage is missing, or was written by another version of the program.

    Args:
        run_dir: The folder.
        more: Stages that have to be there besides those that are read, in any version.

    Raises:
        RunDirError: One is.
    """
    manifests = {stage: read_manifest(run_dir.folder(stage)) for stage in (*STAGES_READ, *more)}
    for stage, version in STAGES_READ.items():
        found = (manifests[stage] or {}).get("version", version)
        if found != version:
            raise _other_version(run_dir, f"stage {stage}, version {found}; this one reads {version}", found, version)
    for stage, manifest in manifests.items():
        if manifest is not None:
            continue
        if (run_dir.path / MARKER).is_file():
            raise RunDirError(
                f"expected a finished run at {run_dir.path}; this run is not finished, its next stage is {stage}",
                hint="The same `genesis-sft run RECIPE` goes on with it.",
            )
        raise RunDirError(
            f"expected the folder of a finished run at {run_dir.path}; found no finished stage {stage} in it",
            hint="Name the folder that `genesis-sft run` wrote, e.g. runs/quickstart.",
        )


def recipe_of(run_dir: RunDir) -> Recipe:
    """Return the recipe that a run was made with.

    Raises:
        RunDirError: It is none that this version of the program reads.
    """
    try:
        return load_recipe(run_dir.path / "recipe.yaml")
    except RecipeError as error:
        first = str(error).splitlines()[0]
        raise _other_version(run_dir, f"or its recipe.yaml was changed since: {first}") from None


def _other_version(run_dir: RunDir, what: str, found: object = 0, expected: int = 1) -> RunDirError:
    other = "a later" if isinstance(found, int) and found > expected else "an earlier"
    return RunDirError(
        f"the run at {run_dir.path} was written by {other} version of genesis-sft ({what})",
        hint="Use that version for it, or run `genesis-sft run RECIPE` again with this one.",
    )


def read_results(recipe: Recipe, run_dir: RunDir) -> RunResults:
    """Return all that the finished stages of a run left for its report.

    Raises:
        InputError: A record is damaged, or before and after are not of the same evaluation.
    """
    before, after = read_records(run_dir)
    comparison = compare(before, after)
    shown = _without_folders(recipe)
    train = run_dir.folder("train")
    return RunResults(
        recipe_name=recipe.name,
        base_name=shown.base.model,
        comparison=comparison,
        before=before,
        after=after,
        ledger=_ledger(recipe, run_dir),
        metrics=TrainingState.open(train).metrics(),
        events=read_events(train / EVENTS_FILE),
        check=_read(run_dir.folder("base") / "check.json") | {"training_loss": recipe.base.training_loss},
        provenance=_provenance(shown, run_dir, before, after),
        untouched=compare_untouched(
            before, after, _samples(run_dir, "before"), _read(run_dir.folder("data") / "touched.json")
        ),
        flips=find_flips(comparison.tasks, _samples(run_dir, "before"), _samples(run_dir, "after")),
    )


def _samples(run_dir: RunDir, side: str) -> Iterator[dict[str, Any]]:
    with open(run_dir.folder(side) / SAMPLES, encoding="utf-8", newline="\n") as lines:
        yield from map(json.loads, lines)


def _without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe with local paths cut to their last part: a report is shown to others."""
    sources = tuple(
        source if source.path is None else source.model_copy(update={"path": Path(source.path).name})
        for source in recipe.data.sources
    )
    base = recipe.base
    if not base.model.startswith(("package:", "hub:")):
        base = base.model_copy(update={"model": Path(base.model).name})
    return recipe.model_copy(update={"base": base, "data": recipe.data.model_copy(update={"sources": sources})})


def _ledger(recipe: Recipe, run_dir: RunDir) -> dict[str, Any]:
    """Return the ledger with what is only shown, licences and expected total, as the recipe states it now."""
    ledger, licences = _read(run_dir.folder("data") / "ledger.json"), [one.licence for one in recipe.data.sources]
    for entry, licence in zip(ledger["sources"], licences, strict=True):
        entry["licence"] = licence
    return ledger | {"expected_total": recipe.data.expected_total}


def read_records(run_dir: RunDir) -> tuple[EvalRecord, EvalRecord]:
    """Return the records before and after, each with the held-out loss that was measured in a stage of its own."""
    return _with_held_out(run_dir, "before"), _with_held_out(run_dir, "after")


def _with_held_out(run_dir: RunDir, side: str) -> EvalRecord:
    record, loss = (EvalRecord.open(folder) for folder in (run_dir.folder(side), run_dir.folder("held_out") / side))
    return replace(record, held_out=loss.held_out, times=record.times | loss.times)


def _provenance(recipe: Recipe, run_dir: RunDir, before: EvalRecord, after: EvalRecord) -> dict[str, Any]:
    manifests = {stage: read_manifest(run_dir.folder(stage)) or {} for stage in STAGES_READ}
    seconds = {stage: manifest.get("elapsed_seconds") for stage, manifest in manifests.items()}
    return {
        "seconds": seconds | {"all stages": sum(spent for spent in seconds.values() if spent is not None)},
        "stage keys": {stage: str(manifest.get("key", ""))[:16] for stage, manifest in manifests.items()},
        "models": {"base, sha256": before.model, "tuned, sha256": after.model},
        "evaluation": {name: value for name, value in before.settings.items() if name != "tasks"},
        "versions": manifests["train"].get("versions", {}),
        "recipe": {"as it was run": resolved_yaml(recipe)},
    }


def summarize(comparison: Comparison) -> str:
    """Return what changed, in one line."""
    parts = []
    if total := comparison.held_out_total:
        parts.append(f"held-out loss {total.before:.3f} -> {total.after:.3f}")
    if stop := comparison.stop:
        parts.append(f"turns ended with an answer {stop.before.value:.0%} -> {stop.after.value:.0%}")
    worse = [task.task for task in comparison.tasks if task_kind(task) == "worse"]
    parts.append(f"benchmarks down beyond their error: {', '.join(worse) or 'none'}")
    return "; ".join(parts)


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
