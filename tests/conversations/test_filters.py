"""A filter keeps, leaves out, says why, or fails: each is accounted for, and none stops the run."""

import hashlib

import pytest

from genesis_sft.conversations.clean import Cleaning, clean
from genesis_sft.conversations.filters import filter_identity, load_filter
from genesis_sft.conversations.reading import Block
from genesis_sft.errors import DataError

PROGRAM = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Seen:
    row: dict

def decide(row):
    Seen(row)
    assert set(row) == {"messages", "source", "row"}
    question = row["messages"][0]["content"]
    return {"keep": True, "drop": False, "why": "too short", "nothing": None, "number": 1}[question]

def show(row):
    return repr(row)

def leave(row):
    raise SystemExit("enough " + "x" * 1000)

not_callable = 3
"""


def block(*questions):
    lines = "".join(f'{{"query": "{question}", "response": "r"}}\n' for question in questions)
    return Block(0, 10, "a.jsonl", 0, "line", "lines", lines.encode(), 0)


def test_every_answer_of_a_filter(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    cleaning = Cleaning("s", "metamath", filters=(f"{path}:decide",))
    cleaned = clean(block("keep", "drop", "why", "nothing", "number", "unknown"), cleaning)
    assert [conversation.row for conversation in cleaned.conversations] == [10]
    assert [(reject.row, reject.reason, reject.detail) for reject in cleaned.rejects] == [
        (11, "filter decide", "mine.py:decide left the row out"),
        (12, "filter: too short", "mine.py:decide left the row out: too short"),
        (13, "filter failed", "expected True, False or a reason from mine.py:decide, found None"),
        (14, "filter failed", "expected True, False or a reason from mine.py:decide, found 1"),
        (15, "filter failed", "mine.py:decide raised KeyError: 'unknown'"),
    ]


def test_a_filter_sees_messages_source_and_row_and_long_answers_are_cut(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    (reject,) = clean(block("q"), Cleaning("s", "metamath", filters=(f"{path}:show",))).rejects
    seen = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
        "source": "s",
        "row": 10,
    }
    assert reject.reason == f"filter: {repr(seen)[:100]}"
    (reject,) = clean(block("q"), Cleaning("s", "metamath", filters=(f"{path}:leave",))).rejects
    assert reject.reason == "filter failed"
    assert reject.detail == f"mine.py:leave raised SystemExit: {('enough ' + 'x' * 1000)[:100]}"


def test_the_first_filter_that_says_no_is_the_reason(tmp_path):
    path = tmp_path / "two.py"
    path.write_text("def yes(row): return True\ndef no(row): return False\ndef never(row): raise ValueError\n")
    cleaning = Cleaning("s", "metamath", filters=tuple(f"{path}:{name}" for name in ("yes", "no", "never")))
    assert [reject.reason for reject in clean(block("q"), cleaning).rejects] == ["filter no"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.py:keep", r"filter none.py:keep: expected a Python file at .*none.py, found none"),
        (".:keep", "expected a Python file at .*, found a folder"),
        ("mine.py", "expected a filter such as my_filters.py:keep_english, found .*"),
        ("mine.py:a b", "expected a filter such as my_filters.py:keep_english, found .*"),
        ("mine.py:absent", "filter mine.py:absent: expected a function absent in .*mine.py, found none"),
        ("mine.py:not_callable", "filter mine.py:not_callable: expected not_callable to be a function, found 3"),
        ("raises.py:keep", "raises.py cannot be imported: ZeroDivisionError: division by zero"),
        ("exits.py:keep", "exits.py cannot be imported: SystemExit: 3"),
        ("syntax.py:keep", "syntax.py cannot be imported: SyntaxError"),
        ("text.txt:keep", r"expected a filter's file to end in .py, found text.txt"),
    ],
)
def test_what_cannot_be_loaded_stops_the_run_and_says_why(tmp_path, name, problem):
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "syntax.py").write_text("def")
    (tmp_path / "text.txt").write_text(PROGRAM)
    with pytest.raises(DataError, match=problem):
        load_filter(f"{tmp_path}/{name}")


def test_the_identity_of_a_filter_is_its_file_and_its_name_without_the_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PROGRAM)
    names = [f"{tmp_path}/a/mine.py:decide", f"{tmp_path}/b/mine.py:decide", f"{tmp_path}/a/mine.py:show"]
    sha256 = hashlib.sha256(PROGRAM.encode()).hexdigest()
    assert filter_identity(names) == {"mine.py:decide": sha256, "mine.py:show": sha256}
    (tmp_path / "b" / "mine.py").write_text("other")
    with pytest.raises(DataError, match=r"two filters are both called mine.py:decide"):
        filter_identity(names)
