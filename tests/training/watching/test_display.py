"""What is seen of training: the figures of a step, lines in a log, a live view on a terminal."""

import sys
import time
from typing import Any

import pytest

from genesis_sft.training.watching.display import Figures, training_display, wrapped
from tests.training.watching.terminal import lines_of, run_on_terminal

ROW: dict[str, Any] = {
    "step": 1,
    "loss": 2.0,
    "learning_rate": 2e-5,
    "grad_norm": 0.83456,
    "tokens": 5000,
    "trained_tokens": 3000,
    "skipped": False,
    "elapsed_seconds": 10.0,
    "tokens_per_second": 500.0,
    "mfu": 0.531,
    "memory_bytes": 2_140_000_000,
}


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_figures_of_a_step() -> None:
    figures = Figures(4, 20_000, 0)
    assert figures.of_step() == []
    figures.add(ROW)
    figures.add(ROW | {"step": 2, "loss": 1.0})
    assert figures.of_step() == [
        "loss 1.000 (smoothed 1.900)",
        "learning rate 2e-05",
        "gradient norm 0.835",
        "500 tokens/s, 300 trained",
        "MFU 53 %",
        "memory 2.1 GB",
    ]


def test_held_out_losses_are_those_of_each_source_behind_that_of_all() -> None:
    figures = Figures(4, 20_000, 0)
    figures.add_held_out(3, 1.447, {"": 1.447, "s\x1b[2Jums": 1.502})
    assert figures.of_held_out() == ["held-out loss after step 3: 1.447", "s␛[2Jums 1.502"]


def test_what_is_not_known_is_left_out_and_a_skipped_step_is_named() -> None:
    figures = Figures(4, 20_000, 0)
    figures.add(ROW | {"loss": None, "grad_norm": None, "mfu": None, "memory_bytes": None, "skipped": True})
    assert figures.of_step() == [
        "learning rate 2e-05",
        "500 tokens/s, 300 trained",
        "skipped, as its gradient was not finite",
    ]


def test_the_rest_is_estimated_from_this_process_alone(clock: Clock) -> None:
    figures = Figures(8, 40_000, 20_000, [ROW] * 4)
    assert (figures.num_done, figures.eta) == (4, "?")
    clock.now += 15  # for the step itself, and for a checkpoint
    figures.add(ROW | {"step": 5})
    assert figures.eta == "45 s"


def test_the_smoothed_loss_goes_on_where_an_interrupted_run_was() -> None:
    figures = Figures(8, 40_000, 10_000, [ROW, ROW | {"loss": None}])
    figures.add(ROW | {"step": 3, "loss": 1.0})
    assert figures.of_step()[0] == "loss 1.000 (smoothed 1.900)"


def test_figures_are_wrapped_between_them() -> None:
    parts = ["loss 1.412", "gradient norm 0.83", "MFU 53 %"]
    assert wrapped(parts, 34) == ["  loss 1.412  gradient norm 0.83", "  MFU 53 %"]
    assert wrapped(parts, 32) == ["  loss 1.412  gradient norm 0.83", "  MFU 53 %"]
    assert wrapped(parts, 31) == ["  loss 1.412", "  gradient norm 0.83  MFU 53 %"]
    assert wrapped(parts, 1) == ["  loss 1.412", "  gradient norm 0.83", "  MFU 53 %"]


def test_a_log_has_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with training_display(100, 500_000, 0) as display:
        for step in range(1, 4):
            clock.now += 10
            display.step(ROW | {"step": step})
        display.held_out(3, 1.447, {"": 1.447, "safety": 1.39, "s\x1b[2Jums": 1.502})
        display.sample(3, "What is\n1 + 1?", "two", False)
        display.alarm("the rows are frozen")
    figures = "  learning rate 2e-05  gradient norm 0.835  500 tokens/s, 300 trained  MFU 53 %  memory 2.1 GB"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        f"  training: step 1 of 100, ETA 16 min 30 s  loss 2.000 (smoothed 2.000){figures}",
        f"  training: step 3 of 100, ETA 16 min 10 s  loss 2.000 (smoothed 2.000){figures}",
        "  held-out loss after step 3: 1.447  safety 1.390  s␛[2Jums 1.502",
        "  sample after step 3: What is 1 + 1?",
        "    -> two [did not end its turn]",
        "  alarm: the rows are frozen",
    ]


LIVE = f"""
import sys, time
from genesis_sft.console import say
from genesis_sft.training.watching.display import training_display
row = {ROW!r}
with training_display(40, 200_000, 0) as display:
    for step in range(1, 4):
        display.step(row | {{"step": step}})
    display.held_out(3, 1.447, {{"safety": 1.39, "sums": 1.502}})
    display.alarm("the rows are frozen")
    say("checkpoint: written")
    print("a result")
    time.sleep(1.0)
print("the end", file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [120, 44])
def test_a_terminal_has_a_live_view_with_lines_above_it(columns: int) -> None:
    stdout, sent = run_on_terminal([sys.executable, "-c", LIVE], columns)
    lines = [line.strip() for line in lines_of(sent)]
    text = " ".join(lines)
    for part in ("step 3 of 40", "ETA", "loss 2.000 (smoothed 2.000)", "500 tokens/s, 300 trained", "MFU 53 %"):
        assert part in text
    assert "held-out loss after step 3: 1.447" in text
    assert "sums 1.502" in text
    assert lines.count("alarm: the rows are frozen") == 1  # written once, above what is drawn anew
    assert lines.count("checkpoint: written") == 1
    assert max(map(len, lines)) <= columns
    assert lines[-1] == "the end"
    assert stdout == "a result\n"


@pytest.mark.slow
def test_a_terminal_that_cannot_move_its_cursor_has_plain_lines() -> None:
    sent = run_on_terminal([sys.executable, "-c", LIVE], 200, TERM="dumb")[1]
    assert sent.splitlines()[0].startswith("  training: step 1 of 40, ETA ")
    assert "\x1b" not in sent
