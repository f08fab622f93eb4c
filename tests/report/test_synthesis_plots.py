"""The plot of a data card shows the card's numbers, whatever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from genesis_sft.report.synthesis_plots import plot_card


def card(**changes: Any) -> dict[str, Any]:
    lengths = {"p5": 5.0, "median": 20.0, "p95": 60.0}
    areas = {"safety": {"conversations": 7, "questions": lengths, "answers": lengths}}
    return {
        "conversations": {"planned": 40, "finished": 12, "kept": 9, "rejected": {"language": 2, "cut off": 1},
                          "ended": {"empty answer": 3}, "unfinished": 25},
        "main_principles": {"safety": {"be_kind": 5, "be_right": 2}, "calm": {"be_kind": 2, "be_brief": 0}},
        "diversity": {
            "answers": {"openings": [["sure here is a", 3], ["$x <b> & \u202e", 1]], "effective_openings": 6.4},
            "areas": areas,
        },
    } | changes  # fmt: skip


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return [
        text for node in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(node.itertext()).strip())
    ]


def test_all_parts_are_named(tmp_path: Path) -> None:
    plot_card(card(), tmp_path / "card.svg")
    found = texts(tmp_path / "card.svg")
    for text in ("9 of 12 finished conversations kept; 40 planned", "be kind", "safety", "sure here is a …",
                 "safety (7)", "language", "empty answer (not finished)", "Left out: 6"):  # fmt: skip
        assert text in found


def test_equal_cards_give_equal_pictures(tmp_path: Path) -> None:
    plot_card(card(), tmp_path / "one.svg")
    plot_card(card(), tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    other = card(main_principles={"safety": {"be_kind": 6}})
    plot_card(other, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() != (tmp_path / "two.svg").read_bytes()


def test_a_card_without_conversations_has_a_picture_too(tmp_path: Path) -> None:
    counts = {"planned": 40, "finished": 0, "kept": 0, "rejected": {}, "ended": {}, "unfinished": 40}
    nothing = {"answers": {"openings": [], "effective_openings": 0.0}, "areas": {}}
    plot_card(card(conversations=counts, main_principles={}, diversity=nothing), tmp_path / "card.svg")
    assert "Nothing was left out" in texts(tmp_path / "card.svg")


def test_the_largest_rows_are_shown_where_there_are_many(tmp_path: Path) -> None:
    many = {f"principle_{number:02d}": number for number in range(40)}
    plot_card(card(main_principles={"safety": many}), tmp_path / "card.svg")
    found = texts(tmp_path / "card.svg")
    assert "Main principle, by area (the 16 largest of 40)" in found
    assert "principle 39" in found
    assert "principle 23" not in found
