"""A file of results is read as it was meant, nothing in it is dropped, and what cannot be meant is refused in words."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genesis_sft.errors import InputError
from genesis_sft.report import read_table as module
from genesis_sft.report.read_table import read_table
from genesis_sft.report.scores import ScoreRow
from tests.report.records import eval_record, task_record

ONE = ScoreRow("piqa", "acc", 0.5359, 0.0116, 1838, 0.5, "0.5359")


Writer = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "results.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "task,metric,value,stderr,n,chance\npiqa,acc,0.5359,0.0116,1838,0.5\n",
        'chance;N;Std. Error;"Value";METRIC;Benchmark\n\n0.5; 1838; 0.0116; 0.5359; Accuracy; PIQA\n',
        "task\tmetric\tnote\tvalue\tstderr\tn\tchance\npiqa\tacc\ta, b\t0.5359\t0.0116\t1,838\t50 %\n",
        "\ufeffText.\n\n| Task | Metric | Value | ± error | n | chance |\n| --- | :-: | --: | --- | --- | --- |\n"
        "| **piqa** | `acc` | 0.5359 | ± 0.0116 | 1,838 | 50 % |\n\nAfter it | a bar.\n",
        "task | metric | value | stderr | n | chance\n-|-|-|-|-|-\npiqa | acc | 0.5359 | 1.16 % | 1838 | 0.5\n",
    ],
)
def test_the_same_row_in_every_kind_of_table(write: Writer, text: str) -> None:
    assert read_table(write(text)) == (ONE,)


@pytest.mark.parametrize(
    ("written", "value"),
    [("0.2594", 0.2594), ("25.94 %", 0.2594), ("25.94%", 0.2594), (".5", 0.5), ("**1**", 1.0), ("0", 0.0)],
)
def test_values_as_people_write_them(write: Writer, written: str, value: float) -> None:
    (row,) = read_table(write(f"task|metric|value\narc-c|acc norm|{written}\n"))
    assert (row.task, row.metric) == ("arc_challenge", "acc_norm")
    assert row.value == pytest.approx(value, rel=1e-12)


def test_a_perplexity_with_thousands_and_an_error_beside_the_value(write: Writer) -> None:
    rows = read_table(write('task,metric,value\nLAMBADA,ppl,"3,360,048"\nlambada_openai,Perplexity,1.5e12 ± 2e9\n'))
    assert rows == (
        ScoreRow("lambada_openai", "perplexity", 3360048.0, written="3,360,048"),
        ScoreRow("lambada_openai", "perplexity", 1.5e12, 2e9, written="1.5e12 ± 2e9"),
    )


def test_rows_without_one_number_are_kept(write: Writer) -> None:
    rows = read_table(
        write(
            "| task | metric | value |\n|--|--|--|\n| mmlu humanities / stem | acc | 0.2455 / 0.2750 |\n"
            "| gsm8k | exact_match | - |\n| humaneval |\n"
        )
    )
    assert [(row.task, row.value, row.written) for row in rows] == [
        ("mmlu humanities / stem", None, "0.2455 / 0.2750"),
        ("gsm8k", None, "-"),
        ("humaneval", None, ""),
    ]


def test_what_the_harness_prints(write: Writer) -> None:
    text = """\
hf (pretrained=export), gen_kwargs: (None), limit: None, num_fewshot: 0, batch_size: auto:2
|    Tasks     |Version|Filter|n-shot|  Metric  |   |   Value    |   |   Stderr   |
|--------------|------:|------|-----:|----------|---|-----------:|---|------------|
|arc_challenge |      1|none  |     0|acc       |↑  |      0.2133|±  |      0.0120|
|              |       |none  |     0|acc_norm  |↑  |      0.2594|±  |      0.0128|
|lambada_openai|      1|none  |     0|perplexity|↓  |3360048.0000|±  |191000.0000 |
|mmlu          |      2|none  |      |acc       |↑  |      0.2567|±  |         N/A|
| - stem       |      2|none  |      |acc       |↑  |      0.2750|±  |      0.0080|

|Groups|Version|Filter|n-shot|Metric|   |Value |   |Stderr|
|------|------:|------|------|------|---|-----:|---|------|
|mmlu  |      2|none  |      |acc   |↑  |0.2567|±  |   N/A|
"""
    assert [(row.task, row.metric, row.value, row.standard_error) for row in read_table(write(text))] == [
        ("arc_challenge", "acc", 0.2133, 0.0120),
        ("arc_challenge", "acc_norm", 0.2594, 0.0128),
        ("lambada_openai", "perplexity", 3360048.0, 191000.0),
        ("mmlu", "acc", 0.2567, None),
        ("stem", "acc", 0.2750, 0.0080),
    ]


def test_the_results_file_of_the_harness(write: Writer) -> None:
    values = {
        "results": {
            "piqa": {"alias": "piqa", "acc,none": 0.54, "acc_stderr,none": 0.05, "acc_norm,none": 0.5, "sample_len": 9},
            "lambada_openai": {"perplexity,none": 57, "perplexity_stderr,none": "N/A", "acc,none": 0.32},
            "mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "mmlu", " ": " "},
            "nested": {"mmlu_stem": {"acc,none": 0.3, "alias": " - stem"}},
            "old_style": {"acc": 0.5, "acc_stderr": 0.1, "ok": True, "nothing": None},
        },
        "groups": {"mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "mmlu"}},
        "group_subtasks": {"mmlu": ["mmlu_stem", "mmlu_other"], "mmlu_stem": ["mmlu_anatomy", "mmlu_virology"]},
        "n-samples": {
            "piqa": {"original": 1838, "effective": 100},
            "mmlu_anatomy": {"original": 135, "effective": 10},
            "mmlu_virology": {"original": 166, "effective": 20},
            "mmlu_other": {"original": 3107, "effective": 30},
        },
    }  # fmt: skip
    rows = read_table(write(json.dumps(values)))
    assert [(row.task, row.metric, row.value, row.standard_error, row.n) for row in rows] == [
        ("piqa", "acc", 0.54, 0.05, 100),
        ("piqa", "acc_norm", 0.5, None, 100),
        ("lambada_openai", "perplexity", 57.0, None, None),
        ("lambada_openai", "acc", 0.32, None, None),
        ("mmlu", "acc", 0.25, 0.01, 60),
        ("mmlu_stem", "acc", 0.3, None, 30),
        ("old_style", "acc", 0.5, 0.1, None),
    ]


@pytest.mark.parametrize(
    "members", [{"mmlu": ["mmlu"]}, {"mmlu": ["a"], "a": ["mmlu"]}, {"mmlu": 7}, [], {"mmlu": [7]}]
)
def test_groups_that_hold_themselves_have_no_number_of_items(write: Writer, members: object) -> None:
    values = {"results": {"mmlu": {"acc": 0.5}}, "group_subtasks": members, "n-samples": {"mmlu": {"effective": "x"}}}
    assert read_table(write(json.dumps(values)))[0].n is None


def test_a_group_whose_members_are_not_all_counted_has_no_number_of_items(write: Writer) -> None:
    values = {
        "results": {"mmlu": {"acc": 0.5}},
        "group_subtasks": {"mmlu": ["a", "b"]},
        "n-samples": {"a": {"effective": 10}},
    }
    assert read_table(write("\ufeff" + json.dumps(values)))[0].n is None


def test_our_own_record_brings_items_error_and_chance(tmp_path: Path) -> None:
    measured = task_record([1.0] * 30 + [0.0] * 20, chance=0.5)
    eval_record(tasks=(measured,)).save(tmp_path)
    expected = ScoreRow("piqa", "acc", 0.6, 0.1, 50, 0.5, "0.6")
    assert read_table(tmp_path / "record.json") == read_table(tmp_path) == (expected,)


def test_of_our_own_record_only_what_was_asked_as_plain_text_is_read(tmp_path: Path) -> None:
    raw, chat = task_record([1.0, 0.0]), task_record([1.0, 1.0], surface="chat")
    eval_record(tasks=(chat, raw)).save(tmp_path)
    assert [row.value for row in read_table(tmp_path)] == [0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "columns task, metric and value"),
        ("once upon a time", "columns task, metric and value"),
        ("task,metric\npiqa,acc\n", "columns task, metric and value"),
        ("task,metric,value\n", "found none"),
        (b"\xff\xfet\x00a\x00", "UTF-8"),
        (b"task,metric,value\npiqa,acc,0.5\0\n", "zero bytes"),
        ("task,metric,value\npiqa,acc,good\n", 'expected a number in line 2 .* found "good"'),
        ("task,metric,value\npiqa,acc,nan\n", 'finite number in line 2 .* found "nan"'),
        ("task,metric,value\nlambada,ppl,1e400\n", "finite number"),
        ("task,metric,value\npiqa,acc,53.59\n", "from 0 to 1 as acc of piqa .* found 53.59"),
        ("task,metric,value\npiqa,acc,-0.1\n", "from 0 to 1"),
        ("task,metric,value\nlambada,ppl,0.5\n", "at least 1 as perplexity"),
        ("task,metric,value,stderr\npiqa,acc,0.5,-1\n", "standard error of at least 0"),
        ("task,metric,value,chance\npiqa,acc,0.5,50\n", "the chance from 0 to 1"),
        ("task,metric,value,n\npiqa,acc,0.5,0\n", "number of items"),
        ("task,metric,value,n\npiqa,acc,0.5,10.5\n", "number of items"),
        ("task,metric,value\npiqa,acc,\x1b[31m\n", "found \"␛"),
        (f"task,metric,value\n{'x' * 200_000},acc,0.5\n", "cannot be read"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ('{"a": 1}', '"results"'),
        ("[1]", '"results"'),
        ('{"results": {}}', "found none"),
        ('{"results": {"piqa": {"acc,none": NaN}}}', "finite number"),
        ('{"results": {"piqa": {"acc,none": [1]}}}', "finite number"),
        ('{"results": {"piqa": {"acc,none": 1' + "0" * 400 + "}}}", "finite number"),
        ('{"version": 2, "tasks": [{"task": "piqa"}]}', "damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(write: Writer, content: str | bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_table(write(content))


def test_files_that_are_none_or_too_large(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "gone", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="there is none"):
            read_table(path)
    path = write("task,metric,value\n" + "".join(f"t{number},acc,0.5\n" for number in range(20)))
    monkeypatch.setattr(module, "MAX_SCORES", 19)
    with pytest.raises(InputError, match=r"expected 1 to 19 benchmark scores .* found 20"):
        read_table(path)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="found more"):
        read_table(path)


def test_the_same_row_twice_is_kept_once_and_another_value_is_kept(write: Writer) -> None:
    rows = read_table(write("task,metric,value\npiqa,acc,0.5\npiqa,acc,0.5\npiqa,acc,0.6\n"))
    assert [row.value for row in rows] == [0.5, 0.6]


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["acc", "acc,none", "acc_stderr", "mmlu", "effective", "piqa", ""]), inner)
    ),
    max_leaves=12,
)
_HOSTILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


@_HOSTILE
@given(results=_JSON, counts=_JSON, members=_JSON)
def test_any_json_gives_rows_or_an_error_in_words(
    write: Writer, results: object, counts: object, members: object
) -> None:
    values = {"results": {"piqa": results}, "n-samples": counts, "group_subtasks": members}
    _rows_or_refusal(write(json.dumps(values)))


@_HOSTILE
@given(
    lines=st.lists(st.lists(st.text(max_size=6) | st.floats().map(str), max_size=4), max_size=4),
    bar=st.sampled_from("|,\t"),
)
def test_any_table_gives_rows_or_an_error_in_words(write: Writer, lines: list[list[str]], bar: str) -> None:
    text = "\n".join([bar.join(("task", "metric", "value", "n")), *(bar.join(cells) for cells in lines)])
    _rows_or_refusal(write(text.encode(errors="replace")))


def _rows_or_refusal(path: Path) -> None:
    try:
        rows = read_table(path)
    except InputError:
        return
    assert rows
    assert all(row.value is None or math.isfinite(row.value) for row in rows)
