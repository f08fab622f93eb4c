"""Files of all kinds and Hub data sets give the same rows, in blocks; what cannot be read says where and why."""

import csv
import gzip
import hashlib
import json
import os
import pickle
import re

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.reading import json_array, json_lines, open_source, parse_block, read_rows
from genesis_sft.conversations.reading import source_identity as identity
from genesis_sft.conversations.reading.arrow_rows import as_python
from genesis_sft.conversations.reading.hub import load_table
from genesis_sft.conversations.reading.source_files import file_sha256
from genesis_sft.errors import AssetError, DataError
from genesis_sft.recipe import SourceSection

ROWS = [{"query": f'what is\u2028{n}?\r\n"a", b', "response": f"{n}.\x00é😀"} for n in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def source(path, **fields):
    return SourceSection(name="mine", path=str(path), **fields)


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parsed(path, block_bytes):
    blocks = pickle.loads(pickle.dumps(list(open_source(source(path)).blocks(block_bytes))))  # noqa: S301 - our own
    return [(number, row) for block in blocks for number, row in parse_block(block)]


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_all_kinds(folder):
    write(folder / "a.jsonl", LINES)
    write(folder / "a.json", json.dumps(ROWS, ensure_ascii=False))
    write(folder / "indented.json", json.dumps(ROWS, indent=4))
    write_csv(folder / "a.csv", ROWS)
    for name in ("a.jsonl", "a.json", "a.csv"):
        content = (folder / name).read_bytes()
        half = len(content) // 2
        # several members or frames in one file are legal
        write(folder / f"{name}.gz", gzip.compress(content[:half]) + gzip.compress(content[half:]))
        write(folder / f"{name}.zst", zstandard.compress(content[:half]) + zstandard.compress(content[half:]))
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, folder / "a.parquet", row_group_size=20)
    with ipc.new_file(folder / "file.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    with ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sorted(path for path in folder.iterdir())


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 2**23])
def test_all_kinds_of_files_give_the_same_rows_in_blocks_of_any_size(tmp_path, block_bytes):
    paths = write_all_kinds(tmp_path)
    assert len(paths) == 13
    for path in paths:
        assert parsed(path, block_bytes) == list(enumerate(ROWS)), path.name
        assert list(read_rows(path)) == list(enumerate(ROWS)), path.name


def test_blocks_are_bounded_numbered_and_the_same_every_time(tmp_path):
    for path in write_all_kinds(tmp_path):
        opened = open_source(source(path))
        blocks = list(opened.blocks(250))
        assert blocks == list(opened.blocks(250)) == list(open_source(source(path)).blocks(250)), path.name
        assert [block.number for block in blocks] == list(range(len(blocks)))
        assert len(blocks) > 4, path.name
        assert max(sum(1 for _ in parse_block(block)) for block in blocks) <= 14, path.name
        progress = [block.num_bytes for block in blocks]
        assert progress == sorted(progress)
        assert 0 < progress[0] <= progress[-1] <= opened.num_bytes == path.stat().st_size


def test_a_pattern_takes_all_that_match_by_name_and_rows_count_through(tmp_path):
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "not.jsonl").mkdir()
    write(tmp_path / "b" / "1.jsonl", '{"n": 3}\n\n{"n": 4}\n')
    write(tmp_path / "a" / "2.jsonl.gz", gzip.compress(b'\n{"n": 2}\n'))
    write(tmp_path / "a" / "10.jsonl", '{"n": 1}\n')
    write(tmp_path / "b" / "2.csv", "n\n5\n")
    write(tmp_path / "b" / "readme.txt", "n")
    opened = open_source(source(tmp_path / "*" / "[0-9]*"))
    assert [file.name for file in opened.files] == ["a/10.jsonl", "a/2.jsonl.gz", "b/1.jsonl", "b/2.csv"]
    assert opened.origin == "*/[0-9]*"
    assert opened.num_bytes == sum(file.path.stat().st_size for file in opened.files)
    blocks = list(opened.blocks())
    assert [(b.file, b.first_row, b.first_row_in_file, b.unit) for b in blocks] == [
        ("a/10.jsonl", 0, 0, "line"),
        ("a/2.jsonl.gz", 1, 0, "line"),
        ("b/1.jsonl", 3, 0, "line"),
        ("b/2.csv", 6, 0, "row"),
    ]
    rows = [item for block in blocks for item in parse_block(block)]
    assert rows == [(0, {"n": 1}), (2, {"n": 2}), (3, {"n": 3}), (5, {"n": 4}), (6, {"n": "5"})]
    assert blocks[-1].num_bytes == opened.num_bytes
    assert [file.name for file in open_source(source(tmp_path / "**" / "*.jsonl")).files] == ["a/10.jsonl", "b/1.jsonl"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = write(tmp_path / "a[1].jsonl", '{"n": 1}')
    opened = open_source(source(path))
    assert ([file.name for file in opened.files], opened.origin) == (["a[1].jsonl"], "a[1].jsonl")


def test_blank_lines_and_a_byte_order_mark_are_passed_over_and_rows_keep_their_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\n \r\n").encode())
    assert [row for row, _ in read_rows(path)] == list(range(0, 100, 2))
    for name, content in (("a.json", json.dumps(ROWS)), ("a.csv", write_csv(tmp_path / "b.csv", ROWS).read_bytes())):
        content = content.encode() if isinstance(content, str) else content
        assert parsed(write(tmp_path / name, b"\xef\xbb\xbf" + content), 5) == list(enumerate(ROWS))


def test_a_mark_in_the_middle_and_other_line_ends_are_no_json(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"n": 1}\n\xef\xbb\xbf{"n": 2}\n{"n": 3}\r{"n": 4}\n')
    rows = parsed(path, 1000)
    assert rows[0] == (0, {"n": 1})
    assert [row.reason for _, row in rows[1:]] == ["not JSON", "not JSON"]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"a": NaN, "b": 1e999}', "{'a': nan, 'b': inf}"),
        (b'{"a": "\\ud800"}', "{'a': '\\ud800'}"),
        (b'{"a": "\\ud83d\\ude00"}', "{'a': '😀'}"),
        (b'{"a": 1, "a": 2}', "{'a': 2}"),
        (b'{"a": "\\u0000"}', "{'a': '\\x00'}"),
    ],
)
def test_what_json_reads_is_read(tmp_path, line, row):
    ((_, found),) = parsed(write(tmp_path / "a.jsonl", line), 100)
    ((_, in_array),) = parsed(write(tmp_path / "a.json", b"[" + line + b"]"), 100)
    assert repr(found) == repr(in_array) == row


@given(st.binary(max_size=80) | st.text(st.sampled_from('{}[]":,\\ \n\r\t0aé-.eE'), max_size=40).map(str.encode))
def test_lines_are_what_pythons_json_takes_them_for(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    expected = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
        if line.strip():
            try:
                value = json.loads(line.decode())
            except ValueError:
                value = None
            expected.append((number, value if isinstance(value, dict) else BadRow))
    for block_bytes in (1, 7, 1000):
        found = [(number, BadRow if isinstance(row, BadRow) else row) for number, row in parsed(path, block_bytes)]
        assert repr(found) == repr(expected)


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,\\ \n\r\t0aé-.eE'), max_size=40).map(str.encode))
def test_an_array_is_what_pythons_json_takes_it_for(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp() / "any.json", content)
    try:
        expected = json.loads(content.removeprefix(b"\xef\xbb\xbf").decode())
    except ValueError:
        expected = None
    for block_bytes in (1, 7, 1000):
        if isinstance(expected, list):
            found = [BadRow if isinstance(row, BadRow) else row for _, row in parsed(path, block_bytes)]
            assert repr(found) == repr([value if isinstance(value, dict) else BadRow for value in expected])
        else:
            with pytest.raises(DataError):
                parsed(path, block_bytes)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=4))
def test_csv_cells_come_back_as_they_were_written(tmp_path_factory, cells):
    rows = [{"query": "q", "response": cell} for cell in cells]
    path = write_csv(tmp_path_factory.getbasetemp() / "any.csv", rows)
    assert parsed(path, 1) == parsed(path, 1000) == list(enumerate(rows))


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_a_row_that_is_too_long_is_refused_and_the_others_are_kept(tmp_path, monkeypatch, ending, at):
    monkeypatch.setattr(json_lines, "MAX_ROW_BYTES", 1000)
    fits, too_long = b'{"a":"' + b"x" * 992 + b'"}', b'{"a":"' + b"x" * 993 + b'"}'
    assert (len(fits), len(too_long)) == (1000, 1001)
    lines = {
        "first": [too_long, fits, b"{}"],
        "middle": [fits, too_long, fits],
        "last": [fits, b"{}", too_long],
    }[at]
    for content in (b"\n".join(lines), b"\n".join(lines) + b"\n"):
        packed = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[ending](content)
        path = write(tmp_path / f"a.{ending}", packed)
        for block_bytes in (1, 300, 999, 1000, 5000):
            rows = parsed(path, block_bytes)
            assert [number for number, _ in rows] == [0, 1, 2]
            for line, (_, row) in zip(lines, rows, strict=True):
                if line is too_long:
                    assert str(row) == "expected a row of at most 1,000 bytes, found 1,001"
                    assert row.reason == "row too long"
                else:
                    assert row == json.loads(line)


def test_an_element_that_is_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "MAX_ROW_BYTES", 1000)
    path = write(tmp_path / "a.json", json.dumps([{"a": "x" * 900}, {"a": "x" * 50_000}]))
    with pytest.raises(DataError, match=r"a.json, line 1: expected a JSON array, found an element that is too long"):
        parsed(path, 100)


UNHELD = {
    "number": '{"a": [1, -' + "7" * 6000 + '], "b": "]"}',
    "number alone": "7" * 6000,
    "brackets": '{"a": "}\\\\", "b": ' + "[" * 3000 + '"]\\"["' + "]" * 3000 + ', "c":\n"[["}',
    "objects": '{"a":' * 2000 + "3" + "}" * 2000,
    "both": "[" * 3000 + "7" * 6000 + "]" * 3000,
}


@pytest.mark.parametrize("element", UNHELD.values(), ids=UNHELD)
@pytest.mark.parametrize("block_bytes", [1, 1000, 2**20])
def test_an_element_that_python_cannot_hold_is_a_bad_row_and_the_next_are_read(tmp_path, element, block_bytes):
    before, after = {"query": "a"}, {"query": "]"}
    path = write(tmp_path / "a.json", f"[{json.dumps(before)}, {element} ,\n{json.dumps(after)}]")
    rows = parsed(path, block_bytes)
    assert [number for number, _ in rows] == [0, 1, 2]
    assert (rows[0][1], rows[2][1]) == (before, after)
    assert isinstance(rows[1][1], BadRow)
    assert rows[1][1].reason == "not JSON"
    line = element.replace("\n", " ")
    ((_, in_line),) = parsed(write(tmp_path / "a.jsonl", line), block_bytes)
    assert in_line.reason == "not JSON"


def test_a_number_of_too_many_digits_is_told_without_advice_to_change_python(tmp_path):
    path = write(tmp_path / "a.json", '[{"a": ' + "7" * 6000 + "}]")
    assert str(parsed(path, 100)[0][1]) == "expected one JSON object, found a whole number of too many digits"


@pytest.mark.parametrize(
    ("element", "problem"),
    [
        ("[" * 3000 + "]" * 2999, "line 2: expected a JSON array, found bad JSON: maximum recursion"),
        ("[" * 3000 + '"a\nb"' + "]" * 3000, "line 2: expected a JSON array, found bad JSON: maximum recursion"),
        ("[" * 3000 + "]" * 3000 + " 3", "line 2: expected a JSON array, found '3' after an element"),
        ('{"a": ' + "7" * 6000 + " 3}", "line 2: expected a JSON array, found bad JSON: Expecting ',' delimiter"),
    ],
    ids=["brackets", "a line break in a text", "more after it", "number"],
)
def test_where_the_end_of_such_an_element_cannot_be_found_it_is_an_error(tmp_path, element, problem):
    path = write(tmp_path / "a.json", '[{"a": 1},\n' + element + ', {"a": 2}')
    for block_bytes in (1, 1000, 2**20):
        with pytest.raises(DataError, match=problem) as caught:
            parsed(path, block_bytes)
        assert "set_int_max" not in str(caught.value)


def test_csv_rows_that_do_not_fit_are_refused_and_the_next_line_is_read(tmp_path):
    content = (
        b'query,response\na,b\na\na,b,c\n"a"x,b\n\n"two\nlines",b\n\xff,b\n\xed\xa0\x80,b\nc,d\n"never closed,e\nf,g\n'
    )
    rows = parsed(write(tmp_path / "a.csv", content), 1000)
    assert [(number, row if isinstance(row, dict) else row.reason) for number, row in rows] == [
        (0, {"query": "a", "response": "b"}),
        (1, "wrong number of columns"),
        (2, "wrong number of columns"),
        (3, "not CSV"),
        (4, {"query": "two\nlines", "response": "b"}),
        (5, "not UTF-8"),
        (6, "not UTF-8"),
        (7, {"query": "c", "response": "d"}),
        (8, "not CSV"),
    ]
    assert str(rows[1][1]) == "expected 2 columns on line 3, found 1"
    assert str(rows[3][1]) == "expected a row of CSV from line 5 on, found: ',' expected after '\"'"
    assert str(rows[8][1]) == "expected a row of CSV from line 12 on, found: unexpected end of data"


def test_a_csv_cell_may_be_long(tmp_path):
    rows = [{"query": "q", "response": "long\n" * 100_000}]
    assert parsed(write_csv(tmp_path / "a.csv", rows), 1000) == [(0, rows[0])]


def test_nested_values_and_nulls_come_out_of_arrow_as_they_went_in(tmp_path):
    turn = pa.struct(
        {"role": pa.string(), "content": pa.large_string(), "weight": pa.int64(), "tags": pa.list_(pa.string())}
    )
    schema = pa.schema(
        {"messages": pa.list_(turn), "more": pa.struct({"score": pa.float64()}), "big": pa.large_list(turn)}
    )
    one = {"role": "user", "content": "a", "weight": None, "tags": ["x", None]}
    two = {"role": None, "content": None, "weight": 1, "tags": None}
    rows = [
        {"messages": [one, two, None], "more": {"score": 1.5}, "big": []},
        {"messages": None, "more": None, "big": [two]},
        {"messages": [], "more": {"score": None}, "big": None},
    ] * 5
    table = pa.Table.from_pylist(rows, schema)
    parquet.write_table(table, tmp_path / "a.parquet")
    with ipc.new_stream(tmp_path / "a.arrow", schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        for block_bytes in (1, 400, 10_000):
            assert parsed(tmp_path / name, block_bytes) == list(enumerate(rows))


def test_a_part_of_an_array_is_that_part():
    array = pa.array([[["a"], ["b", "c"]], None, [["d"]], [["e", None], []]])
    for start in range(4):
        for stop in range(start, 5):
            part = array.slice(start, stop - start)
            assert as_python(part) == part.to_pylist()
            assert as_python(pa.StructArray.from_arrays([part], ["x"])) == [{"x": value} for value in part.to_pylist()]


def test_dictionary_columns_are_read(tmp_path):
    table = pa.table({"query": pa.array(["a", "b", "a"]).dictionary_encode(), "response": ["x", "y", None]})
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert [row["query"] for _, row in parsed(tmp_path / "a.arrow", 1)] == ["a", "b", "a"]


def test_times_are_not_read_and_what_python_cannot_hold_is_a_bad_row(tmp_path):
    path, inside, text = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "c.arrow"
    times = {"ms": pa.array([2**60, 0], pa.timestamp("ms")), "zone": pa.array([1, 2], pa.timestamp("ms", tz="Foo/Bar"))}
    both = {"query": ["a", "c"], "response": ["b", "d"]}
    parquet.write_table(pa.table({**both, **times}), path)
    assert list(read_rows(path)) == [(0, {"query": "a", "response": "b"}), (1, {"query": "c", "response": "d"})]
    nested = pa.StructArray.from_arrays([times["ms"]], names=["at"])
    parquet.write_table(pa.table({**both, "more": nested}), inside)
    (_, bad), (_, good) = parsed(inside, 1000)
    assert (bad.reason, good["query"]) == ("unreadable value", "c")
    offsets = pa.array([0, 2, 4], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xffcd")])
    table = pa.table({"query": broken, "response": ["b", "d"]})
    with ipc.new_stream(text, table.schema) as writer:
        writer.write_table(table)
    (_, bad), (_, good) = parsed(text, 1000)
    assert (bad.reason, str(bad)) == ("not UTF-8", "expected UTF-8 text, found byte 0xFF in a column")
    assert good == {"query": "cd", "response": "d"}


def test_files_that_cannot_be_read_say_why(tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    table = pa.Table.from_pylist(ROWS * 100)
    parquet.write_table(table, tmp_path / "whole.parquet", use_dictionary=False)
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert len(whole) > 10_000
    with ipc.new_stream(tmp_path / "whole.arrow", table.schema) as writer:
        writer.write_table(table)
    for path, problem in [
        (tmp_path / "none.jsonl", "source file: expected a file of conversations at .*none.jsonl, found nothing"),
        (tmp_path, "expected a file of conversations at .*, found a folder"),
        (tmp_path / "*.csv.bz2", r"expected files of conversations that match \*.csv.bz2 in .*, found none"),
        (pipe, "expected a file of conversations at .*, found a pipe or device"),
        (write(tmp_path / "a.txt", LINES), r"expected a .jsonl, .json, .csv .* or .arrow file, found a.txt"),
        (write(tmp_path / "a.parquet.gz", LINES), "or .arrow file, found a.parquet.gz"),
        (
            write(tmp_path / "cut.jsonl.gz", gzip.compress(LINES.encode() * 50)[:-30]),
            "cut.jsonl.gz cannot be read to its end",
        ),
        (write(tmp_path / "wrong.jsonl.gz", LINES), "wrong.jsonl.gz cannot be read to its end"),
        (
            write(tmp_path / "cut.jsonl.zst", zstandard.compress(LINES.encode() * 50)[:-30]),
            "cut.jsonl.zst cannot be read to its end: the file ends within a Zstandard frame",
        ),
        (write(tmp_path / "wrong.json.zst", LINES), "wrong.json.zst cannot be read to its end"),
        (write(tmp_path / "cut.csv.gz", gzip.compress(b"a,b\n" * 5000)[:-9]), "cut.csv.gz cannot be read to its end"),
        (
            write(tmp_path / "lines.json", LINES),
            "lines.json: expected the file to be an array of rows, found an object",
        ),
        (write(tmp_path / "empty.json", " \n"), "expected the file to be an array of rows, found nothing"),
        (write(tmp_path / "bytes.json", b'[{"a": "\xff"}]'), "expected UTF-8 text, found another byte at byte 8"),
        (
            write(tmp_path / "bad.json", '[{"a": 1},\n{"a": }]'),
            "bad.json, line 2: expected a JSON array, found bad JSON: Exp",
        ),
        (
            write(tmp_path / "cut.json", '[{"a": 1},\n{"a"'),
            "cut.json, line 2: expected a JSON array, found bad JSON: Exp",
        ),
        (write(tmp_path / "off.json", '[{"a": 1}\n'), "line 2: .* found no end: the file breaks off"),
        (write(tmp_path / "comma.json", '[{"a": 1}\n{"b": 2}]'), r"line 2: .* found '\{' after an element"),
        (write(tmp_path / "more.json", '[{"a": 1}]\n[]'), "line 2: .* found more text after it"),
        (
            write(tmp_path / "deep.json", "[" * 100_000),
            "deep.json, line 1: expected a JSON array, found bad JSON: maximum",
        ),
        (
            write(tmp_path / "twice.csv", "a,b,a\n1,2,3\n"),
            "twice.csv: expected columns with different names, found 'a', 'b', 'a'",
        ),
        (write(tmp_path / "quote.csv", '"a"b,c\n1,2\n'), "quote.csv, line 1: expected the names of the columns"),
        (write(tmp_path / "wrong.parquet", b"PAR1 no PAR1"), "wrong.parquet cannot be read to its end"),
        (write(tmp_path / "cut.parquet", whole[:2000]), "cut.parquet cannot be read to its end"),
        (
            write(tmp_path / "holes.parquet", whole[:200] + bytes(800) + whole[1000:]),
            "holes.parquet cannot be read to its end",
        ),
        (write(tmp_path / "wrong.arrow", b"ARROW1 no"), "wrong.arrow cannot be read to its end"),
        (write(tmp_path / "empty.arrow", b""), "empty.arrow cannot be read to its end"),
        (
            write(tmp_path / "cut.arrow", (tmp_path / "whole.arrow").read_bytes()[:3000]),
            "cut.arrow cannot be read to its end",
        ),
    ]:
        with pytest.raises(DataError, match=problem) as caught:
            list(read_rows(path))
        assert str(path) in str(caught.value) or re.search(r"\.(txt|parquet\.gz)$|\*", str(path))


def test_a_fault_far_into_an_array_has_its_line(tmp_path):
    path = write(tmp_path / "a.json", "[\n" + '{"a":\n1},\n' * 500 + '{"a": }]')
    for block_bytes in (1, 100, 10_000):
        with pytest.raises(DataError, match=r"a.json, line 1,002: expected a JSON array, found bad JSON"):
            parsed(path, block_bytes)


def test_files_without_rows_have_no_blocks_with_rows(tmp_path):
    for name, content in [
        ("a.jsonl", b""),
        ("b.jsonl", b"\n \n"),
        ("a.json", b" [ ] \n"),
        ("a.csv", b""),
        ("b.csv", b"a,b\n"),
    ]:
        assert list(read_rows(write(tmp_path / name, content))) == []
    write(tmp_path / "a.jsonl.gz", gzip.compress(b""))
    write(tmp_path / "a.jsonl.zst", zstandard.compress(b""))
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert list(read_rows(tmp_path / name)) == []


def test_the_identity_is_the_content_in_order_wherever_it_lies(tmp_path):
    path = write(tmp_path / "a.jsonl", "")
    # SHA-256 of nothing
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert identity(source(path)) == file_sha256(path) == nothing
    other = hashlib.sha256(b"{}").hexdigest()
    for folder, names in (("x", ("1.jsonl", "2.jsonl")), ("y", ("a.jsonl", "b.jsonl"))):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / names[0], "{}")
        write(tmp_path / folder / names[1], "")
        both = hashlib.sha256(f"{other}\n{nothing}".encode()).hexdigest()
        assert identity(source(tmp_path / folder / "*.jsonl")) == both
    on_hub = SourceSection(name="x", hub="owner/set", revision="abc", config="small")
    assert identity(on_hub) == "owner/set@abc:small:train"
    for path, found in ((tmp_path / "none.jsonl", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=rf"source mine: expected a file of conversations at .*, found {found}"):
            identity(source(path))


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", "{}")
    first = identity(source(path))
    monkeypatch.setattr("genesis_sft.conversations.reading.source_files.hash_file", lambda _: "changed")
    assert identity(source(path)) == first
    write(path, "{ }")
    assert identity(source(path)) == "changed"


def test_a_hub_set_out_of_reach_says_how_to_fetch_it_ahead():
    section = SourceSection(name="talk", hub="owner/set", revision="abc123")
    with pytest.raises(AssetError, match="source talk: expected owner/set at revision abc123") as caught:
        open_source(section)
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
    opened = open_source(section)
    assert asked == [("owner/set", "dataset", "abc123", True)]
    assert (opened.files, opened.origin) == ((), "hub:owner/set train")
    for block_bytes in (100, 2**20):
        blocks = list(opened.blocks(block_bytes))
        assert [item for block in blocks for item in parse_block(block)] == list(enumerate(ROWS))
        assert {(block.file, block.unit) for block in blocks} == {("hub:owner/set train", "row")}
        assert blocks[-1].num_bytes == opened.num_bytes
    part = open_source(section.model_copy(update={"split": "train[10:12]"}))
    assert [row for block in part.blocks() for _, row in parse_block(block)] == ROWS[10:12]
    with pytest.raises(DataError, match="expected configuration default, split test of owner/set"):
        load_table(section.model_copy(update={"split": "test"}))
