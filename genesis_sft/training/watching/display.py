"""What is seen of training while it runs, on stderr: a live view on a terminal, a line now and then elsewhere.

training ━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━  step 12 of 40  1 min 05 s  ETA 2 min 31 s
loss 1.412 (smoothed 1.530)  learning rate 1.8e-05  gradient norm 0.83
412 tokens/s, 301 trained  MFU 53 %  memory 2.1 GB
held-out loss after step 10: 1.447  safety 1.390  sums 1.502
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from genesis_sft.console import PLAIN_INTERVAL_SECONDS, format_duration, say, visible
from genesis_sft.training.watching.metrics import smoothed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_LONGEST_SAMPLE = 200


class Display(Protocol):
    """Shows how training goes."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Show a step that is done, given as its row of ``metrics.jsonl``."""

    def held_out(self, step: int, loss: float, sources: Mapping[str, float]) -> None:
        """Show losses on held-out conversations after a step: of all, and of each source, nats per trained token."""

    def sample(self, step: int, prompt: str, answer: str, ended: bool) -> None:
        """Show how the model answers after a step, and whether it ended its turn."""

    def alarm(self, text: str) -> None:
        """Show a warning, which stays on the screen."""


@contextmanager
def training_display(
    num_steps: int,
    total_tokens: int,
    done_tokens: int,
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Display]:
    """Show training while the block runs.

    Args:
        num_steps: Steps of the whole run.
        total_tokens: Its tokens.
        done_tokens: Those of steps that an earlier, interrupted run has done; they do not count towards the rate.
        earlier: The rows of these steps: the smoothed loss goes on from them.
    """
    figures = Figures(num_steps, total_tokens, done_tokens, earlier)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live_view(figures) as display:
            yield display
    else:
        yield _PlainDisplay(figures)


class Figures:
    """What there is to show; the same on a terminal and in a log.

    Args:
        num_steps: See `training_display`.
        total_tokens: See there.
        done_tokens: See there.
        earlier: See there.
    """

    def __init__(
        self, num_steps: int, total_tokens: int, done_tokens: int, earlier: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.num_steps, self.total_tokens, self.done_tokens = num_steps, total_tokens, done_tokens
        self.num_done = len(earlier)
        self._tokens_at_start, self._started = done_tokens, time.monotonic()
        self._smoothed: float | None = None
        for row in earlier:
            self._smoothed = smoothed(self._smoothed, row["loss"])
        self._row: Mapping[str, Any] = {}
        self._held_out: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a step that is done."""
        self.num_done, self._row = row["step"], row
        self.done_tokens += row["tokens"]
        self._smoothed = smoothed(self._smoothed, row["loss"])

    def add_held_out(self, step: int, loss: float, sources: Mapping[str, float]) -> None:
        """Take in losses on held-out conversations; ``sources`` may have all of them under ``""`` too."""
        each = [f"{visible(name)} {value:.3f}" for name, value in sources.items() if name]
        self._held_out = [f"held-out loss after step {step}: {loss:.3f}", *each]

    @property
    def elapsed_seconds(self) -> float:
        """How long this process has been training."""
        return time.monotonic() - self._started

    @property
    def eta(self) -> str:
        """How long the rest will take at this process's rate so far, held-out losses and checkpoints included."""
        done_here = self.done_tokens - self._tokens_at_start
        if not done_here:
            return "?"
        return format_duration((self.total_tokens - self.done_tokens) * self.elapsed_seconds / done_here)

    def of_step(self) -> list[str]:
        """Return the figures of the last step, each ready to be shown; those that are not known are left out."""
        row = self._row
        if not row:
            return []
        trained = f", {row['trained_tokens'] / row['elapsed_seconds']:,.0f} trained" if row["elapsed_seconds"] else ""
        shown: dict[str, Callable[[Any], str]] = {
            "loss": lambda loss: f"loss {loss:.3f} (smoothed {self._smoothed or loss:.3f})",
            "learning_rate": lambda rate: f"learning rate {rate:.2g}",
            "grad_norm": lambda norm: f"gradient norm {norm:.3g}",
            "tokens_per_second": lambda rate: f"{rate:,.0f} tokens/s{trained}",
            "mfu": lambda share: f"MFU {share:.0%}".replace("%", " %"),
            "memory_bytes": lambda count: f"memory {count / 1e9:.1f} GB",
        }
        parts = [show(row[name]) for name, show in shown.items() if row.get(name) is not None]
        return [*parts, "skipped, as its gradient was not finite"] if row["skipped"] else parts

    def of_held_out(self) -> list[str]:
        """Return the last held-out losses, each ready to be shown; empty before the first measurement."""
        return self._held_out


def wrapped(parts: Sequence[str], width: int, indent: str = "  ") -> list[str]:
    """Return lines of at most ``width`` columns with two spaces between parts; a longer part is a line of its own.

    Example:
        >>> wrapped(["loss 1.412", "gradient norm 0.83", "MFU 53 %"], 34)
        ['  loss 1.412  gradient norm 0.83', '  MFU 53 %']
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(indent + part)
    return lines


class _Lines:
    """What is written as lines in either case: they pass above a live view, and stay."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def sample(self, step: int, prompt: str, answer: str, ended: bool) -> None:
        say(f"  sample after step {step}: {_one_line(prompt)}")
        say(f"    -> {_one_line(answer)}{'' if ended else ' [did not end its turn]'}")

    def alarm(self, text: str) -> None:
        say(f"  alarm: {text}")


class _PlainDisplay(_Lines):
    """The first step at once, and then at most one line every ``PLAIN_INTERVAL_SECONDS``."""

    _last_shown: float | None = None

    def step(self, row: Mapping[str, Any]) -> None:
        self._figures.add(row)
        now = time.monotonic()
        if self._last_shown is not None and now - self._last_shown < PLAIN_INTERVAL_SECONDS:
            return
        self._last_shown = now
        head = f"training: step {row['step']} of {self._figures.num_steps}, ETA {self._figures.eta}"
        say("  " + "  ".join([head, *self._figures.of_step()]))

    def held_out(self, step: int, loss: float, sources: Mapping[str, float]) -> None:
        self._figures.add_held_out(step, loss, sources)
        say("  " + "  ".join(self._figures.of_held_out()))


class _LiveDisplay(_Lines):
    """What the view below shows is drawn anew several times a second."""

    def step(self, row: Mapping[str, Any]) -> None:
        self._figures.add(row)

    def held_out(self, step: int, loss: float, sources: Mapping[str, float]) -> None:
        self._figures.add_held_out(step, loss, sources)


class _View:
    """The live view as rich draws it."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        figures, width = self._figures, options.max_width
        bar = Table.grid(padding=(0, 1))
        times = f"{format_duration(figures.elapsed_seconds)}  ETA {figures.eta}"
        bar.add_row(
            Text("  training"),
            ProgressBar(total=figures.total_tokens, completed=figures.done_tokens, width=max(5, min(30, width - 60))),
            Text(f"step {figures.num_done} of {figures.num_steps}  {times}"),
        )
        yield bar
        lines = [*wrapped(figures.of_step(), width), *wrapped(figures.of_held_out(), width)]
        yield Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


@contextmanager
def _live_view(figures: Figures) -> Iterator[Display]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(_View(figures), console=console, transient=True, refresh_per_second=4, redirect_stdout=False):
        yield _LiveDisplay(figures)


def _one_line(text: str) -> str:
    """Return a text without line breaks, cut where it is long."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_SAMPLE else words[:_LONGEST_SAMPLE] + " ..."
