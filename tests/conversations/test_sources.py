"""Files and Hub data sets are read row by row; what cannot be read says where, and what to do."""

import gzip
import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet

from genesis_sft.conversations import hub
from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.sources import read_conversations, read_rows, source_identity
from genesis_sft.errors import AssetError, DataError
from genesis_sft.recipe import SourceSection

ROWS = [{"query": f"what is\u2028{n}?", "response": f"{n}."} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def source(path, **fields):
    return SourceSection(name="mine", path=str(path), **fields)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_all_kinds_of_files_give_the_same_rows(tmp_path):
    write(tmp_path / "a.jsonl", LINES)
    write(tmp_path / "a.jsonl.gz", gzip.compress(LINES.encode()))
    write(tmp_path / "a.json", json.dumps(ROWS))
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"):
        assert list(read_rows(tmp_path / name)) == list(enumerate(ROWS)), name
        conversations = list(read_conversations(source(tmp_path / name)))
        assert [(c.row, c.source, c.first_user_text) for c in conversations] == [
            (0, "mine", "what is\u20280?"),
            (1, "mine", "what is\u20281?"),
            (2, "mine", "what is\u20282?"),
        ]


def test_messages_survive_parquet_with_its_null_fields(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "c"}]
    parquet.write_table(pa.Table.from_pylist([{"messages": messages}]), tmp_path / "a.parquet")
    (conversation,) = read_conversations(source(tmp_path / "a.parquet"))
    assert conversation.messages == (Message("user", "a"), Message("assistant", "b", "c"))


def test_times_that_python_cannot_hold_are_not_read_from_parquet(tmp_path):
    path, inside = tmp_path / "a.parquet", tmp_path / "b.parquet"
    times = {"ms": pa.array([2**60], pa.timestamp("ms")), "zone": pa.array([1], pa.timestamp("ms", tz="Foo/Bar"))}
    parquet.write_table(pa.table({"query": ["a"], "response": ["b"], **times}), path)
    assert list(read_rows(path)) == [(0, {"query": "a", "response": "b"})]
    nested = pa.StructArray.from_arrays([times["ms"]], names=["at"])
    parquet.write_table(pa.table({"query": ["a"], "response": ["b"], "more": nested}), inside)
    with pytest.raises(DataError, match=r"b.parquet cannot be read to its end"):
        list(read_rows(inside))


def test_blank_lines_and_a_byte_order_mark_are_passed_over_and_rows_keep_their_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\n\n").encode())
    assert [row for row, _ in read_rows(path)] == [0, 2, 4]


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


def test_files_that_cannot_be_read_say_why(tmp_path):
    cut = write(tmp_path / "cut.jsonl.gz", gzip.compress(LINES.encode() * 50)[:-30])
    wrong = write(tmp_path / "wrong.jsonl.gz", LINES)
    lines = write(tmp_path / "lines.json", LINES)
    mapping = write(tmp_path / "mapping.json", '{"a": 1}')
    damaged = write(tmp_path / "damaged.parquet", b"PAR1 no PAR1")
    text = write(tmp_path / "a.txt", LINES)
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    for path, problem in [
        (tmp_path / "none.jsonl", "expected a file of conversations at .*none.jsonl, found nothing"),
        (tmp_path, "expected a file of conversations at .*, found a folder"),
        (pipe, "expected a file of conversations at .*, found a pipe or device"),
        (text, "expected a .jsonl, .jsonl.gz, .json or .parquet file, found a.txt"),
        (cut, "cut.jsonl.gz cannot be read to its end"),
        (wrong, "wrong.jsonl.gz cannot be read to its end"),
        (lines, "line 2: expected a JSON array, found bad JSON: Extra data"),
        (mapping, "expected the file to be an array of rows, found an object"),
        (damaged, "damaged.parquet cannot be read to its end"),
    ]:
        with pytest.raises(DataError, match=problem):
            list(read_rows(path))


def test_the_identity_of_a_file_is_its_content_and_of_a_hub_set_its_pinned_name(tmp_path):
    path = write(tmp_path / "a.jsonl", "")
    # SHA-256 of nothing
    assert source_identity(source(path)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    on_hub = SourceSection(name="x", hub="owner/set", revision="abc", config="small")
    assert source_identity(on_hub) == "owner/set@abc:small:train"
    for path, found in ((tmp_path / "none.jsonl", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=rf"source mine: expected a file of conversations at .*, found {found}"):
            source_identity(source(path))


def test_a_hub_set_out_of_reach_says_how_to_fetch_it_ahead():
    section = SourceSection(name="talk", hub="owner/set", revision="abc123")
    with pytest.raises(AssetError, match="source talk: expected owner/set at revision abc123") as caught:
        list(read_conversations(section))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("hf download --repo-type dataset owner/set --revision abc123")


def test_without_network_a_hub_set_is_read_from_what_was_fetched_ahead(tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    write(folder / "train.jsonl", LINES)
    asked = []

    def find(name, *, repo_type, revision, local_files_only):
        asked.append((name, repo_type, revision, local_files_only))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", find)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    section = SourceSection(name="talk", hub="owner/set", revision="abc123")
    assert [c.first_user_text for c in read_conversations(section)] == [row["query"] for row in ROWS]
    assert asked == [("owner/set", "dataset", "abc123", True)]
    with pytest.raises(DataError, match="expected configuration default, split test of owner/set"):
        hub.open_hub(section.model_copy(update={"split": "test"}))


@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k", 5_981), ("gpteacher-code", 3_664), ("gpteacher-roleplay", 1_512), ("hh-harmless", 1_164)],
)
def test_every_real_row_is_a_conversation(shared_data, name, rows):
    section = source(shared_data / "sft" / f"{name}.jsonl.gz")
    assert sum(1 for _ in read_conversations(section)) == rows
