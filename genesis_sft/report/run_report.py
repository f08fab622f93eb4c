"""The report of a run: what its stages left, read back and put on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from genesis_sft.evals.record import EvalRecord
from genesis_sft.recipe import Recipe, resolved_yaml
from genesis_sft.report.clean_subset import compare_untouched
from genesis_sft.report.compare import Comparison, compare
from genesis_sft.report.page import write_report
from genesis_sft.report.verdict import task_kind
from genesis_sft.run_dir import RunDir, read_manifest
from genesis_sft.training.result import TrainingState

_STAGES = ("base", "questions", "data", "before", "train", "export", "after", "held_out")


def report_on_run(recipe: Recipe, run_dir: RunDir, out: Path) -> str:
    """Compare before and after, write the report; return the plain line of result."""
    before, after = read_records(run_dir)
    shown = _without_folders(recipe)
    comparison = compare(before, after)
    write_report(
        out,
        recipe_name=recipe.name,
        base_name=shown.base.model,
        comparison=comparison,
        before=before,
        after=after,
        ledger=_ledger(recipe, run_dir),
        metrics=TrainingState.open(run_dir.folder("train")).metrics(),
        check=_read(run_dir.folder("base") / "check.json") | {"training_loss": recipe.base.training_loss},
        provenance=_provenance(shown, run_dir, before, after),
        untouched=compare_untouched(before, after, _samples(run_dir), _read(run_dir.folder("data") / "touched.json")),
    )
    return _summary(comparison)


def _samples(run_dir: RunDir) -> Iterator[dict[str, Any]]:
    with open(run_dir.folder("before") / "samples.jsonl", encoding="utf-8", newline="\n") as lines:
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
    manifests = {stage: read_manifest(run_dir.folder(stage)) or {} for stage in _STAGES}
    return {
        "seconds": {stage: manifest.get("elapsed_seconds") for stage, manifest in manifests.items()},
        "stage keys": {stage: str(manifest.get("key", ""))[:16] for stage, manifest in manifests.items()},
        "models": {"base, sha256": before.model, "tuned, sha256": after.model},
        "evaluation": {name: value for name, value in before.settings.items() if name != "tasks"},
        "versions": manifests["train"].get("versions", {}),
        "recipe": {"as it was run": resolved_yaml(recipe)},
    }


def _summary(comparison: Comparison) -> str:
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
