"""Parts of what is said of a result, on its card's page and in the terminal: tables, and how varied it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from genesis_sft.synthesis.screening.diversity import SAMPLE_WORDS, Diversity, Lengths, SideDiversity

FEWEST = 50
"""Conversations from which on shares and rates of them are told: those of fewer say nothing."""

_TOO_FEW = f"how varied they are is told of {FEWEST} conversations and more"


def diversity_lines(found: Diversity) -> Iterator[str]:
    """Yield for the terminal how varied conversations are, in plain words."""
    if not found.conversations:
        yield "no conversations"
        return
    sides = (("questions", found.questions), ("answers", found.answers))
    if found.conversations < FEWEST:
        yield from (f"{name}: {_spread(side).median:,.0f} words (median)" for name, side in sides)
        yield _TOO_FEW
        return
    for name, side in sides:
        yield from _side_lines(name, side)
    shares = [f"{share:.1%} have {least:.0%}" for least, share in found.near_duplicates.items()]
    yield (
        f"near duplicates: {shares[0]} or more of their runs of five words in common with an earlier conversation, "
        f"{', '.join(shares[1:])}"
    )


def diversity_page(found: Diversity) -> Iterator[str]:
    """Yield the card's section of how varied conversations are."""
    sides, enough = (found.questions, found.answers), found.conversations >= FEWEST
    spread = ": 5 % are below - median - 5 % are above" if enough else ", median"
    rows: list[tuple[Any, ...]] = [
        ("messages", *(f"{side.messages:,}" for side in sides)),
        (f"words of a message{spread}", *(_lengths(side.lengths, enough) for side in sides)),
    ]
    if enough:
        different = "different words, pairs in a row, threes in a row, over the number of words (distinct-1, -2, -3)"
        sample = f"the same of {found.sample_words:,} words drawn at random, by which sets of other sizes compare"
        rows += [
            (different, *(_distinct(side.distinct) for side in sides)),
            (sample, *(_distinct(side.distinct_of_sample) for side in sides)),
            ("conversations with one of the ten commonest openings", *(f"{side.openings_share:.1%}" for side in sides)),
            ("equally common openings that are as varied", *(f"{side.effective_openings:,.0f}" for side in sides)),
        ]
    yield from table(("", "questions", "answers"), rows)
    if enough:
        yield "An opening is the first four words of the first question or answer.\n"
        shares = ", ".join(f"{share:.2%} at {threshold:g}" for threshold, share in found.near_duplicates.items())
        yield f"Conversations that resemble an earlier one (Jaccard similarity of word 5-grams): {shares}.\n"
    else:
        yield f"{_TOO_FEW.capitalize()}.\n"
    areas = (
        (name, f"{area.conversations:,}", _lengths(area.questions, enough), _lengths(area.answers, enough))
        for name, area in found.areas.items()
    )
    yield from table(("area", "conversations", "words of a question", "words of an answer"), areas)


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Yield a table of Markdown."""
    rows = [tuple(f"{cell:,}" if isinstance(cell, int) else _cell(str(cell)) for cell in row) for row in rows]
    if not rows:
        yield "None.\n"
        return
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _side_lines(name: str, side: SideDiversity) -> Iterator[str]:
    lengths, (opening, count), sample = _spread(side), side.openings[0], side.distinct_of_sample
    yield f"{name}: {lengths.median:,.0f} words (median; 5 % below {lengths.p5:,.0f}, 5 % above {lengths.p95:,.0f})"
    words, pairs, threes = (f"{100 * value:.0f}" for value in sample or side.distinct)
    counted = f"{SAMPLE_WORDS:,} drawn at random" if sample else f"{side.words:,} in all; fewer the larger a set is"
    yield f"  for every 100 words {words} different ones, {pairs} different pairs in a row, {threes} threes ({counted})"
    yield (
        f"  beginnings (four words): the ten commonest open {side.openings_share:.1%} of the conversations, "
        f"{opening + ' ...'!r} alone {count:,}; as varied as {side.effective_openings:,.0f} equally common ones"
    )


def _spread(side: SideDiversity) -> Lengths:
    assert side.lengths is not None  # a kept conversation has both sides
    return side.lengths


def _distinct(values: tuple[float, ...] | None) -> str:
    return "too few words" if values is None else ", ".join(f"{value:.3f}" for value in values)


def _lengths(found: Lengths | None, enough: bool) -> str:
    if found is None:
        return "none"
    return f"{found.p5:,.0f} - {found.median:,.0f} - {found.p95:,.0f}" if enough else f"{found.median:,.0f}"


def _cell(text: str) -> str:
    """Return text that cannot break out of a table: a model's name is what a server sent."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
