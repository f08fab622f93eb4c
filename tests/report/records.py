"""Small records for the tests of the report; what a test does not name is plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord
from genesis_sft.evals.task_record import TaskRecord
from genesis_sft.report.changes import TaskChange


def task_record(items: Sequence[float], *, docs: Sequence[str] = (), **fields: Any) -> TaskRecord:
    metric = fields.get("metric", "acc")
    mean = sum(items) / len(items)
    values: dict[str, Any] = {
        "task": "piqa",
        "metric": metric,
        "value": math.exp(-mean) if metric == "perplexity" else mean,
        "standard_error": 0.1,
        "n": len(items),
        "chance": None if metric == "perplexity" else 0.25,
        "items": tuple(items),
        "doc_hashes": tuple(docs) or tuple(f"doc{index}" for index in range(len(items))),
    }
    return TaskRecord(**(values | fields))


def held_out_record(
    source: str, losses: Sequence[float], tokens: Sequence[int], num_bytes: Sequence[int] = ()
) -> HeldOutRecord:
    return HeldOutRecord(
        source=source,
        nats_per_token=sum(losses) / sum(tokens),
        standard_error=0.1,
        n_tokens=sum(tokens),
        n_conversations=len(tokens),
        rows=tuple(range(len(tokens))),
        losses=tuple(losses),
        tokens=tuple(tokens),
        num_bytes=tuple(num_bytes),
    )


def chat_answer(name: str, **fields: Any) -> ChatAnswer:
    values: dict[str, Any] = {
        "id": name,
        "messages": ({"role": "user", "content": f"Question {name}?"},),
        "answer": f"Answer {name}.",
        "reasoning": None,
        "ended": True,
        "num_tokens": 5,
        "sample": False,
    }
    return ChatAnswer(**(values | fields))


def eval_record(**fields: Any) -> EvalRecord:
    values: dict[str, Any] = {"model": "0" * 64, "settings": {"max_new_tokens": 256}, "versions": {}}
    return EvalRecord(**(values | fields))


def task_change(**fields: Any) -> TaskChange:
    """A benchmark that rose clearly: 40 % to 50 % with an error of 2 points."""
    values: dict[str, Any] = {
        "task": "piqa",
        "metric": "acc",
        "unit": "share",
        "n": 1000,
        "before": 0.4,
        "after": 0.5,
        "before_standard_error": 0.015,
        "after_standard_error": 0.016,
        "difference": 0.1,
        "standard_error": 0.02,
        "chance": 0.25,
        "before_above_chance": True,
        "after_above_chance": True,
        "to_right": 150,
        "to_wrong": 50,
        "p_value": 0.001,
        "low": 0.06,
        "high": 0.14,
        "p_holm": 0.002,
        "smallest_visible": 0.056,
    }
    return TaskChange(**(values | fields))
