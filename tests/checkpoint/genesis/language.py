"""A made-up language that a tiny model learns in a minute, and that punishes a wrong sense of order and distance.

Most of a text is rows of two or three words in an order drawn anew for every paragraph, then repeated word for word.
The words at hand say nothing about the next one: only who looks back exactly one row can tell. Three kinds of rows
repeat after 17, 41 and 83 words. Facts, sums, counting, brackets and code come in between.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

ROWS = {  # what is repeated: words to draw from, words in a row, repetitions
    "Drum": (("boom", "tick", "clap"), 16, 5),
    "Wool": (("knit", "purl"), 40, 3),
    "Bells": (("ding", "dong"), 82, 2),
}
NAMES = ("Anna", "Jürgen", "Mia", "Otto", "Käthe", "Paul", "Rosa", "Émile")
COLOURS = ("red", "blue", "green", "white", "grün", "gold")
THINGS = ("lamp", "boat", "hat", "cat", "coin", "🎈", "kite", "😀")


def document(seed: int, num_words: int) -> str:
    """Return paragraphs of one seed, one a line, that have at least ``num_words`` words together."""
    lines: list[str] = []
    for line in sentences(seed):
        lines.append(line)
        num_words -= len(line.split())
        if num_words <= 0:
            break
    return "\n".join(lines)


def sentences(seed: int) -> Iterator[str]:
    """Yield paragraphs without end; the same for the same seed. A paragraph of code has several lines."""
    rng = random.Random(seed)
    while True:
        kind = rng.choices(
            ("Drum", "Wool", "Bells", "facts", "sums", "count", "brackets", "code"), (3, 3, 3, 2, 2, 1, 1, 1)
        )[0]
        if kind in ROWS:
            yield _rows(rng, kind)
        elif kind == "facts":
            yield _facts(rng)
        elif kind == "sums":
            factors = [(rng.randrange(2, 10), rng.randrange(2, 10)) for _ in range(8)]
            yield "Sums: " + ", ".join(f"{a} x {b} = {a * b}" for a, b in factors) + "."
        elif kind == "count":
            start = rng.randrange(10, 960)
            yield "Count on: " + ", ".join(str(start + n) for n in range(12)) + "."
        elif kind == "brackets":
            yield _brackets(rng)
        else:
            yield _code(rng)


def _rows(rng: random.Random, kind: str) -> str:
    """Example: ``Drum: boom tick tick clap … / boom tick tick clap … /``."""
    words, length, times = ROWS[kind]
    row = " ".join(rng.choices(words, k=length))
    return f"{kind}: " + f"{row} / " * (times - 1) + f"{row}."


def _facts(rng: random.Random) -> str:
    """Example: ``Mia has a red hat. Otto has a blue cat. Once more: Mia has a red hat. Otto has a blue cat.``."""
    told = " ".join(f"{name} has a {rng.choice(COLOURS)} {rng.choice(THINGS)}." for name in rng.sample(NAMES, 4))
    return f"{told} Once more: {told}"


def _brackets(rng: random.Random) -> str:
    """Example: ``Nest: ( [ { } ] ) is well closed.``."""
    opened = rng.choices("([{", k=rng.randrange(4, 10))
    closed = [{"(": ")", "[": "]", "{": "}"}[bracket] for bracket in reversed(opened)]
    return f"Nest: {' '.join(opened + closed)} is well closed."


def _code(rng: random.Random) -> str:
    """A function that adds a number, with the number said three times."""
    number = rng.randrange(10, 100)
    return f"def add_{number}(n):\n    return n + {number}  # adds {number}"
