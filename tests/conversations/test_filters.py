"""A filter keeps, leaves out, says why, or fails: each is accounted for, and none stops the run."""

import hashlib
import json
import os
import sys

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
    assert set(row) == {"messages"}
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


def test_a_filter_sees_the_messages_only_and_long_answers_are_cut(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    (reject,) = clean(block("q"), Cleaning("s", "metamath", filters=(f"{path}:show",))).rejects
    seen = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}
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


def test_the_identity_of_filters_is_their_order_files_and_names_without_the_folder(tmp_path):
    for folder, program in (("a", PROGRAM), ("b", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(program)
    names = [f"{tmp_path}/a/mine.py:decide", f"{tmp_path}/b/mine.py:decide", f"{tmp_path}/a/mine.py:show"]
    sha256, other = (hashlib.sha256(program.encode()).hexdigest() for program in (PROGRAM, "other"))
    assert filter_identity(names) == {"1 mine.py:decide": sha256, "2 mine.py:decide": other, "3 mine.py:show": sha256}
    assert filter_identity(names[::-1]) == {
        "1 mine.py:show": sha256,
        "2 mine.py:decide": other,
        "3 mine.py:decide": sha256,
    }
    assert filter_identity([]) == {}


def test_a_file_that_changed_is_run_again_and_one_that_did_not_is_not(tmp_path):
    path = tmp_path / "own.py"
    cleaning = Cleaning("s", "metamath", filters=(f"{path}:keep", f"{path}:again"))
    again = "def again(row): return True\nprint('run')\n"
    for answer, kept in (("True ", 1), ("False", 0)):  # of one length, within one second: Python would not notice
        path.write_text(f"def keep(row): return {answer}\n{again}")
        os.utime(path, (1, 1))
        assert [len(clean(block("q"), cleaning).conversations) for _ in range(2)] == [kept, kept]


def test_what_a_filter_prints_goes_to_stderr(tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text("import sys\nprint('loaded')\ndef keep(row):\n    sys.stdout.write('asked ')\n    return True\n")
    for _ in range(2):
        clean(block("q", "r"), Cleaning("s", "metamath", filters=(f"{path}:keep",)))
    assert capsys.readouterr() == ("", "loaded\nasked asked asked asked ")
    assert sys.stdout is not sys.stderr


HOSTILE = r"""
class Silent(Exception):
    def __str__(self): raise ValueError

class Own(BaseException): pass

class Text(str):
    def __getitem__(self, key): raise ValueError
    def __str__(self): raise ValueError

class bool:
    def __bool__(self): raise Own("no")

class Shown:
    def __repr__(self): raise Own("no")

class Classless:
    @property
    def __class__(self): raise ValueError

def keep(row):
    question = row["messages"][0]["content"]
    found = {
        "silent": Silent(), "own": Own("x\ud800\n"), "generator": GeneratorExit(), "exit": SystemExit(),
        "surrogate": "bad \ud800\0", "text": Text("why"), "bool": bool(), "shown": Shown(), "class": Classless(),
    }[question]
    if issubclass(type(found), BaseException):
        raise found
    return found
"""


def test_whatever_a_filter_does_is_a_reject_that_can_be_written(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(HOSTILE)
    questions = ("silent", "own", "generator", "exit", "surrogate", "text", "bool", "shown", "class")
    cleaned = clean(block(*questions), Cleaning("s", "metamath", filters=(f"{path}:keep",)))
    found = {
        question: (reject.reason, reject.detail) for question, reject in zip(questions, cleaned.rejects, strict=True)
    }
    shown = found.pop("class")
    assert found == {
        "silent": ("filter failed", "own.py:keep raised Silent, which cannot be shown"),
        "own": ("filter failed", r"own.py:keep raised Own: x\ud800\n"),
        "generator": ("filter failed", "own.py:keep raised GeneratorExit: "),
        "exit": ("filter failed", "own.py:keep raised SystemExit: "),
        "surrogate": (r"filter: bad \ud800\x00", r"own.py:keep left the row out: bad \ud800\x00"),
        "text": ("filter: why", "own.py:keep left the row out: why"),
        "bool": ("filter failed", "own.py:keep raised Own: no"),
        "shown": ("filter failed", "own.py:keep raised Own: no"),
    }
    assert shown[0] == "filter failed"
    json.dumps([found, shown], ensure_ascii=False).encode()


def test_what_stops_the_run_while_a_filter_works_stops_it(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def keep(row): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        clean(block("q"), Cleaning("s", "metamath", filters=(f"{path}:keep",)))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("raise GeneratorExit", "own.py cannot be imported: GeneratorExit"),
        (
            "class Own(BaseException):\n    def __str__(self): raise ValueError\nraise Own",
            "imported: Own, which cannot",
        ),
    ],
)
def test_whatever_a_file_raises_is_a_clear_error(tmp_path, program, problem):
    (tmp_path / "own.py").write_text(program)
    with pytest.raises(DataError, match=problem):
        load_filter(f"{tmp_path}/own.py:keep")
