"""The items that flipped, as HTML: what was asked, what there was to choose from, and what each model chose."""

from __future__ import annotations

from collections.abc import Iterable

from genesis_sft.report import numbers
from genesis_sft.report.flips import Flip, TaskFlips
from genesis_sft.report.foreign_text import for_html
from genesis_sft.report.html_parts import fold, html_table
from genesis_sft.report.tables import Table

_LONGEST_TEXT = 1500


def html_flips(flips: Iterable[TaskFlips]) -> str:
    """Return the flips of each score, folded under their counts; ``""`` where there are none."""
    return "\n".join(fold(_summary(one), "\n".join(_both_ways(one))) for one in flips)


def _summary(flips: TaskFlips) -> str:
    surface = ", asked in a chat" if flips.surface == "chat" else ""
    shots = f", {flips.num_fewshot}-shot" if flips.num_fewshot else ""
    counts = f"{flips.to_right:,} to right, {flips.to_wrong:,} to wrong"
    return f"{flips.task} ({flips.metric}{shots}{surface}): {counts}"


def _both_ways(flips: TaskFlips) -> Iterable[str]:
    for heading, examples, total in (
        ("From wrong to right", flips.examples_to_right, flips.to_right),
        ("From right to wrong", flips.examples_to_wrong, flips.to_wrong),
    ):
        if examples:
            yield f"<h4>{heading} <span>· {len(examples):,} of {total:,}</span></h4>"
            yield from map(_example, examples)


def _example(flip: Flip) -> str:
    said = f'<p class="asked" dir="auto">{for_html(_shortened(flip.text))}</p>'
    where = f'<p class="soft">{for_html(f"{flip.part}, item {flip.doc_id}")}</p>'
    return f'<article class="flip">\n{where}\n{said}\n{html_table(_choices(flip))}\n</article>'


def _choices(flip: Flip) -> Table:
    """Return a row a choice with its log-likelihoods; of a single word that was asked for, its own."""
    scores = zip(flip.choices, flip.log_likelihoods_before, flip.log_likelihoods_after, strict=True)
    rows = tuple(
        (choice, numbers.nats(old), numbers.nats(new), _note(flip, place))
        for place, (choice, old, new) in enumerate(scores)
    )
    return Table(("Choice", "Before, nats", "After, nats", "Note"), "lrrl", rows)


def _note(flip: Flip, place: int) -> str:
    """Say what a choice is by its number: two choices may read the same."""
    said = (("right", flip.right), ("chosen before", flip.before), ("chosen after", flip.after))
    return ", ".join(words for words, one in said if one == place)


def _shortened(text: str) -> str:
    """Return the end of a long text: behind answered examples stands the question itself."""
    return text if len(text) <= _LONGEST_TEXT else "… " + text[-_LONGEST_TEXT:]
