from __future__ import annotations

from typing import Any

import pytest

from genesis_sft.report import mixture_tables, numbers, tables
from tests.report.records import task_change


def entry(name: str, **counts: Any) -> dict[str, Any]:
    return {"rejected": {}, "duplicates": 0, "held_out": 0, "not_taken": 0, "take": None, "name": name, **counts}


LEDGER = {
    "sources": [
        entry("mine", rows_read=20, rejected={"empty": 2, "no user": 3}, duplicates=1, held_out=4, kept=10),
        entry("his", rows_read=1000, not_taken=900, kept=100, take=100, licence="MIT", origin="a/b"),
    ]
}
COUNTS = {
    "mine": {"examples": 8, "tokens": 100, "trained_tokens": 60, "dropped_over_length": 1, "cut": 2, "untrained": 1},
    "his": {"examples": 100, "tokens": 300, "trained_tokens": 140, "dropped_over_length": 0, "cut": 0, "untrained": 0},
}


def test_the_rows_of_the_mixture_add_up() -> None:
    table = mixture_tables.rows_table(LEDGER)
    assert table.rows[0] == ("mine", "20", "5", "1", "4", "0", "10", "all")
    assert table.rows[1] == ("his", "1,000", "0", "0", "0", "900", "100", "100")
    assert table.total == ("Total", "1,020", "5", "1", "4", "900", "110", "")
    assert mixture_tables.rows_check(LEDGER) == (
        "Every row is accounted for: 1,020 rows read = 5 rejected + 1 duplicates + 4 held out + "
        "900 not taken + 110 kept."
    )


def test_a_ledger_that_does_not_add_up_is_said_so() -> None:
    wrong = {"sources": [LEDGER["sources"][1], entry("lost", rows_read=10, kept=7)]}
    assert mixture_tables.rows_check(wrong) == ("The ledger does not add up: lost (10 rows read, 7 accounted for).")


def test_the_reasons_of_rejected_rows_most_frequent_first() -> None:
    assert mixture_tables.rejects_table(LEDGER).rows == (("mine", "no user", "3"), ("mine", "empty", "2"))


def test_examples_tokens_and_shares_add_up() -> None:
    table = mixture_tables.tokens_table(COUNTS)
    assert table.rows[0] == ("mine", "1", "2", "8", "7.4 %", "100", "60", "30.0 %", "60.0 %")
    assert table.total == ("Total", "1", "2", "108", "100.0 %", "400", "200", "100.0 %", "50.0 %")
    assert mixture_tables.tokens_check(LEDGER, COUNTS) == (
        "Every kept conversation is accounted for: 110 kept = 108 examples + 1 dropped (too long) + "
        "1 dropped (nothing in it is trained)."
    )


def test_examples_that_do_not_add_up_are_said_so() -> None:
    text = mixture_tables.tokens_check(LEDGER, {"mine": COUNTS["mine"]})
    assert text == "Examples do not add up to the conversations kept: his (100 kept, 0 accounted for)."


def test_an_empty_mixture_has_empty_tables() -> None:
    assert mixture_tables.rows_table({"sources": []}).rows == ()
    assert mixture_tables.tokens_table({}).rows == ()


def test_a_benchmark_row() -> None:
    assert tables.task_table([task_change()]).rows == (
        ("piqa", "acc", "40.0 %", "50.0 %", "+10.0 ± 2.0", "5.6", "25.0 %", "1,000", "better"),
    )


def test_a_perplexity_row_shows_perplexity_and_compares_nats() -> None:
    change = task_change(
        metric="perplexity", unit="nats per word", before=4.0, after=3.9, difference=-0.1, chance=None,
        smallest_visible=0.056, p_value=None, before_above_chance=None, after_above_chance=None,
    )  # fmt: skip
    [row] = tables.task_table([change]).rows
    assert row[2:] == ("54.6", "49.4", "−0.100 ± 0.020 nats", "0.056 nats", "–", "1,000", "better")


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


@pytest.mark.parametrize(
    ("nats", "shown"),
    [(4.05, "57.4"), (15.0275, "3,360,000"), (28.0, "10^12"), (0.0, "1.00"), (11.5, "98,700")],
)
def test_perplexities_have_three_digits(nats: float, shown: str) -> None:
    assert numbers.perplexity(nats) == shown


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert numbers.points(-0.0001, 0.01) == "0.0 ± 1.0"
    assert numbers.points(-0.031, None) == "−3.1 ± –"
