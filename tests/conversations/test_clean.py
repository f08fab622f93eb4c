"""Every row of a block becomes a conversation or a reject, and the format is found from the first rows."""

import gc
import json

import pytest

from genesis_sft.conversations.clean import Cleaning, clean, find_format, read_conversations
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.reading import open_source
from genesis_sft.errors import DataError
from genesis_sft.recipe import SourceSection

ROWS = [{"query": f"what is\u2028{n}?", "response": f"{n}."} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def source(path, **fields):
    return SourceSection(name="mine", path=str(path), **fields)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_become_conversations_and_the_others_are_accounted_for(tmp_path):
    write(tmp_path / "1.jsonl", f"{LINES}\nnot json\n")
    write(tmp_path / "2.jsonl", '{"query": "a", "response": ""}\n[1]\n{"query": "a", "response": "b"}\n')
    opened = open_source(source(tmp_path / "*.jsonl"))
    one, two = (clean(block, Cleaning("mine", find_format(opened))) for block in opened.blocks())
    assert one.conversations == [
        Conversation((Message("user", row["query"]), Message("assistant", row["response"])), "mine", number)
        for number, row in enumerate(ROWS)
    ]
    assert [(r.file, r.row, r.line, r.reason) for r in one.rejects] == [("1.jsonl", 4, 5, "not JSON")]
    assert one.rejects[0].detail == "expected one JSON object, found bad JSON: Expecting value (column 1)"
    assert [conversation.row for conversation in two.conversations] == [7]
    assert [(r.file, r.row, r.line, r.reason, r.detail) for r in two.rejects] == [
        ("2.jsonl", 5, 1, "empty content", "expected text in message 1 (assistant), found ''"),
        ("2.jsonl", 6, 2, "wrong type", "expected the row to be an object, found a list [1]"),
    ]
    assert (one.rows_read, two.rows_read) == (4, 3)


def test_pythons_garbage_collector_is_left_as_it_was(tmp_path):
    (block,) = open_source(source(write(tmp_path / "a.jsonl", LINES))).blocks()
    assert gc.isenabled()
    clean(block, Cleaning("mine", "metamath"))
    with pytest.raises(DataError, match="expected a Python file"):
        clean(block, Cleaning("mine", "metamath", filters=(f"{tmp_path}/none.py:keep",)))
    assert gc.isenabled()


def test_rows_that_are_no_lines_have_none(tmp_path):
    opened = open_source(source(write(tmp_path / "a.json", '[{"query": "a", "response": "b"}, 3]')))
    (block,) = opened.blocks()
    (reject,) = clean(block, Cleaning("mine", "metamath")).rejects
    assert (reject.row, reject.line, reject.reason) == (1, None, "wrong type")


def test_reasons_and_details_of_rejects_are_printable(tmp_path):
    lines = json.dumps({"messages": [{"role": "\ud800\n", "content": "a"}]}) + "\n" + '{"a\x00": 1, "b\\udc00": \x1b}\n'
    path = write(tmp_path / "a.jsonl", lines)
    (tmp_path / "own.py").write_text('def keep(row): return "zu\\nkurz \\ud800\\x1b[1m\\u2028, 短い"')
    good = json.dumps(ROWS[0])
    (block,) = open_source(source(write(path, f"{lines}{good}\n"))).blocks()
    rejects = [
        *clean(block, Cleaning("mine", "messages")).rejects,
        *clean(block, Cleaning("mine", "metamath", filters=(f"{tmp_path}/own.py:keep",))).rejects,
    ]
    assert len(rejects) == 6
    assert all(reject.reason.isprintable() and reject.detail.isprintable() for reject in rejects)
    assert rejects[-1].reason == r"filter: zu\nkurz \ud800\x1b[1m\u2028, 短い"


def test_repairs_are_counted_by_the_conversations_they_made_and_strict_makes_none(tmp_path):
    def row(*roles):
        return json.dumps({"messages": [{"role": role, "content": role[0]} for role in roles]}) + "\n"

    lines = [
        row("user", "assistant"),
        row("user", "user", "assistant", "user"),
        row("assistant", "user", "assistant"),
        row("user", "user", "assistant", "system", "user"),
    ]
    (block,) = open_source(source(write(tmp_path / "a.jsonl", "".join(lines)))).blocks()
    strict = clean(block, Cleaning("mine", "messages"))
    assert [reject.reason for reject in strict.rejects] == [
        "turns do not alternate",
        "turns do not alternate",
        "turns do not alternate",
    ]
    assert strict.repaired == {}
    repaired = clean(block, Cleaning("mine", "messages", "repair"))
    assert [conversation.row for conversation in repaired.conversations] == [0, 1, 2]
    assert repaired.conversations[1].messages == (Message("user", "u\n\nu"), Message("assistant", "a"))
    # row 3 is no conversation even so: what was repaired in it does not count
    assert [(reject.row, reject.reason) for reject in repaired.rejects] == [(3, "system not first")]
    assert repaired.repaired == {
        "merged turns": 1,
        "question after the last answer dropped": 1,
        "answer before the first question dropped": 1,
    }


def test_the_first_row_that_is_a_conversation_tells_the_format(tmp_path):
    lines = [
        "broken",
        '{"text": "a"}',
        '{"instruction": "a", "output": ""}',
        '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}',
        '{"query": "a", "response": "b"}',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert find_format(open_source(source(path))) == "sharegpt"
    assert find_format(open_source(source(path, format="metamath"))) == "metamath"
    write(path, "\n".join(lines[:3]))
    assert find_format(open_source(source(path))) == "alpaca"
    two_questions = '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "a"}, %s]}'
    write(path, lines[2] + "\n" + two_questions % '{"role": "assistant", "content": "a"}')
    assert find_format(open_source(source(path, turns="repair"))) == "messages"


def test_where_no_format_fits_the_keys_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", 'broken\n{"prompt": "a", "completion": "b"}\n{"text": "c"}\n')
    with pytest.raises(DataError) as caught:
        find_format(open_source(source(path)))
    assert str(caught.value) == (
        "source mine: a.jsonl: expected the keys of a known format: messages (messages); conversations (sharegpt); "
        "instruction and output (alpaca); query and response (metamath); found the keys: completion, prompt"
    )
    assert caught.value.hint is not None
    for content, problem in (("\n", "expected rows, found none"), ("x", "expected one JSON object")):
        with pytest.raises(DataError, match=f"source mine: a.jsonl: {problem}"):
            find_format(open_source(source(write(path, content))))


def test_only_the_first_thousand_rows_tell_the_format(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n' * 999 + LINES)
    assert find_format(open_source(source(path))) == "metamath"
    write(path, '{"text": "a"}\n' * 1000 + LINES)
    with pytest.raises(DataError, match="found the keys: text"):
        find_format(open_source(source(path)))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"query": }', "expected one JSON object, found bad JSON: Expecting value (column 11)"),
        (b'{"query": "\xff"}', "expected UTF-8 text, found byte 0xFF at byte 11 of the line"),
        (b'["a"]', "expected the row to be an object, found a list ['a']"),
        (b"[" * 100_000, "expected one JSON object, found bad JSON: "),
        (b'{"query": "a", "response": ""}', "expected text in message 1 (assistant), found ''"),
        (b'{"query": "\\ud800", "response": "b"}', "half of a surrogate pair (U+D800) at character 0"),
    ],
)
def test_a_bad_line_names_source_file_row_and_line(tmp_path, line, problem):
    path = write(tmp_path / "a.jsonl", LINES.encode() + line + b"\n")
    with pytest.raises(BadRow) as caught:
        list(read_conversations(source(path)))
    assert str(caught.value).startswith(f"source mine: {path}, row 3 (line 4): ")
    assert problem in str(caught.value)


def test_conversations_are_read_in_order(tmp_path):
    conversations = list(read_conversations(source(write(tmp_path / "a.jsonl", LINES))))
    assert [(c.row, c.source, c.first_user_text) for c in conversations] == [
        (number, "mine", row["query"]) for number, row in enumerate(ROWS)
    ]
    assert list(read_conversations(source(write(tmp_path / "a.jsonl", "")))) == []


@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k", 5_981), ("gpteacher-code", 3_664), ("gpteacher-roleplay", 1_512), ("hh-harmless", 1_164)],
)
def test_every_real_row_is_a_conversation(shared_data, name, rows):
    section = source(shared_data / "sft" / f"{name}.jsonl.gz")
    assert sum(1 for _ in read_conversations(section)) == rows
