"""The whole pipeline on a tiny model, without network: every stage, resumption, what a changed recipe redoes."""

import dataclasses
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genesis_sft import pipeline
from genesis_sft.mixture.store import TokenStore
from genesis_sft.pipeline import plan, run
from genesis_sft.recipe import load_recipe
from genesis_sft.stages import STAGES, Stage
from tests.end_to_end.conftest import write_tiny_recipe
from tests.forked import CONTEXT

NAMES = [stage.name for stage in STAGES]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with the recipe ``tiny.yaml`` and its run ``run``. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("tiny-pipeline")
    run(load_recipe(write_tiny_recipe(folder, tiny_folder)), folder / "run")
    return folder


@pytest.fixture
def finished(done: Path, tiny_recipe: Path, tmp_path: Path) -> Path:
    """A copy of that run, beside a recipe of the same words."""
    return shutil.copytree(done / "run", tmp_path / "run")


def to_do(recipe: Path, run_dir: Path, *overrides: str) -> list[str]:
    return [stage.name for stage in plan(load_recipe(recipe, overrides), run_dir) if not stage.done]


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that a run came to, without times and paths."""
    report = json.loads((run_dir / "report" / "report.json").read_text())
    for name in ("seconds", "recipe"):
        report["provenance"].pop(name, None)
    report.pop("base")
    report["base_check"].pop("source")
    report["weights"] = load_file(run_dir / "export" / "model" / "model.safetensors")
    return report


def assert_same_outcome(one: dict[str, Any], other: dict[str, Any]) -> None:
    ours, theirs = dict(one), dict(other)
    weights, others = ours.pop("weights"), theirs.pop("weights")
    assert ours == theirs
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_run_leaves_everything_it_promises(done: Path) -> None:
    finished = done / "run"
    for place in (
        "recipe.yaml",
        "base/model/config.json",
        "base/check.json",
        "before/record.json",
        "data/ledger.json",
        "data/train.arrow",
        "train/metrics.jsonl",
        "export/model/chat_template.jinja",
        "report/report.html",
        "report/report.md",
    ):
        assert (finished / place).is_file(), place
    assert not list((finished / "partial").iterdir())
    report = json.loads((finished / "report" / "report.json").read_text())
    # the tiny model learns the form of made-up sums in a few steps
    total = report["comparison"]["held_out_total"]
    assert total["after"] < total["before"]
    # 44 rows read, and every one of them stands somewhere
    sources = report["ledger"]["sources"]
    assert sum(source["rows_read"] for source in sources) == 44
    store = TokenStore.open(finished / "data")
    assert sum(source["kept"] for source in sources) == len(store.train)
    assert load_recipe(finished / "recipe.yaml") == load_recipe(done / "tiny.yaml")


def test_a_second_run_does_nothing_twice(done: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finished, tiny_recipe = done / "run", done / "tiny.yaml"
    before = {
        path: path.stat().st_mtime_ns
        for path in finished.rglob("*.*")
        if path.name not in ("recipe.yaml", ".genesis-run")
    }
    assert to_do(tiny_recipe, finished) == []
    run(load_recipe(tiny_recipe), finished)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capfd.readouterr().err.count("done before") == len(NAMES)


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("training.learning_rate=5e-4", ["train", "export", "after", "held_out", "report"]),
        ("training.checkpoints.every_steps=7", []),
        ("evals.max_new_tokens=9", ["before", "after", "report"]),
        ("evals.held_out.max_tokens=400", ["held_out", "report"]),
        ("tokens.train_on=[assistant]", ["data", "train", "export", "after", "held_out", "report"]),
        ("data.sources.1.take=11", ["data", "train", "export", "after", "held_out", "report"]),
        ("export.dtype=bfloat16", ["export", "after", "held_out", "report"]),
        ("base.training_loss=2.0", ["report"]),
        ("data.sources.0.licence=MIT", ["report"]),
        ("base.verify=stop", [name for name in NAMES if name != "questions"]),
    ],
)
def test_a_changed_field_redoes_what_depends_on_it(
    finished: Path, tiny_recipe: Path, override: str, redone: list[str]
) -> None:
    assert to_do(tiny_recipe, finished, override) == redone


def test_a_changed_source_file_redoes_the_data_and_what_follows(finished: Path, tiny_recipe: Path) -> None:
    with open(tiny_recipe.parent / "sums.jsonl", "a") as handle:
        handle.write('{"query": "And 99 plus 99?", "response": "198", "type": "made up"}\n')
    assert to_do(tiny_recipe, finished)[:2] == ["data", "train"]


def test_a_run_folder_can_be_moved(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("tiny.yaml", "sums.jsonl", "birds.jsonl"):
        shutil.copy(tiny_recipe.parent / name, elsewhere / name)
    finished.rename(elsewhere / "run")
    assert to_do(elsewhere / "tiny.yaml", elsewhere / "run") == []


def run_and_hang(recipe: Path, run_dir: Path, stop_in: str, log: Path) -> None:
    """Run, and stand still in a stage that has written all but its manifest: the worst moment to be killed."""

    def watched(stage: Stage) -> Stage:
        def work(*arguments: Any) -> Any:
            with open(log, "a") as handle:
                handle.write(f"{stage.name}\n")
            result = stage.work(*arguments)
            if stage.name == stop_in:
                Path(f"{log}.ready").touch()
                time.sleep(60)
            return result

        return dataclasses.replace(stage, work=work)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    pipeline.STAGES = tuple(watched(stage) for stage in pipeline.STAGES)  # type: ignore[attr-defined]
    run(load_recipe(recipe), run_dir)


@pytest.mark.slow
def test_killed_in_each_stage_it_ends_the_same_and_repeats_no_finished_stage(
    tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "killed", tmp_path / "log"
    ready = Path(f"{log}.ready")
    for name in NAMES:
        process = CONTEXT.Process(target=run_and_hang, args=(tiny_recipe, run_dir, name, log))
        process.start()
        deadline = time.monotonic() + 120
        while not ready.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ready.exists(), name
        process.kill()  # SIGKILL
        process.join(30)
        ready.unlink()
    run(load_recipe(tiny_recipe), run_dir)
    # a child begins the stage that its predecessor was killed in, and the next one; none begins a finished stage
    assert log.read_text().split() == [NAMES[0]] + [name for pair in itertools.pairwise(NAMES) for name in pair]
    assert_same_outcome(outcome(run_dir), outcome(finished))
