"""What a user sees while a command works: lines and progress on stderr; stdout is for results only.

On a terminal, progress is a bar with rate and ETA. Elsewhere (a log file, CI) it is a plain line now and then.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_INTERVAL_SECONDS = 15.0
_BESIDE_THE_BAR = 64  # columns: label, counts, unit, times
_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}


def say(line: str) -> None:
    """Write one line for the user to stderr, control characters shown instead of obeyed.

    Where nobody reads stderr any more (``2>&1 | head``), the work goes on without being told of.
    """
    try:
        print(visible(line), file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def visible(text: str) -> str:
    r"""Return the text with control characters shown instead of obeyed.

    Terminal codes (``\x1b`` becomes ``␛``), characters that turn the direction of what follows (``⟨U+202E⟩``) and
    unpaired surrogates (``�``, they cannot be written as UTF-8). Newlines and tabs stay.
    """
    return "".join(_visible(character) for character in text.replace("\r\n", "\n"))


class Progress(Protocol):
    """How far a piece of work has come."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count ``amount`` more units as done; ``note`` replaces the text behind the bar."""


@contextmanager
def progress(label: str, total: float, unit: str, *, done: float = 0) -> Iterator[Progress]:
    """Show a progress bar with rate and ETA while the block runs.

    Args:
        label: What is being done, e.g. ``"training"``.
        total: Number of units in all.
        unit: What one unit is, e.g. ``"steps"``.
        done: Units that an earlier, interrupted run has already done; they do not count towards the rate.
    """
    if sys.stderr.isatty():
        with _bar(label, total, unit, done) as bar:
            yield bar
    else:
        yield _PlainProgress(label, total, unit, done)


def format_duration(seconds: float) -> str:
    """Return seconds as people say them: ``"42 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def _bar(label: str, total: float, unit: str, done: float) -> Iterator[Progress]:
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Display(RichProgress):
        """The bar, and below it what is to be said, however narrow the terminal is."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield from (Text(f"    {task.fields['note']}") for task in self.tasks if task.fields["note"])

    console = Console(stderr=True)
    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=max(6, min(30, console.width - _BESIDE_THE_BAR))),
        MofNCompleteColumn(),
        TextColumn(_one_line(unit), markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Display(*columns, console=console, transient=True) as rich_progress:
        task = rich_progress.add_task(_one_line(label), total=total, completed=int(done), note="")

        class Bar:
            def advance(self, amount: float = 1, note: str = "") -> None:
                rich_progress.update(task, advance=amount, note=_one_line(note))

        yield Bar()


class _PlainProgress:
    """Progress as log lines: at most one every ``PLAIN_INTERVAL_SECONDS``."""

    def __init__(self, label: str, total: float, unit: str, done: float) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start_done, self._done = done, done
        self._started = self._last_shown = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last_shown < PLAIN_INTERVAL_SECONDS or self._done <= self._start_done:
            return
        self._last_shown = now
        elapsed_seconds = now - self._started
        rate = (self._done - self._start_done) / elapsed_seconds
        eta = format_duration(max(0.0, self._total - self._done) / rate)
        tail = f"  {note}" if note else ""
        say(f"  {self._label}: {self._done:g} of {self._total:g} {self._unit}, ETA {eta}{tail}")


def _one_line(text: str) -> str:
    return visible(text).replace("\n", " ")


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if 0xD800 <= code <= 0xDFFF:
        return "\N{REPLACEMENT CHARACTER}"
    if character in _DIRECTIONS or unicodedata.category(character) == "Cc" or code in (0x2028, 0x2029):
        return f"⟨U+{code:04X}⟩"
    return character
