"""Ten thousand malformed rows of every kind among good ones: none is lost, none crashes, each has its reason."""

import gzip
import json
import random

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from genesis_sft.conversations.clean import Cleaning, clean
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.formats import FORMATS
from genesis_sft.conversations.reading import Block, open_source
from genesis_sft.recipe import SourceSection

NUM_BAD = 10_000
BLOCK_BYTES = 20_000
USER, ANSWER = {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4"}

# rows that JSON can hold, and what is wrong with them
OBJECTS = {
    "no fields": ({}, "no messages"),
    "no messages": ({"text": "a"}, "no messages"),
    "messages null": ({"messages": None}, "wrong type"),
    "messages not a list": ({"messages": {"role": "user"}}, "wrong type"),
    "messages text": ({"messages": "Hello"}, "wrong type"),
    "empty list": ({"messages": []}, "no messages"),
    "turn not an object": ({"messages": [USER, "4"]}, "wrong type"),
    "turn null": ({"messages": [None, ANSWER]}, "wrong type"),
    "no role": ({"messages": [{"content": "a"}, ANSWER]}, "no role"),
    "unknown role": ({"messages": [{"role": "human", "content": "a"}, ANSWER]}, "unknown role"),
    "tool role": ({"messages": [USER, ANSWER, {"role": "tool", "content": "a"}]}, "unknown role"),
    "role wrong type": ({"messages": [{"role": 1, "content": "a"}, ANSWER]}, "unknown role"),
    "role null": ({"messages": [{"role": None, "content": "a"}, ANSWER]}, "unknown role"),
    "role an object": ({"messages": [{"role": {"user": []}, "content": "a"}, ANSWER]}, "unknown role"),
    "content missing": ({"messages": [USER, {"role": "assistant"}]}, "no content"),
    "content null": ({"messages": [USER, {"role": "assistant", "content": None}]}, "wrong type"),
    "content a number": ({"messages": [USER, {"role": "assistant", "content": 4}]}, "wrong type"),
    "content in parts": ({"messages": [{"role": "user", "content": [{"type": "text"}]}, ANSWER]}, "wrong type"),
    "content empty": ({"messages": [USER, {"role": "assistant", "content": ""}]}, "empty content"),
    "content blank": ({"messages": [USER, {"role": "assistant", "content": " \u2003\n"}]}, "empty content"),
    "only reasoning": ({"messages": [USER, {"role": "assistant", "content": "<think>4</think>"}]}, "empty content"),
    "two questions": ({"messages": [USER, USER, ANSWER]}, "turns do not alternate"),
    "two answers": ({"messages": [USER, ANSWER, ANSWER]}, "turns do not alternate"),
    "answer first": ({"messages": [ANSWER, USER, ANSWER]}, "turns do not alternate"),
    "ends with user": ({"messages": [USER, ANSWER, USER]}, "ends with user"),
    "only user": ({"messages": [USER]}, "ends with user"),
    "only system": ({"messages": [{"role": "system", "content": "Be brief."}]}, "no messages"),
    "system in the middle": ({"messages": [USER, {"role": "system", "content": "s"}, ANSWER]}, "system not first"),
    "surrogate in content": ({"messages": [{"role": "user", "content": "a\ud83d"}, ANSWER]}, "lone surrogate"),
    "surrogate in reasoning": ({"messages": [USER, {**ANSWER, "reasoning": "\udc00"}]}, "lone surrogate"),
    "reasoning on user": ({"messages": [{**USER, "reasoning": "r"}, ANSWER]}, "reasoning not on assistant"),
    "reasoning a number": ({"messages": [USER, {**ANSWER, "reasoning": 7}]}, "wrong type"),
    "train a word": ({"messages": [USER, {**ANSWER, "train": "yes"}]}, "wrong type"),
    "weight over one": ({"messages": [USER, {**ANSWER, "weight": 2}]}, "wrong type"),
    "fields contradict": ({"messages": [USER, {**ANSWER, "weight": 0, "train": True}]}, "contradicting fields"),
    "a list": ([USER, ANSWER], "wrong type"),
    "a number": (4, "wrong type"),
    "a text": ("messages", "wrong type"),
    "null": (None, "wrong type"),
    "not a number": (float("nan"), "wrong type"),
    "a huge number": (10**400, "wrong type"),
    "a huge number as content": ({"messages": [USER, {"role": "assistant", "content": 10**400}]}, "wrong type"),
}

# lines that are no JSON; what makes them so is gone in any other kind of file
LINES = {
    "bad JSON": (b'{"messages": }', "not JSON"),
    "Python": (b"{'messages': []}", "not JSON"),
    "two objects": (b"{} {}", "not JSON"),
    "cut off": (json.dumps({"messages": [USER, ANSWER]}).encode()[:-9], "not JSON"),
    "a control character": (b'{"messages": [{"role": "user", "content": "a\x01b"}]}', "not JSON"),
    "NUL bytes": (b"\x00" * 40, "not JSON"),
    "a bad escape": (b'{"messages": "\\x41"}', "not JSON"),
    "byte order mark": (b'\xef\xbb\xbf{"messages": []}', "not JSON"),
    "UTF-16": ('{"messages": []}'.encode("utf-16-le"), "not JSON"),
    "Latin-1": ('{"messages": "é"}'.encode("latin-1"), "not UTF-8"),
    "overlong UTF-8": (b'{"messages": "\xc0\x80"}', "not UTF-8"),
    "UTF-8 of a surrogate": (b'{"messages": "\xed\xa0\x80"}', "not UTF-8"),
    "cut within a character": ("😀".encode()[:3], "not UTF-8"),
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
    "deep objects": (b'{"messages":' * 50_000, "not JSON"),
    "too many digits": (b'{"messages": ' + b"7" * 5000 + b"}", "not JSON"),
}
LARGE = {"deep lists", "deep objects"}  # a few of them will do


def make_rows(kinds, seed):
    """Return (bytes of the row, expected reason or None, expected messages or None) of bad rows among good ones."""
    random_ = random.Random(seed)
    names = sorted(kinds)
    rows = []
    for number in range(NUM_BAD):
        name = names[number % len(names)]
        if name in LARGE and number >= 10 * len(names):
            name = "bad JSON"
        line, reason = kinds[name]
        rows.append((line if isinstance(line, bytes) else json.dumps(line).encode(), reason, None))
    for number in range(2_000):
        text = "".join(random_.choices('ab \n\r\t\x00é漢😀\u2028<|im_end|>\\"', k=20))
        messages = (
            Message("user", f"{number}{text}"),
            Message("assistant", f"{text}{number}", train=number % 3 == 0 or None),
        )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        turns[1] |= {"train": True} if messages[1].train else {}
        rows.append((json.dumps({"messages": turns}, ensure_ascii=number % 2 == 0).encode(), None, messages))
    random_.shuffle(rows)
    return rows


def check(path, rows):
    conversations, rejects = [], []
    for block in open_source(SourceSection(name="s", path=str(path))).blocks(BLOCK_BYTES):
        cleaned = clean(block, Cleaning("s", "messages"))
        assert cleaned.rows_read == len(cleaned.conversations) + len(cleaned.rejects)
        conversations += cleaned.conversations
        rejects += cleaned.rejects
    expected = {number: reason for number, (_, reason, _) in enumerate(rows) if reason is not None}
    assert {reject.row: reject.reason for reject in rejects} == expected
    assert [reject.row for reject in rejects] == sorted(expected)
    for reject in rejects:
        assert len(reject.detail) < 400
        assert json.loads(json.dumps(reject.detail, ensure_ascii=True).encode()) == reject.detail
    good = [Conversation(messages, "s", number) for number, (_, _, messages) in enumerate(rows) if messages is not None]
    assert conversations == good
    assert (len(rejects), len(conversations)) == (NUM_BAD, 2_000)


@pytest.fixture(scope="module")
def lines():
    kinds = {**OBJECTS, **LINES}
    assert len(kinds) == 58
    return make_rows(kinds, seed=0)


@pytest.mark.parametrize(
    ("ending", "pack"), [("jsonl", bytes), ("jsonl.gz", gzip.compress), ("jsonl.zst", zstandard.compress)]
)
def test_lines(tmp_path, lines, ending, pack):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(pack(b"\n".join(line for line, _, _ in lines)))
    check(path, lines)


def test_elements_of_an_array(tmp_path):
    rows = make_rows(OBJECTS, seed=1)
    path = tmp_path / "a.json"
    path.write_bytes(b"[\n" + b",\n".join(line for line, _, _ in rows) + b"\n]\n")
    check(path, rows)


def test_rows_of_parquet(tmp_path):
    """Arrow has one type a column: only what is wrong within the texts and turns can be wrong there."""
    names = (
        "messages null",
        "empty list",
        "unknown role",
        "tool role",
        "content empty",
        "content blank",
        "two questions",
    )
    names += ("only reasoning", "two answers", "answer first", "ends with user", "only user", "only system")
    names += ("system in the middle", "turn null", "role null", "content null", "weight over one", "fields contradict")
    rows = make_rows({name: OBJECTS[name] for name in names}, seed=2)
    turn = {"role": pa.string(), "content": pa.string(), "train": pa.bool_(), "weight": pa.int8()}
    schema = pa.schema({"messages": pa.list_(pa.struct(turn))})
    table = pa.Table.from_pylist([json.loads(line) for line, _, _ in rows], schema)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=777)
    check(tmp_path / "a.parquet", rows)


FIELDS = (
    *("messages", "conversations", "instruction", "input", "output", "query", "response", "system_prompt"),
    *("role", "content", "from", "value", "reasoning", "thinking", "train", "training", "weight", "other"),
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "system", "human", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(values, st.sampled_from(sorted(FORMATS)), st.sampled_from(["strict", "repair"]))
def test_any_value_is_a_conversation_or_has_a_reason(value, name, turns):
    block = Block(0, 3, "a.jsonl", 0, "line", "lines", json.dumps(value).encode(), 0)
    cleaned = clean(block, Cleaning("s", name, turns))
    assert [row.row for row in (*cleaned.conversations, *cleaned.rejects)] == [3]


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=5))
def test_any_bytes_are_conversations_or_have_a_reason(lines):
    block = Block(0, 3, "a.jsonl", 0, "line", "lines", b"\n".join(lines), 0)
    cleaned = clean(block, Cleaning("s", "messages"))
    assert [reject.row for reject in cleaned.rejects] == [3 + row for row, line in enumerate(lines) if line.strip()]
    assert cleaned.conversations == []
