"""The folder of a finished run, with two items where a run has thousands; its models are some bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.evals.error_bars import clustered_mean_and_error, mean_and_error, ratio_and_error
from genesis_sft.evals.record import EvalRecord, HeldOutRecord
from genesis_sft.evals.record_files import write_lines
from genesis_sft.evals.task_record import PartScore, TaskRecord
from genesis_sft.recipe import load_recipe
from genesis_sft.report.run_report import STAGES_READ, report_on_run
from genesis_sft.report.verify import REPORT_VERSION
from genesis_sft.run_dir import RunDir, StageSpec, write_json
from genesis_sft.training.result import TrainingState
from tests.report.records import chat_answer, held_out_record
from tests.report.test_tables import entry

RECIPE = """\
name: tiny
base: {model: somewhere, verify: warn}
evals: {tasks: [{task: piqa}, {task: mmlu}, {task: lambada_openai}]}
data: {sources: [{name: sums, path: sums.jsonl, licence: MIT}]}
training: {batch: {sequences: 4}, learning_rate: 1e-4, epochs: 1}
"""

_CHOICES = ["short", "a longer answer"]
_SUBJECTS = {"law": "humanities", "art": "humanities", "algebra": "stem"}


def make_run(path: Path, *, name: str = "tiny") -> Path:
    """Write a finished run, its report included; return its folder."""
    path.mkdir()
    (path / "recipe.yaml").write_text(RECIPE.replace("tiny", name, 1))
    run_dir = RunDir(path)
    _make(run_dir, "base", _write_base)
    _make(run_dir, "questions", lambda _: None)
    _make(run_dir, "data", _write_data)
    _make(run_dir, "train", _write_training)
    _make(run_dir, "export", lambda out: _write_model(out, b"tuned"))
    models = {"before": "base", "after": "export"}
    hashes = {side: ModelDir(path / stage / "model").content_hash() for side, stage in models.items()}
    for gain, side in enumerate(models):
        _make(run_dir, side, lambda out, gain=gain, side=side: _write_record(out, hashes[side], gain))  # type: ignore[misc]
    _make(run_dir, "held_out", lambda out: _write_held_out(out, hashes))
    recipe = load_recipe(path / "recipe.yaml")
    _make(run_dir, "report", lambda out: report_on_run(recipe, run_dir, out))
    return path


def _make(run_dir: RunDir, stage: str, write: Callable[[Path], Any]) -> None:
    version = {**STAGES_READ, "report": REPORT_VERSION}[stage]
    run_dir.make(StageSpec(stage, version, {}), lambda out: str(write(out) or "done"))


def _write_model(out: Path, weights: bytes) -> None:
    (out / "model").mkdir()
    for name, content in (("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", weights)):
        (out / "model" / name).write_bytes(content)


def _write_base(out: Path) -> None:
    _write_model(out, b"base")
    write_json(out / "check.json", {"verdict": "predicts text", "nats_per_token": 3.7, "uniform": 10.8})


def _write_data(out: Path) -> None:
    source = entry("sums", rows_read=20, tokens=100, trained_tokens=60)
    write_json(out / "ledger.json", {"sources": [source]})
    write_json(out / "touched.json", {"piqa": [1]})


def _write_training(out: Path) -> None:
    rows = [
        {"step": step, "loss": 3 - step / 16, "end_probability": step / 64, "grad_norm": 0.5, "mfu": 0.25}
        for step in range(1, 5)
    ]
    write_lines(out / "metrics.jsonl", rows)
    losses = [{"step": step, "kind": "held_out", "loss": 3.0, "sources": {"sums": 2.875}} for step in (2, 4)]
    write_lines(out / "events.jsonl", [*losses, {"step": 3, "kind": "alarm", "name": "spike", "message": "a spike"}])
    TrainingState(out, 4, 100, 60, 2.9, 2.8, 0).write()


def _write_record(out: Path, model: str, gain: int) -> None:
    rows = [
        *(_choice_row("piqa", "piqa", number, right) for number, right in enumerate((gain, 1, 0, gain))),
        *(
            _choice_row("mmlu", f"mmlu_{subject}", number, right)
            for subject in _SUBJECTS
            for number, right in ((0, gain), (1, 1))
        ),
        *(_word_row(number, -4.0 + gain / 2 - number) for number in range(3)),
    ]
    write_lines(out / "samples.jsonl", rows)
    answers = (chat_answer("one", ended=bool(gain), sample=True, written="Answer one."), chat_answer("two"))
    write_lines(out / "answers.jsonl", [asdict(answer) for answer in answers])
    of = {task: [row for row in rows if row["task"] == task] for task in ("piqa", "mmlu", "lambada_openai")}
    tasks = (
        _task(of["piqa"], "acc_norm"),
        _mmlu(of["mmlu"]),
        _task(of["lambada_openai"], "acc"),
        _task(of["lambada_openai"], "perplexity"),
    )
    _record(model, tasks=tasks, chat=answers, plain_text=(_loss("tale", [30.0 + gain, 62.5, 40.0]),)).save(out)


def _write_held_out(out: Path, hashes: Mapping[str, str]) -> None:
    for gain, side in enumerate(hashes):
        (out / side).mkdir()
        write_lines(out / side / "samples.jsonl", [])
        write_lines(out / side / "answers.jsonl", [])
        _record(hashes[side], held_out=(_loss("sums", [25.0 - gain, 60.0 - 2 * gain, 41.0]),)).save(out / side)


def _record(model: str, **parts: Any) -> EvalRecord:
    return EvalRecord(model=model, settings={"max_new_tokens": 256}, versions={}, **parts)


def _loss(source: str, losses: list[float]) -> HeldOutRecord:
    one = held_out_record(source, losses, [10, 20, 15])
    value, error = ratio_and_error(one.losses, one.tokens)
    return HeldOutRecord(**(asdict(one) | {"nats_per_token": value, "standard_error": error}))


def _row(task: str, part: str, number: int, **values: Any) -> dict[str, Any]:
    hashes = {f"{kind}_hash": f"{kind}-{part}-{number}" for kind in ("doc", "prompt", "target")}
    return {"task": task, "part": part, "surface": "raw", "num_fewshot": 0, "doc_id": number, **hashes, **values}


def _choice_row(task: str, part: str, number: int, right: int) -> dict[str, Any]:
    """Two choices, the first of them right; of equal log-likelihoods the longer one costs less a character."""
    scores = [-4.0, -60.0] if right else [-20.0, -24.0]
    outcomes = {"acc": 1.0, "acc_norm": 1.0 if right else 0.0}
    return _row(
        task, part, number, log_likelihoods=scores, is_greedy=[False, False], outcomes=outcomes,
        text="What?", choices=_CHOICES, target=0,
    )  # fmt: skip


def _word_row(number: int, score: float) -> dict[str, Any]:
    greedy = score > -4
    outcomes = {"acc": float(greedy), "perplexity": score}
    return _row(
        "lambada_openai", "lambada_openai", number,
        log_likelihoods=[score], is_greedy=[greedy], outcomes=outcomes, text="Once", choices=[], target=" upon",
    )  # fmt: skip


def _task(rows: list[dict[str, Any]], metric: str) -> TaskRecord:
    items = tuple(row["outcomes"][metric] for row in rows)
    value, error = mean_and_error(items)
    if metric == "perplexity":
        value, error = math.exp(-value), math.exp(-value) * error
    choices = tuple(len(row["choices"]) for row in rows if row["choices"])
    return TaskRecord(
        rows[0]["task"], metric, value, error, len(items), 0.5 if choices else None, items,
        **{f"{kind}_hashes": tuple(row[f"{kind}_hash"] for row in rows) for kind in ("doc", "prompt", "target")},
        num_choices=choices,
    )  # fmt: skip


def _mmlu(rows: list[dict[str, Any]]) -> TaskRecord:
    plain = asdict(_task(rows, "acc_norm"))
    names = [row["part"].removeprefix("mmlu_") for row in rows]
    scores = dict(zip(("value", "standard_error"), clustered_mean_and_error(plain["items"], names), strict=True))
    item_of = list(zip(plain["items"], names, strict=True))
    subjects = tuple(
        PartScore(name, group, *mean_and_error([item for item, own in item_of if own == name]), 2)
        for name, group in _SUBJECTS.items()
    )
    groups = []
    for group in dict.fromkeys(_SUBJECTS.values()):
        own = [(item, name) for item, name in item_of if _SUBJECTS[name] == group]
        groups.append(PartScore(group, group, *clustered_mean_and_error(*zip(*own, strict=True)), len(own)))
    return TaskRecord(**(plain | scores | {"subjects": subjects, "groups": tuple(groups)}))
