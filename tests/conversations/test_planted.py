"""Rows planted in real conversations are found, as they are and lightly edited; unrelated ones are left alone."""

import pytest

planted_rows = pytest.importorskip("bench.planted_rows", reason="benchmarks are not part of a source distribution")


@pytest.fixture(scope="module")
def conversations(shared_data):
    return planted_rows.read_conversations(shared_data / "sft")


def test_near_duplicates(conversations):
    found = planted_rows.planted_near_duplicates(conversations)
    assert found["as it is"] == 200
    assert found["lightly edited"] >= 190
    assert found["unrelated"] < 2


def test_benchmark_items(conversations, shared_data):
    found = planted_rows.planted_items(conversations, planted_rows.read_questions(shared_data / "evals"))
    assert found["as it is"] == 200
    assert found["lightly edited"] >= 190
    assert found["unrelated"] < 2


def test_whole_sources_that_hold_no_items_keep_their_rows(conversations, shared_data):
    index = planted_rows.QuestionIndex(planted_rows.read_questions(shared_data / "evals"))
    held = {row for row, _ in index.overlaps(conversations)}
    assert len(held) < len(conversations) / 1000
