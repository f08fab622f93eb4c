"""lm-evaluation-harness's own samples become a record; the harness's own writer makes the files."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.loggers import EvaluationTracker

from genesis_sft.errors import InputError
from genesis_sft.report.compare import compare
from genesis_sft.report.read_record import read_pair, read_record
from genesis_sft.report.read_samples import read_samples
from tests.report.records import eval_record, held_out_record, task_record

DATE = "2026-08-21T10-11-12.345678"


def sample(doc_id: int, choices: int = 2, filter_name: str = "none", **outcomes: float) -> dict[str, Any]:
    return {
        "doc_id": doc_id, "doc": {"goal": "open a jar"}, "target": 0, "filter": filter_name,
        "arguments": [("Question", f" choice {number}") for number in range(choices)],
        "resps": [[(-1.5, False)]] * choices, "filtered_resps": [(-1.5, False)] * choices,
        "doc_hash": f"d{doc_id}", "prompt_hash": f"p{doc_id}", "target_hash": f"t{doc_id}",
        "metrics": list(outcomes), **outcomes,
    }  # fmt: skip


def write(folder: Path, samples: dict[str, list[dict[str, Any]]], date: str = DATE, **results: Any) -> Path:
    """Let the harness write samples, and results beside them; return the folder that --output_path names."""
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "some__model"
    tracker.date_id = date
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    if results:
        (folder / "some__model" / f"results_{date}.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_a_multiple_choice_task(tmp_path: Path) -> None:
    rows = [sample(1, acc=1.0, acc_norm=0.0), sample(0, choices=4, acc=0.0, acc_norm=1.0)]
    results = {"n-shot": {"piqa": 5}, "model_name": "some/model", "lm_eval_version": "0.4.9", "chat_template": None}
    record = read_samples(write(tmp_path, {"piqa": rows}, **results))
    [task] = record.tasks
    assert (task.task, task.metric, task.items) == ("piqa", "acc", (0.0, 1.0))  # by document; acc counts for piqa
    assert (task.chance, task.num_choices) == ((1 / 4 + 1 / 2) / 2, (4, 2))
    assert (task.surface, task.num_fewshot) == ("raw", 5)
    assert (task.doc_hashes, task.prompt_hashes, task.target_hashes) == (("d0", "d1"), ("p0", "p1"), ("t0", "t1"))
    assert (record.model, record.versions) == ("some/model", {"lm-eval": "0.4.9"})


def test_scores_of_another_data_type_are_refused(tmp_path: Path) -> None:
    rows = {"piqa": [sample(0, acc=1.0)]}
    folders = [
        write(tmp_path / dtype, rows, config={"model_dtype": f"torch.{dtype}"}) for dtype in ("float32", "bfloat16")
    ]
    with pytest.raises(InputError, match="the setting dtype has float32 in BEFORE and bfloat16 in AFTER"):
        compare(*read_pair(*folders))


def test_lambada_has_two_scores_and_no_chance(tmp_path: Path) -> None:
    rows = [sample(0, choices=1, acc=1.0, perplexity=-1.0), sample(1, choices=1, acc=0.0, perplexity=-3.0)]
    accuracy, perplexity = read_samples(write(tmp_path, {"lambada_openai": rows})).tasks
    assert (accuracy.value, accuracy.chance) == (0.5, None)
    assert (perplexity.items, perplexity.value) == ((-1.0, -3.0), pytest.approx(7.389, abs=1e-3))


def test_a_template_makes_it_the_chat_surface(tmp_path: Path) -> None:
    [task] = read_samples(write(tmp_path, {"piqa": [sample(0, acc=1.0)]}, chat_template="{{ messages }}")).tasks
    assert task.surface == "chat"


def test_subjects_become_mmlu_with_its_groups(tmp_path: Path) -> None:
    rows = {
        "mmlu_virology": [sample(0, 4, acc=1.0)],
        "mmlu_anatomy": [sample(0, 4, acc=0.0), sample(1, 4, acc=1.0)],
        "mmlu_philosophy": [sample(0, 4, acc=1.0)],
    }
    [task] = read_samples(write(tmp_path, rows)).tasks
    assert (task.task, task.n, task.chance) == ("mmlu", 4, 0.25)
    assert [(one.name, one.group, one.n) for one in task.subjects] == [
        ("anatomy", "stem", 2),
        ("philosophy", "humanities", 1),
        ("virology", "other", 1),
    ]
    assert [(one.name, one.value) for one in task.groups] == [("stem", 0.5), ("humanities", 1.0), ("other", 1.0)]


def test_of_several_dates_the_newest_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"piqa": [sample(0, acc=0.0)]}, "2026-08-21T10-11-12.345678")
    write(tmp_path, {"piqa": [sample(0, acc=1.0)]}, "2026-09-01T00-00-00.000001")
    assert read_samples(tmp_path).tasks[0].items == (1.0,)
    assert "of piqa there are several dates, the newest is read" in capsys.readouterr().err


def test_of_several_filters_the_plain_one_is_read(tmp_path: Path) -> None:
    rows = [sample(0, filter_name="strict", acc=1.0), sample(0, acc=0.0)]
    assert read_samples(write(tmp_path, {"piqa": rows})).tasks[0].items == (0.0,)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link"])
def test_only_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "samples_piqa_2026-09-01T00-00-00.000001.jsonl"  # newer than the file beside it
    if kind == "pipe":
        os.mkfifo(path)
        handle = os.open(path, os.O_RDWR)
        os.write(handle, b"{\n")  # who reads it shall not wait for ever
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"expected samples_\*\.jsonl"):
        read_samples(tmp_path)
    row = json.dumps(sample(0, acc=1.0)) + "\n"
    (tmp_path / f"samples_piqa_{DATE}.jsonl").write_text(row, encoding="utf-8")
    assert read_samples(tmp_path).tasks[0].items == (1.0,)
    if kind == "pipe":
        os.close(handle)


@pytest.mark.parametrize("value", [10**400, -(10**400), -1e308, 1e101, float("inf")])
def test_a_number_too_large_to_be_added_up_is_refused(tmp_path: Path, value: float) -> None:
    for metric in ("acc", "perplexity"):
        rows = [sample(number, 1, **{metric: value}) for number in range(3)]
        with pytest.raises(InputError, match=r"line 1, found one with a bad field: .* is no number from") as refused:
            read_samples(write(tmp_path / metric, {"lambada_openai": rows}))
        assert "0" * 100 not in str(refused.value)  # it is cut


def test_a_file_damaged_from_its_first_line_on(tmp_path: Path) -> None:
    (tmp_path / f"samples_piqa_{DATE}.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="after line 0, found"):
        read_samples(tmp_path)


def test_a_task_of_its_own_counts_where_items_are_right_or_wrong(tmp_path: Path) -> None:
    rows = {"mine": [sample(0, 3, acc=1.0, f1=0.4)], "loss": [sample(0, 1, bits=3.2)]}
    assert [(one.task, one.metric) for one in read_samples(write(tmp_path, rows)).tasks] == [("mine", "acc")]


def test_a_record_of_ours_is_compared_with_one_of_the_harness(tmp_path: Path) -> None:
    docs = ("d0", "d1")
    ours = eval_record(tasks=(task_record([1.0, 1.0], docs=docs, prompt_hashes=("p0", "p1")),))
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours")
    theirs = write(tmp_path / "theirs", {"piqa": [sample(0, acc=0.0), sample(1, acc=1.0)]})
    [change] = compare(*read_pair(tmp_path / "ours", theirs)).tasks
    assert (change.to_right, change.to_wrong) == (0, 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "after line 1"),
        ("[1]", "no object"),
        ("{}", "line 2, found one with a bad field: 'doc_id'"),
        (
            json.dumps(sample(1, acc=float("nan"))),
            "line 2, found one with a bad field: nan is no number from -1e+100 to 1e+100",
        ),
        (json.dumps(sample(1) | {"metrics": ["acc"]}), "line 2, found one with a bad field: 'acc'"),
        (json.dumps(sample(0, acc=1.0)), "another document at"),
        (json.dumps({key: value for key, value in sample(1, acc=1.0).items() if key != "doc_hash"}), "'doc_hash'"),
        ("[" * 100_000, "after line 1"),
        ('"\udcff"', "after line 1"),  # not UTF-8
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    write(tmp_path, {"piqa": [sample(0, acc=1.0)]})
    [file] = (tmp_path / "some__model").iterdir()
    file.write_bytes(file.read_bytes() + line.encode("utf-8", errors="surrogateescape") + b"\n")
    with pytest.raises(InputError) as refused:
        read_samples(tmp_path)
    assert says in str(refused.value)
    assert file.name in str(refused.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from([*sample(0, acc=1.0)]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.text(max_size=2)),
        max_size=4,
    )
)
def test_hostile_lines_give_a_record_or_a_message(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / f"samples_piqa_{DATE}.jsonl").write_text(
        json.dumps(sample(0, acc=1.0) | fields) + "\n", encoding="utf-8"
    )
    with suppress(InputError):  # any other exception fails
        record = read_samples(tmp_path)
        compare(record, record)


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an evaluation record at .*record\.json"):
        read_record(tmp_path)
    with pytest.raises(InputError, match=r"expected samples_\*\.jsonl"):
        read_samples(tmp_path)


def test_the_sides_of_a_run_have_their_held_out_loss(tmp_path: Path) -> None:
    for side, loss in (("before", 4.0), ("after", 2.0)):
        for folder, fields in ((side, {}), (f"held_out/{side}", {"held_out": (held_out_record("mine", [loss], [2]),)})):
            (tmp_path / folder).mkdir(parents=True)
            eval_record(**fields).save(tmp_path / folder)
    total = compare(*read_pair(tmp_path / "before", tmp_path / "after")).held_out_total
    assert total is not None
    assert (total.before, total.after) == (2.0, 1.0)
    # against an evaluation that has none, nothing is to be compared
    (tmp_path / "elsewhere").mkdir()
    eval_record().save(tmp_path / "elsewhere")
    assert compare(*read_pair(tmp_path / "before", tmp_path / "elsewhere")).held_out_total is None
