"""`data ledger --verify` and damaged folders: whatever was changed is found and named, and nothing ends in a traceback.

The hashes of source.json are taken away where a test is about what the ids and labels themselves say.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from genesis_sft.cli.data import ledger_command, show_command, stats_command
from genesis_sft.errors import DataError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.verify import verify

Rows = list[dict[str, Any]]


@pytest.fixture
def folder(prepared: TokenStore, tmp_path: Path) -> Path:
    """A copy of a prepared folder that may be changed; of `talks` without the hashes."""
    shutil.copytree(prepared.path, tmp_path / "data")
    edit_json(tmp_path / "data" / "sources" / "talks" / "source.json", lambda info: info.pop("hashes", None))
    verify(TokenStore.open(tmp_path / "data"))
    return tmp_path / "data"


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.unlink()
    path.write_text(json.dumps(values))


def edit_rows(path: Path, change: Callable[[Rows], Any]) -> None:
    """Change the rows of an Arrow file."""
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    rows = table.to_pylist()
    change(rows)
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(pa.Table.from_pylist(rows, schema=table.schema).combine_chunks())


def each(**change: Callable[[dict[str, Any]], Any]) -> Callable[[Rows], Any]:
    """Set a column of every row to what it is by the row."""

    def changed(rows: Rows) -> None:
        for row in rows:
            row.update({name: of(row) for name, of in change.items()})

    return changed


def first(**values: Any) -> Callable[[Rows], Any]:
    return lambda rows: rows[0].update(values)


def until_stop(row: dict[str, Any]) -> list[dict[str, int]]:
    return [{"start": 0, "stop": row["num_tokens"]}]


def swap_ends(rows: Rows) -> None:
    """Move the end of the first message by one."""
    ids = rows[0]["input_ids"]
    end = ids.index(401)
    ids[end], ids[end - 1] = ids[end - 1], ids[end]


def label_the_header(rows: Rows) -> None:
    """As many labels as before, from the control token on that begins the answer."""
    span = rows[0]["trained"][0]
    begin = max(place for place in range(span["start"]) if rows[0]["input_ids"][place] == 400)
    rows[0]["trained"][0] = {"start": begin, "stop": begin + span["stop"] - span["start"]}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (each(input_ids=lambda row: [5] * row["num_tokens"]), "messages that begin and do not end"),
        (each(input_ids=lambda row: row["input_ids"][:3]), "conversations have another length than num_tokens says"),
        (
            each(trained=lambda row: [{"start": 9**6, "stop": 9**6 + row["num_trained"]}]),
            "spans of labels reach out of",
        ),
        (each(trained=lambda _: []), "conversations have other labels than num_trained says"),
        (each(trained=until_stop), "conversations have other labels than num_trained says"),
        (
            each(trained=until_stop, num_trained=lambda row: row["num_tokens"]),
            "spans of labels lie outside of the text",
        ),
        (each(trained=lambda row: row["trained"] * 2), "spans of labels overlap, are empty or out of order"),
        (each(bucket=lambda _: -1), "conversations have no bucket of 10,000"),
        (each(row=lambda row: -row["row"]), "rows are not in order"),
        (swap_ends, "1 conversations have tokens between their messages"),
        (label_the_header, "1 spans of labels lie outside of the text"),
    ],
)
def test_parts_are_counted_from_their_ids_and_labels(folder: Path, change: Callable[[Rows], Any], found: str) -> None:
    edit_rows(folder / "sources" / "talks" / "part-00000.arrow", change)
    with pytest.raises(DataError, match=rf"talks, part-00000\.arrow: .*({found})"):
        ledger_command(folder, check=True)


def test_rows_that_were_cut_with_their_lengths_are_found(folder: Path) -> None:
    change = each(input_ids=lambda row: row["input_ids"][:3], num_tokens=lambda _: 3)
    edit_rows(folder / "sources" / "talks" / "part-00000.arrow", change)
    with pytest.raises(DataError, match="examples lie in no conversation of the parts of talks"):
        ledger_command(folder, check=True)


def test_ids_that_the_tokenizer_lacks_are_found(folder: Path) -> None:
    source = folder / "sources" / "talks"
    edit_json(source / "source.json", lambda info: info.update(vocab_size=404))
    verify(TokenStore.open(folder))
    edit_rows(source / "part-00001.arrow", lambda rows: rows[0]["input_ids"].__setitem__(3, 404))
    with pytest.raises(DataError, match=r"talks, part-00001\.arrow: 1 ids are none of the 404 of the tokenizer"):
        verify(TokenStore.open(folder))


def test_a_file_that_is_not_what_was_written_is_found_by_its_hash(folder: Path) -> None:
    source = folder / "sources" / "talks"
    name = "part-00001.samples.jsonl"
    edit_json(source / "source.json", lambda info: info.update(hashes={name: "0" * 64, "part-99999.arrow": ""}))
    with pytest.raises(DataError) as error:
        verify(TokenStore.open(folder))
    assert f"talks, {name}: its content is not what was written, by its hash" in str(error.value)
    assert "talks, part-99999.arrow: it is missing" in str(error.value)


def test_parts_of_other_columns_or_values_are_named(folder: Path) -> None:
    path = folder / "sources" / "talks" / "part-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    path.unlink()
    wrong = table.append_column("more", pa.nulls(len(table)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, wrong.schema) as file:
        file.write_table(wrong)
    with pytest.raises(DataError, match=r"talks, part-00000\.arrow: it has other columns: .*more"):
        verify(TokenStore.open(folder))


def test_parts_against_what_source_json_counts(folder: Path) -> None:
    edit_json(folder / "sources" / "talks" / "source.json", lambda info: info.update(trained_tokens=1))
    with pytest.raises(DataError, match=r"talks: [\d,]+ trained tokens in its parts, 1 in source\.json"):
        verify(TokenStore.open(folder))


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("dropped.jsonl", {"source": "nobody", "row": 1, "reason": "duplicate"}, "1 lines of nobody, duplicate"),
        ("dropped.jsonl", {"source": "talks", "row": 0, "reason": "ugly"}, "1 lines of talks, ugly"),
        ("dropped.jsonl", {"source": "more", "row": 0, "reason": "duplicate"}, "1 rows of more stand there more than"),
        ("dropped.jsonl", {"source": "talks", "row": 999, "reason": "over length"}, "1 rows of talks are no conversat"),
        ("dropped.jsonl", {"source": "talks", "row": 0, "reason": "duplicate"}, "1 rows of talks are examples all the"),
        ("rejects.jsonl", {"source": "talks", "row": 0, "reason": "ugly"}, "1 lines of talks, ugly; 0 in the ledger"),
        ("rejects.jsonl", {"source": "talks", "row": 0, "reason": "ends with user"}, "7 lines of talks, ends with us"),
        ("rejects.jsonl", {"source": "talks", "row": "0", "reason": "ugly"}, "expected the rows left out in"),
        ("rejects.jsonl", [], "expected the rows left out in"),
    ],
)
def test_foreign_lines_are_found(folder: Path, file: str, line: Any, found: str) -> None:
    with open(folder / file, "a") as lines:
        lines.write(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=found):
        verify(TokenStore.open(folder))


def test_examples_that_are_no_whole_exchanges_are_found(folder: Path) -> None:
    rows = pa.ipc.open_file((folder / "train.arrow").read_bytes()).read_all().to_pylist()
    place = next(n for n, row in enumerate(rows) if row["start"])
    shorter = {name: rows[place][name] - 1 for name in ("stop", "num_tokens")}
    edit_rows(folder / "train.arrow", lambda rows: rows[place].update(shorter))
    with pytest.raises(DataError, match="talks: 1 examples do not begin and end between exchanges"):
        verify(TokenStore.open(folder))


def call_ledger(folder: Path) -> None:
    ledger_command(folder, check=True)


def call_stats(folder: Path) -> None:
    stats_command(folder)


def call_show(folder: Path) -> None:
    show_command(folder, tokenizer=folder.parent / "model", limit=None, html=None)


@pytest.mark.parametrize("call", [call_ledger, call_stats, call_show])
@pytest.mark.parametrize(
    "values",
    [{"position": 10**6}, {"position": -1}, {"start": -2}, {"stop": 10**6}, {"num_tokens": 0}, {"system_stop": 10**6}],
)
def test_an_index_that_points_elsewhere_is_one_clear_error(
    folder: Path, prepared: TokenStore, call: Callable[[Path], None], values: dict[str, int]
) -> None:
    (folder.parent / "model").symlink_to(prepared.path.parent / "base" / "model")
    edit_rows(folder / "train.arrow", first(**values))
    with pytest.raises(DataError, match=r"train\.arrow, found it damaged: 1 of \d+ examples lie in no .* of talks"):
        call(folder)


@pytest.mark.parametrize("call", [call_stats, call_show])
def test_rows_that_were_cut_are_one_clear_error(
    folder: Path, prepared: TokenStore, call: Callable[[Path], None]
) -> None:
    (folder.parent / "model").symlink_to(prepared.path.parent / "base" / "model")
    edit_rows(folder / "sources" / "talks" / "part-00000.arrow", each(input_ids=lambda row: row["input_ids"][:3]))
    with pytest.raises(DataError, match=r"expected \d+ tokens in row 0 of talks, found 3"):
        call(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda ledger: ledger.update(settings={}), "found: settings.held_out: Field required"),
        (lambda ledger: ledger.update(settings=[]), "found: settings: "),
        (lambda ledger: ledger["settings"].update(im_end_id="2"), "found: settings.im_end_id: "),
        (lambda ledger: ledger["settings"].update(max_length=0), "found: settings.max_length: "),
        (lambda ledger: ledger.update(sources={}), "found: sources: "),
        (lambda ledger: ledger.update(sources=[None]), "found: sources.0: "),
        (lambda ledger: ledger["sources"][0].update(rejected=[]), "found: sources.0.rejected: "),
        (lambda ledger: ledger["sources"][0].update(tokens="9"), "found: sources.0.tokens: "),
        (lambda ledger: ledger["sources"][0].update(more=1), "found: unknown columns more"),
        (lambda ledger: ledger.pop("sources"), "found: no sources"),
        (lambda ledger: ledger["sources"][0].update(trained_tokens=10**6), "talks has 1000000 trained_tokens of "),
    ],
)
def test_a_ledger_of_other_values_is_one_clear_error(folder: Path, change: Callable[[Any], Any], found: str) -> None:
    edit_json(folder / "ledger.json", change)
    with pytest.raises(DataError, match=found):
        ledger_command(folder, check=False)


@pytest.mark.parametrize("text", ["[]", "1", "null", "[" * 100_000, ""])
def test_a_ledger_that_is_none_is_one_clear_error(folder: Path, text: str) -> None:
    (folder / "ledger.json").write_text(text)
    with pytest.raises(DataError, match="expected a ledger that adds up"):
        TokenStore.open(folder)


def test_a_ledger_that_does_not_add_up_names_source_and_sum(folder: Path) -> None:
    edit_json(folder / "ledger.json", lambda ledger: ledger["sources"][1].update(rows_read=11))
    with pytest.raises(DataError) as error:
        TokenStore.open(folder)
    assert str(error.value).endswith(
        "found: the ledger of more does not add up: 11 rows read, but 1 rejected + 8 duplicates + 1 kept is 10"
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"parts": "x", "key": 1}', '{"parts": 9}'])
def test_a_source_json_that_is_none_is_one_clear_error(folder: Path, text: str) -> None:
    path = folder / "sources" / "more" / "source.json"
    path.unlink()
    path.write_text(text)
    with pytest.raises(DataError, match=r"sources/more"):
        TokenStore.open(folder)


def test_an_index_of_other_sources_is_refused(folder: Path) -> None:
    edit_rows(folder / "train.arrow", each(source=lambda _: "nobody"))
    with pytest.raises(DataError, match="it is of the sources nobody"):
        TokenStore.open(folder)
