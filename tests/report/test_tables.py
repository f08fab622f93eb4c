from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from genesis_sft.mixture.ledger import ROWS, SourceLedger
from genesis_sft.report import mixture_tables, tables
from tests.report.records import task_change


def entry(name: str, **counts: Any) -> dict[str, Any]:
    """An entry of the ledger as it stands in ledger.json; rows that are kept are examples, unless the test says so."""
    counts = {"rejected": {}, **counts}
    gone = sum(sum(counts["rejected"].values()) if key == "rejected" else counts.get(key, 0) for key in ROWS[:-1])
    kept = counts["rows_read"] - gone
    return asdict(SourceLedger(**{"name": name, "kept": kept, "taken": kept, "examples": kept, **counts}))


LEDGER = {
    "sources": [
        entry(
            "mine", rows_read=20, rejected={"empty": 2, "no user": 3}, duplicates=1, held_out=4, over_length=2,
            tokens=100, trained_tokens=60,
        ),
        entry(
            "his", rows_read=1000, not_taken=900, take=100, licence="MIT", origin="a/b", tokens=300,
            trained_tokens=140,
        ),
    ],
    "expected_total": None,
}  # fmt: skip


def test_the_rows_of_the_mixture_add_up_and_a_column_of_zeros_is_left_out() -> None:
    table = mixture_tables.rows_table(LEDGER)
    assert table.columns == (
        "Source", "Rows read", "Rejected", "Duplicates", "Held out", "Over length", "Not taken", "Kept", "Asked for",
    )  # fmt: skip
    assert table.rows[0] == ("mine", "20", "5", "1", "4", "2", "0", "8", "all")
    assert table.rows[1] == ("his", "1,000", "0", "0", "0", "0", "900", "100", "100")
    assert table.total == ("Total", "1,020", "5", "1", "4", "2", "900", "108", "")
    assert mixture_tables.rows_check(LEDGER) == (
        "Every row is accounted for: 1,020 rows read = 5 rejected + 1 duplicates + 4 held out + 2 over length + "
        "900 not taken + 108 kept."
    )


def test_every_fate_of_a_row_has_its_column() -> None:
    counts = {name: number for number, name in enumerate(ROWS[1:-1], 2)}
    one = entry("a", rows_read=100, rejected={"bad": 1}, epochs=2.5, share=0.2, marked=4, **counts)
    table = mixture_tables.rows_table({"sources": [one]})
    assert table.columns[2:] == (
        "Rejected", "Duplicates", "Near duplicates", "Contaminated", "Held out", "Over length", "Untrained",
        "Not taken", "Kept", "Asked for",
    )  # fmt: skip
    assert table.rows == (("a", "100", "1", "2", "3", "4", "5", "6", "7", "8", "64", "20 % ×2.5"),)
    assert len(table.align) == len(table.columns)


def test_a_ledger_that_does_not_add_up_is_said_so() -> None:
    wrong = {"sources": [LEDGER["sources"][1], {**entry("lost", rows_read=10), "kept": 7}]}
    assert mixture_tables.rows_check(wrong) == ("The ledger does not add up: lost (10 rows read, 7 accounted for).")


def test_the_reasons_of_rejected_rows_most_frequent_first() -> None:
    assert mixture_tables.rejects_table(LEDGER).rows == (("mine", "no user", "3"), ("mine", "empty", "2"))


def test_where_the_sources_come_from() -> None:
    assert mixture_tables.sources_table(LEDGER).rows[1] == ("his", "MIT", "–", "a/b", "–", "–", "–")


def test_examples_tokens_and_shares_add_up() -> None:
    table = mixture_tables.tokens_table(LEDGER)
    assert table.columns[1] == "Examples"
    assert table.rows[0] == ("mine", "8", "7.4 %", "100", "60", "30.0 %", "60.0 %")
    assert table.total == ("Total", "108", "100.0 %", "400", "200", "100.0 %", "50.0 %")
    assert mixture_tables.tokens_check(LEDGER) == "108 examples = 108 rows kept."


def test_repeats_and_parts_of_long_conversations_are_told_apart() -> None:
    one = entry("a", rows_read=10, taken=15, examples=18, cut=2, split=3, lost_exchanges=5, tokens=90, trained_tokens=9)
    ledger = {"sources": [one]}
    assert mixture_tables.tokens_table(ledger).rows == (("a", "15", "18", "100.0 %", "90", "9", "100.0 %", "10.0 %"),)
    assert mixture_tables.tokens_check(ledger) == (
        "18 examples = 10 rows kept + 5 repeats + 3 further parts of conversations that were split. 2 of the rows were "
        "too long to keep whole: 5 exchanges are left out."
    )


def test_what_was_asked_for_and_did_not_come_out_is_said() -> None:
    sources = [
        entry("a", rows_read=10, take=12, tokens=90, trained_tokens=50, marked=3),
        entry("b", rows_read=5, share=0.6, tokens=90, trained_tokens=50),
    ]
    ledger = {"sources": sources, "expected_total": 20}
    assert mixture_tables.tokens_check(ledger) == (
        "15 examples = 15 rows kept. a has 2 fewer than the 12 asked for. b has 50.0 % of the trained tokens, of 60 % "
        "asked. 15 conversations are 5 fewer than the 20 expected. 3 conversations hold a benchmark item and were not "
        "left out for it."
    )
    assert "15 conversations are as many as the 15 expected." in mixture_tables.tokens_check(
        ledger | {"expected_total": 15}
    )
    # repeats count: as many conversations are trained on
    twice = {"sources": [entry("a", rows_read=10, taken=20, examples=20)], "expected_total": 20}
    assert "20 conversations are as many as the 20 expected." in mixture_tables.tokens_check(twice)


def test_an_empty_mixture_has_empty_tables() -> None:
    assert mixture_tables.rows_table({"sources": []}).rows == ()
    assert mixture_tables.tokens_table({"sources": []}).rows == ()


def test_a_benchmark_row() -> None:
    assert tables.task_table([task_change()]).rows == (
        (
            "piqa",
            "acc",
            "40.0 %",
            "50.0 %",
            "+10.0 (6.0 to 14.0) points",
            "0.002",
            "5.6 points",
            "25.0 %",
            "1,000",
            "better",
        ),
    )


@pytest.mark.parametrize(("n", "cell"), [(9, "–"), (10, "5.6 points")])
def test_so_few_items_that_no_claim_is_made_make_nothing_visible(n: int, cell: str) -> None:
    [row] = tables.task_table([task_change(n=n)]).rows
    assert row[6] == cell


def test_a_perplexity_row_shows_perplexity_and_compares_nats() -> None:
    change = task_change(
        metric="perplexity", unit="nats per word", before=4.0, after=3.9, difference=-0.1, chance=None,
        smallest_visible=0.056, low=-0.14, high=-0.06, before_above_chance=None, after_above_chance=None,
    )  # fmt: skip
    [row] = tables.task_table([change]).rows
    assert row[2:] == ("54.6", "49.4", "−0.100 (−0.140 to −0.060) nats", "0.002", "0.056 nats", "–", "1,000", "better")


def test_the_base_check_shows_all_that_was_measured() -> None:
    check = {
        "verdict": "works", "nats_per_token": 3.7, "uniform": 10.8, "unigram": 7.41, "training_loss": None,
        "passages": [{"name": "prose", "num_tokens": 50, "nats_per_token": 3.25}],
    }  # fmt: skip
    assert tables.base_table(check).rows == (
        ("the model, nats per token of plain text", "3.700"),
        ("word frequencies alone, nats per token", "7.410"),
        ("guessing uniformly, nats per token", "10.800"),
        ("passages.prose.num_tokens", "50"),
        ("passages.prose.nats_per_token", "3.25"),
    )


def test_durations_are_said_as_people_say_them() -> None:
    table = tables.provenance_table("seconds", {"train": 65.0, "report": None})
    assert table.rows == (("train", "1 min 05 s"), ("report", "–"))
