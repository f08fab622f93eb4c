"""Sources into stores: the same bytes however the work is cut, whatever is killed, and never the same work twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast

from genesis_sft.conversations.contamination import Question, QuestionIndex
from genesis_sft.errors import DataError
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.sources import prepare
from genesis_sft.tokens.sources.prepare import Prepared, prepare_sources
from genesis_sft.tokens.sources.store import SourceStore
from tests.tokens.helpers import with_control_tokens

BLOCK_BYTES = 2000


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_control_tokens(tiny_tokenizer)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepare, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def rows_of(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        messages = [
            {"role": "user", "content": f"What is {number} times {number}? <|im_end|>"},
            {"role": "assistant", "content": f"It is {number * number}. " + "Quite! " * (number % 7)},
        ]
        yield {"messages": messages[: 1 if number % 10 == 3 else 2]}  # one in ten ends with the user


def write(path: Path, count: int = 100) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(count)))
    return path


def make(
    path: Path, tokenizer: PreTrainedTokenizerFast, out: Path, *, questions: QuestionIndex | None = None, **fields: Any
) -> Prepared:
    near = fields.pop("near_duplicates", None)
    workers = fields.pop("num_workers", 0)
    tokens = TokensSection(**fields.pop("tokens", {}))
    source = SourceSection(**({"name": "sums", "path": str(path)} | fields))
    data = DataSection(sources=(source,), near_duplicates=near)
    return prepare_sources(
        data, tokens, tokenizer, out, questions=questions, num_workers=workers, block_bytes=BLOCK_BYTES
    )


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_holds_what_the_encoder_gives_for_every_good_row(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(tmp_path / "sums.jsonl")
    (store,) = make(path, tokenizer, tmp_path / "out").stores
    encoder = ChatMLEncoder(tokenizer)
    good = [row for row in range(100) if row % 10 != 3]
    assert store.rows.tolist() == good
    assert store.info["parts"] > 3
    by_row = {sample.row: sample for sample in store.samples()}
    assert by_row.keys() == set(good)  # few rows a part: all of them are samples
    for position, row in enumerate(good):
        expected = encoder.encode(by_row[row])
        assert store.ids(position).tolist() == expected.input_ids
        assert store.spans(position) == expected.trained
        assert (store.num_tokens[position], store.num_trained[position]) == (
            len(expected.input_ids),
            expected.num_trained,
        )
    rejects = list(store.rejects())
    assert [reject["row"] for reject in rejects] == list(range(3, 100, 10))
    assert {(reject["source"], reject["file"], reject["reason"]) for reject in rejects} == {
        ("sums", "sums.jsonl", "ends with user")
    }
    assert [reject["line"] for reject in rejects] == list(range(4, 101, 10))


def test_parts_are_plain_arrow_that_other_libraries_read(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (store,) = make(write(tmp_path / "sums.jsonl"), tokenizer, tmp_path / "out").stores
    part = store.path / "part-00000.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(part))).read_all()
    assert table.schema.field("input_ids").type.value_type == pa.uint16()  # a small vocabulary: two bytes an id
    dataset = load_dataset("arrow", data_files=str(part), split="train", cache_dir=str(tmp_path / "datasets"))
    assert dataset[0]["input_ids"] == store.ids(0).tolist()
    assert json.loads(table.schema.metadata[b"genesis_sft.train_on"]) == ["assistant", "end_of_turn"]


def test_workers_and_one_process_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(tmp_path / "sums.jsonl")
    for workers in (0, 2):
        monkeypatch.setattr(prepare, "cache_dir", lambda workers=workers: tmp_path / f"cache{workers}")
        make(path, tokenizer, tmp_path / f"out{workers}", num_workers=workers)
    assert content(tmp_path / "out0") == content(tmp_path / "out2")


def test_what_was_made_is_never_made_again(tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "sums.jsonl")
    first = make(path, tokenizer, tmp_path / "first")
    assert first.num_tokens == first.stores[0].info["tokens"] > 0
    path = path.rename(tmp_path / "elsewhere.jsonl")
    # another name and place, another length, take and share: the same tokens
    second = make(path, tokenizer, tmp_path / "second", name="other", take=3, tokens={"max_length": 64})
    assert (second.num_tokens, second.tokens_per_second) == (0, None)
    assert second.stores[0].info["origin"] == "elsewhere.jsonl"
    parts = "part-00000.arrow"
    assert (tmp_path / "first/sums" / parts).stat().st_ino == (tmp_path / "second/other" / parts).stat().st_ino


@pytest.mark.parametrize(
    "changed",
    [
        {"turns": "repair"},
        {"reasoning": "strip"},
        {"tokens": {"train_on": ("assistant",)}},
        {"tokens": {"reasoning": "empty"}},
    ],
)
def test_what_decides_the_tokens_makes_them_anew(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast, changed: dict[str, Any]
) -> None:
    path = write(tmp_path / "sums.jsonl")
    make(path, tokenizer, tmp_path / "first")
    assert make(path, tokenizer, tmp_path / "second", **changed).num_tokens > 0


def test_a_changed_template_or_tokenizer_or_row_makes_the_tokens_anew(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: PreTrainedTokenizerFast,
    tiny_sentencepiece_tokenizer: PreTrainedTokenizerFast,
) -> None:
    path = write(tmp_path / "sums.jsonl")
    make(path, tokenizer, tmp_path / "1")
    assert make(path, with_control_tokens(tiny_sentencepiece_tokenizer), tmp_path / "2").num_tokens > 0
    monkeypatch.setattr("genesis_sft.tokens.sources.wanted.template_hash", lambda: "another")
    assert make(path, tokenizer, tmp_path / "3").num_tokens > 0
    monkeypatch.undo()
    monkeypatch.setattr(prepare, "cache_dir", lambda: cache)
    write(path, 101)
    assert make(path, tokenizer, tmp_path / "4").num_tokens > 0


def test_signatures_and_benchmark_items_are_found_without_encoding_again(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(tmp_path / "sums.jsonl")
    make(path, tokenizer, tmp_path / "1")
    asked = "seven grey herons stood in the shallow water and waited for the tide to turn"
    with open(path, "a") as rows:
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "They did."}]
        rows.write(json.dumps({"messages": messages}) + "\n")
    make(path, tokenizer, tmp_path / "2")
    questions = QuestionIndex([Question("birds", 7, asked)])
    found = make(path, tokenizer, tmp_path / "3", near_duplicates=0.8, questions=questions)
    assert found.num_tokens == 0
    (store,) = found.stores
    assert store.overlaps() == [(90, 0)]  # 90 good rows before it
    signatures = store.signatures()
    assert signatures is not None
    assert len(signatures) == 91
    # and both come from the cache the second time
    again = make(path, tokenizer, tmp_path / "4", near_duplicates=0.8, questions=questions)
    assert again.stores[0].overlaps() == [(90, 0)]


def test_bad_rows_can_stop_the_run_and_leave_nothing(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(
        DataError, match=r"sums\.jsonl, row 3 \(line 4\): expected the last message to be the assistant's"
    ) as info:
        make(write(tmp_path / "sums.jsonl"), tokenizer, tmp_path / "out", bad_rows="stop")
    assert "bad_rows: stop" in str(info.value.hint)
    assert not (tmp_path / "out" / "sums").exists()


def test_a_source_without_a_conversation_is_an_error(
    tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"messages": []}\n{"messages": 7}\n')
    with pytest.raises(
        DataError, match=r"row 0 \(line 1\): expected messages .*; no other row is one either: 2 rejected"
    ):
        make(path, tokenizer, tmp_path / "out")
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"expected rows in .*sums\.jsonl, found none"):
        make(path, tokenizer, tmp_path / "out", format="messages")


def test_an_engine_that_differs_in_the_run_is_replaced_and_named(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    straight = make(write(tmp_path / "sums.jsonl"), tokenizer, tmp_path / "straight").stores[0]
    monkeypatch.setattr(prepare, "cache_dir", lambda: tmp_path / "other-cache")
    check = ChatMLEncoder.check_sample

    def differs(self: ChatMLEncoder, conversations: Any) -> str | None:
        late = any(conversation.row > 50 for conversation in conversations)
        return "'It is 2601.'" if late and self.engine == straight.info["engine"] else check(self, conversations)

    monkeypatch.setattr(ChatMLEncoder, "check_sample", differs)
    store = make(tmp_path / "sums.jsonl", tokenizer, tmp_path / "out").stores[0]
    assert straight.info["engine"] == "tokie"
    assert store.info["engine"] == "tokenizers"
    assert "It is 2601." in store.info["engine_note"]
    assert "gave other ids than the reference" in capfd.readouterr().err
    assert [store.ids(p).tolist() for p in range(len(store))] == [straight.ids(p).tolist() for p in range(len(store))]


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # a run's own name for the file must not change with it
    path.write_bytes(content)


def make_empty_list(path: Path) -> None:
    path.write_text("[]")


def make_empty_object(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("part-00001.arrow", remove),
        ("part-00001.arrow", cut),
        ("part-00001.arrow", change),
        ("part-00000.samples.jsonl", change),
        ("source.json", remove),
        ("source.json", cut),
        ("source.json", make_empty_list),
        ("source.json", make_empty_object),
        ("signatures-*/part-00000.npy", remove),
        ("signatures-*/part-00000.npy", cut),
        ("signatures-*/part-00000.npy", make_empty_list),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(
    tmp_path: Path,
    cache: Path,
    tokenizer: PreTrainedTokenizerFast,
    pattern: str,
    damage: Callable[[Path], None],
) -> None:
    path = write(tmp_path / "sums.jsonl")
    (first,) = make(path, tokenizer, tmp_path / "first", near_duplicates=0.8).stores
    signatures, whole = first.signatures(), content(tmp_path / "first")
    assert signatures is not None
    (place,) = cache.glob(f"sources/*/{pattern}")
    damage(place)
    (again,) = make(path, tokenizer, tmp_path / "second", near_duplicates=0.8).stores
    assert content(tmp_path / "second") == whole
    found = again.signatures()
    assert found is not None
    assert found.tolist() == signatures.tolist()


def test_one_file_under_two_names_is_made_once(tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = str(write(tmp_path / "sums.jsonl"))
    sources = (SourceSection(name="one", path=path), SourceSection(name="two", path=path))
    data = DataSection(sources=sources, near_duplicates=0.8)
    prepared = prepare_sources(
        data, TokensSection(), tokenizer, tmp_path / "out", num_workers=0, block_bytes=BLOCK_BYTES
    )
    one, two = prepared.stores
    assert prepared.num_tokens == one.info["tokens"]
    assert (one.name, two.name) == ("one", "two")
    signatures = one.signatures(), two.signatures()
    assert signatures[0] is not None
    assert signatures[1] is not None
    assert signatures[0].tolist() == signatures[1].tolist()


def test_parts_of_rows_that_have_changed_are_not_taken(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(tmp_path / "sums.jsonl")
    make(path, tokenizer, tmp_path / "straight")
    monkeypatch.setattr(prepare, "cache_dir", lambda: tmp_path / "other")
    original, identity = path.read_bytes(), prepare.source_identity(SourceSection(name="a", path=str(path)))
    # another file lies there while the rows are read, and the process is killed before it notices
    path.write_bytes(original.replace(b"times", b"minus"))
    monkeypatch.setattr("genesis_sft.tokens.sources.wanted.source_identity", lambda _: identity)

    def killed(source: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_refuse_if_changed", killed)
    with pytest.raises(KeyboardInterrupt):
        make(path, tokenizer, tmp_path / "killed")
    assert num_parts(tmp_path / "other") > 3
    monkeypatch.undo()
    monkeypatch.setattr(prepare, "cache_dir", lambda: tmp_path / "other")
    path.write_bytes(original)
    make(path, tokenizer, tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "straight")


def test_a_damaged_store_is_named(tmp_path: Path, cache: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (store,) = make(write(tmp_path / "sums.jsonl"), tokenizer, tmp_path / "out").stores
    part = store.path / "part-00000.arrow"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match=r"expected the store of a source in .*out/sums, found a damaged one"):
        SourceStore(store.path, "sums")


NURSERY = """
import os, sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from genesis_sft.recipe import DataSection, SourceSection, TokensSection
from genesis_sft.tokens.sources import prepare

rows, tokenizer = sys.argv[1:3]
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)
data = DataSection(sources=(SourceSection(name="sums", path=rows),))
print("ready", flush=True)
for line in sys.stdin:  # imports take long: each process is a fork of this one
    cache, out, log = line.split()
    if (child := os.fork()) == 0:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        prepare.cache_dir = lambda: Path(cache)
        try:
            prepare.prepare_sources(data, TokensSection(), tokenizer, Path(out), num_workers=2, block_bytes=4000)
        except Exception as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
"""


class Nursery:
    """Starts processes that prepare the same rows, quickly."""

    def __init__(self, rows: Path, tokenizer: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(rows), str(tokenizer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self, cache: Path, out: Path, log: Path) -> int:
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{cache} {out} {log}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("nursery")
    tokenizer.save_pretrained(folder / "tokenizer")
    found = Nursery(write(folder / "sums.jsonl", 1500), folder / "tokenizer")
    yield found
    found.end()


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.001)


def num_parts(cache: Path) -> int:
    return len(list(cache.glob("sources/.making-*/part-*.json")))


@pytest.mark.slow
def test_killed_ten_times_the_store_is_the_same_byte_for_byte(tmp_path: Path, nursery: Nursery) -> None:
    log = tmp_path / "log"
    straight = nursery.start(tmp_path / "one", tmp_path / "straight", log)
    wait_for(lambda: has_ended(straight))
    cache, out, draw = tmp_path / "two", tmp_path / "killed", random.Random(7)
    for _ in range(10):
        wanted = num_parts(cache) + draw.randrange(1, 10)
        process = nursery.start(cache, out, log)
        wait_for(lambda process=process, wanted=wanted: num_parts(cache) >= wanted or has_ended(process))
        assert not has_ended(process), f"it ended before it was killed: {log.read_text()}"
        os.killpg(process, signal.SIGKILL)
        wait_for(lambda process=process: has_ended(process))
        assert not (out / "sums").exists()
    assert num_parts(cache) > 10  # what was whole is kept
    last = nursery.start(cache, out, log)
    wait_for(lambda: has_ended(last))
    assert content(out) == content(tmp_path / "straight")
    assert content(out), log.read_text()


@pytest.mark.slow
def test_a_killed_worker_is_named_and_the_next_run_goes_on(tmp_path: Path, nursery: Nursery) -> None:
    cache, out, log = tmp_path / "cache", tmp_path / "out", tmp_path / "log"
    process = nursery.start(cache, out, log)
    wait_for(lambda: num_parts(cache) >= 3)
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for(lambda: has_ended(process))
    assert "a worker process was ended by signal SIGKILL" in log.read_text()
    assert num_parts(cache) >= 3
    again = nursery.start(cache, out, log)
    wait_for(lambda: has_ended(again))
    assert (out / "sums" / "source.json").is_file(), log.read_text()


@pytest.mark.slow
def test_two_processes_make_a_source_once(tmp_path: Path, nursery: Nursery) -> None:
    names = ("one", "two")
    both = [nursery.start(tmp_path / "cache", tmp_path / name, tmp_path / f"{name}.log") for name in names]
    for process in both:
        wait_for(lambda process=process: has_ended(process))
    logs = [(tmp_path / f"{name}.log").read_text() for name in names]
    assert content(tmp_path / "one") == content(tmp_path / "two") != {}, logs
    # one of them encoded, the other waited for it
    assert sorted("tokens/s with" in log for log in logs) == [False, True]
    assert sorted("waiting for another process" in log for log in logs) == [False, True]


def test_rows_that_change_while_they_are_read_are_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    path, tasks = write(tmp_path / "sums.jsonl"), prepare._tasks

    def change_at_the_end(*arguments: Any) -> Iterator[Any]:
        yield from tasks(*arguments)
        write(path, 50)

    monkeypatch.setattr(prepare, "_tasks", change_at_the_end)
    with pytest.raises(DataError, match=r"sums\.jsonl was changed while it was read"):
        make(path, tokenizer, tmp_path / "out")
    assert not [place for place in cache.glob("sources/*") if place.is_dir()]
    assert not [place for place in cache.glob("sources/.making-*") if any(place.iterdir())]
