"""A mixture: what is left out and why, where every row went, and that the index is what the ledger says."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from genesis_sft.errors import DataError
from genesis_sft.mixture.select import is_held_out, repeated
from genesis_sft.mixture.verify import verify
from tests.mixture.world import FakeStore, Question, Talk, dropped, mix, places

SHORT = (5, 5)  # 10 tokens, of which 3 are labels


def test_a_row_has_the_first_fate_that_applies(tmp_path):
    a = FakeStore(
        "a",
        [
            Talk(SHORT, same_as="x", bucket=0),  # held out
            Talk(SHORT, same_as="x", bucket=0),  # equal to it
            Talk((50, 60), same_as="y", bucket=0),  # too long, also for the held-out side
            Talk(SHORT, trained=[False], bucket=0),
            Talk(SHORT),
        ],
        rejected={"no messages": 2, "empty content": 1},
    )
    b = FakeStore("b", [Talk((50, 60), same_as="y"), Talk(SHORT), Talk(SHORT, same_as="x")])
    b.found, a.found = [(0, 0), (1, 0)], [(1, 1)]
    questions = [Question("piqa", 7), Question("arc_easy", 3)]
    store = mix(tmp_path, [a, b], questions=questions, held_out=0.01, max_length=100)
    assert places(store) == [("a", 7)]
    assert places(store, "held_out") == [("a", 3)]
    assert dropped(store) == [
        ("a", 4, "duplicate"),
        ("a", 5, "over length"),
        ("a", 6, "nothing trained"),
        ("b", 0, "duplicate"),
        ("b", 1, "contaminated"),
        ("b", 2, "duplicate"),
    ]
    of_a, of_b = store.ledger["a"], store.ledger["b"]
    assert (of_a.rows_read, of_a.num_rejected, of_a.duplicates, of_a.held_out, of_a.over_length) == (8, 3, 1, 1, 1)
    assert (of_a.untrained, of_a.not_taken, of_a.kept, of_a.contaminated) == (1, 0, 1, 0)
    assert (of_b.rows_read, of_b.duplicates, of_b.contaminated, of_b.kept) == (3, 2, 1, 0)
    # an item counts as touched also where the row that holds it is a duplicate
    assert json.loads((tmp_path / "touched.json").read_text()) == {"arc_easy": [3], "piqa": [7]}


def test_marked_conversations_stay_and_are_counted(tmp_path):
    a = FakeStore("a", [Talk(SHORT), Talk(SHORT), Talk(SHORT)])
    a.found = [(0, 0), (0, 1), (2, 0)]
    questions = [Question("piqa", 9), Question("piqa", 4)]
    store = mix(tmp_path, [a], questions=questions, decontaminate="mark")
    assert (store.ledger["a"].marked, store.ledger["a"].contaminated, store.ledger["a"].kept) == (2, 0, 3)
    assert json.loads((tmp_path / "touched.json").read_text()) == {"piqa": [4, 9]}
    store = mix(tmp_path, [a], questions=questions, decontaminate="off")
    assert (store.ledger["a"].marked, store.ledger["a"].kept) == (0, 3)
    assert json.loads((tmp_path / "touched.json").read_text()) == {}


def test_near_duplicates_count_over_all_sources_in_their_order(tmp_path):
    pytest.importorskip("genesis_sft.conversations.near_duplicates")
    a = FakeStore("a", [Talk(SHORT, resembles=5), Talk(SHORT), Talk(SHORT, resembles=7, same_as="w")])
    b = FakeStore("b", [Talk(SHORT, resembles=7, same_as="w"), Talk(SHORT, resembles=5), Talk(SHORT, resembles=7)])
    store = mix(tmp_path, [a, b], near_duplicates=0.9)
    assert dropped(store) == [("b", 0, "duplicate"), ("b", 1, "near duplicate"), ("b", 2, "near duplicate")]
    assert [store.ledger["b"].duplicates, store.ledger["b"].near_duplicates] == [1, 2]
    assert len(mix(tmp_path, [a, b]).train) == 5


def test_the_ledger_carries_where_a_source_came_from_and_adds_up_in_total(tmp_path):
    a, b = FakeStore("a", [Talk(SHORT)] * 3, rejected={"empty": 2}), FakeStore("b", [Talk((4, 6))])
    a.info["repaired"] = {"merged turns": 1}
    b.info["files"] = [{"name": n, "sha256": n, "first_row": 0, "rows": 0} for n in ("p", "q")]
    store = mix(tmp_path, [a, b], expected_total=6)
    values = json.loads((tmp_path / "ledger.json").read_text())
    of_a, of_b = values["sources"]
    assert [of_a[name] for name in ("origin", "format", "key")] == ["a.jsonl", "messages", "key of a"]
    assert (of_a["sha256"], of_a["repaired"], of_a["rejected"]) == ("aa", {"merged turns": 1}, {"empty": 2})
    assert of_b["sha256"] == hashlib.sha256(b"pq").hexdigest()
    assert values["total"]["rows_read"] == 6
    assert (values["total"]["rejected"], values["total"]["kept"], values["total"]["examples"]) == (2, 4, 4)
    assert (values["total"]["tokens"], values["total"]["trained_tokens"]) == (40, 3 * 3 + 4)
    assert (values["expected_total"], values["settings"]["max_length"]) == (6, 1000)
    assert store.ledger.lines() == [
        "a (messages): 5 rows read; 3 kept; 2 rejected (2 empty); 1 repaired (merged turns)",
        "b (messages): 1 rows read; 1 kept",
        "4 conversations, 2 fewer than the 6 expected",
    ]
    assert store.summary() == "4 examples, 40 tokens, 13 trained (32.5%); 0 held out, of 6 rows"


def test_examples_are_read_as_they_stand_in_the_sources(tmp_path):
    a, b = FakeStore("a", [Talk(SHORT), Talk((4, 6, 5, 7))]), FakeStore("b", [Talk((3, 4, 9))])
    table = mix(tmp_path, [b, a]).train
    assert [table.source(index) for index in range(3)] == ["b", "a", "a"]
    for index, (store, position) in enumerate([(b, 0), (a, 0), (a, 1)]):
        assert table.input_ids(index).dtype == np.int64
        assert table.input_ids(index).tolist() == store.ids(position).tolist()
        assert table.trained(index) == store.spans(position)
    assert table.num_tokens_per_row.tolist() == [16, 10, 22]
    assert table.num_trained_per_row.tolist() == [7, 3, 4 + 5]
    assert (table.num_tokens(2), table.num_trained(2), table.row(2)) == (22, 9, 1)
    for wrong in (3, -1):
        with pytest.raises(IndexError, match="of 3"):
            table.input_ids(wrong)


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    with pytest.raises(DataError, match=r"found none: a .*1 over length") as error:
        mix(tmp_path, [FakeStore("a", [Talk((50, 60))])], max_length=100)
    assert "cut_at_turn" in (error.value.hint or "")
    with pytest.raises(DataError, match="found none") as error:
        mix(tmp_path, [FakeStore("a", [Talk(SHORT, bucket=0)])], held_out=0.5)
    assert "held_out" in (error.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_verify_names_every_number_that_differs(tmp_path):
    talks = [Talk(SHORT, same_as="x"), Talk(SHORT, same_as="x"), Talk((5, 5, 20, 30))]
    a = FakeStore("a", talks, rejected={"empty": 1})
    store = mix(tmp_path, [a], max_length=50, over_length="cut_at_turn")
    verify(store)
    values = json.loads((tmp_path / "ledger.json").read_text())
    values["sources"][0] |= {"duplicates": 0, "not_taken": 1, "tokens": 99, "cut": 0, "rejected": {"none": 1}}
    (tmp_path / "ledger.json").write_text(json.dumps(values))
    with pytest.raises(DataError) as error:
        verify(type(store)(tmp_path, [a]))  # type: ignore[list-item]
    for part in (
        "a: rejected is {'empty': 1} by its tokens, {'none': 1} in the ledger",
        "a: duplicates is 1 by its tokens, 0 in the ledger",
        "a: not_taken is 0 by its tokens, 1 in the ledger",
        "a: cut is 1 by its tokens, 0 in the ledger",
        "a: tokens is 20 by its tokens, 99 in the ledger",
        "a: duplicates is 1 by the digests, 0 in the ledger",
    ):
        assert part in str(error.value)


def test_verify_finds_examples_that_are_not_the_sources(tmp_path):
    a = FakeStore("a", [Talk(SHORT), Talk(SHORT)])
    store = mix(tmp_path, [a])
    a.num_trained = np.array([3, 4])
    a.buckets = np.array([0, 9_999])
    with pytest.raises(DataError, match="a: 1 examples of train differ from the source's tokens"):
        verify(store)


def test_a_ledger_of_other_tokens_or_that_does_not_add_up_is_refused(tmp_path):
    a = FakeStore("a", [Talk(SHORT)])
    store = mix(tmp_path, [a])
    a.info["key"] = "another"
    with pytest.raises(DataError, match="found others for a"):
        type(store)(tmp_path, [a])  # type: ignore[list-item]
    values = json.loads((tmp_path / "ledger.json").read_text())
    values["sources"][0]["kept"] = 0
    (tmp_path / "ledger.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="does not add up"):
        type(store)(tmp_path, [a])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"found no train.arrow, held_out.arrow, ledger.json"):
        type(store).open(tmp_path / "nowhere")


def test_a_damaged_index_is_refused(tmp_path):
    a = FakeStore("a", [Talk(SHORT)])
    store = mix(tmp_path, [a])
    (tmp_path / "train.arrow").write_bytes(b"ARROW1")
    with pytest.raises(DataError, match="damaged"):
        type(store)(tmp_path, [a])  # type: ignore[list-item]


def test_the_earliest_of_equal_digests_stays():
    digests = np.array([[2, 1], [1, 2], [2, 1], [1, 2], [1, 3]], np.uint64)
    assert repeated(digests).tolist() == [False, False, True, True, False]


def test_the_held_out_share_is_rounded_to_buckets():
    assert is_held_out(np.array([0, 699, 700]), 0.07).tolist() == [True, True, False]
    assert not is_held_out(np.array([0]), 0.0).any()


def test_every_reject_of_every_source_stands_in_one_file(tmp_path) -> None:
    stores = [FakeStore("a", [Talk([5, 5])], {"not JSON": 2}), FakeStore("b", [Talk([5, 6])], {"no messages": 1})]
    store = mix(tmp_path, stores)
    lines = [json.loads(line) for line in (store.path / "rejects.jsonl").read_text().splitlines()]
    assert [(line["source"], line["row"], line["reason"]) for line in lines] == [
        ("a", 0, "not JSON"),
        ("a", 1, "not JSON"),
        ("b", 0, "no messages"),
    ]
