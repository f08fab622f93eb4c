"""What a run writes down: whole rows only, in order, each once, whenever it is killed and however often it goes on."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_sft.training.watching.metrics import (
    EventsLog,
    MetricsLog,
    count_steps,
    read_events,
    read_metrics,
    smoothed,
)


def write_steps(path: Path, first: int, last: int) -> None:
    with MetricsLog(path, first) as log:
        for step in range(first, last + 1):
            log.write({"step": step, "loss": 1 / step, "health": {"norm": 0.1 * step}})


def test_a_resumed_run_has_the_bytes_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    write_steps(tmp_path / "whole", 1, 9)
    write_steps(tmp_path / "resumed", 1, 7)
    with open(tmp_path / "resumed", "a") as file:
        file.write('{"step": 8, "lo')  # killed while it wrote
    assert count_steps(tmp_path / "resumed") == 7
    write_steps(tmp_path / "resumed", 5, 9)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("damage", ["\x00\x00\x00", "[1, 2]", '{"step": 5}', '{"step": 3', "\udcff"])
def test_metrics_are_read_up_to_the_first_damage(tmp_path: Path, damage: str) -> None:
    write_steps(tmp_path / "metrics", 1, 3)
    with open(tmp_path / "metrics", "a", errors="surrogateescape") as file:
        file.write(f'{damage}\n{{"step": 4}}\n')
    assert [row["step"] for row in read_metrics(tmp_path / "metrics")] == [1, 2, 3]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics", 1) as log:
        log.write({"step": 1, "loss": math.nan, "health": {"norm": -math.inf}})
    assert json.loads((tmp_path / "metrics").read_text()) == {"step": 1, "loss": None, "health": {"norm": None}}


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics", 1) as log:
        log.write({"step": 1})
        assert count_steps(tmp_path / "metrics") == 1


def test_a_disk_that_is_full_is_named_and_what_was_written_stays(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from genesis_sft.errors import RunDirError\nfrom genesis_sft.training.watching.metrics import MetricsLog\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"  # a file may not grow beyond this, as on a full disk
        "try:\n"
        "    with MetricsLog(Path(sys.argv[1]), 1) as log:\n"
        "        for step in range(1, 20): log.write({'step': step, 'loss': 1.25})\n"
        "except RunDirError as error: print(error); print(error.hint)\n"
    )
    path = tmp_path / "metrics"
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith(f"expected to write {path}: File too large\n")
    assert "goes on from the last checkpoint" in result.stdout
    assert count_steps(path) == 18  # 9 rows of 26 bytes and 9 of 27 are 477; of the next one a part was written


def test_events_of_steps_that_are_done_again_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with EventsLog(path, 1) as log:
        log.write(0, "note", message="two processes")
        log.write(10, "held_out", loss=1.5, sources={"sums": 1.5})
        log.write(20, "held_out", loss=1.4, sources={"sums": 1.4})
    with open(path, "a") as file:
        file.write('{"step": 30, "kind": "al')
    assert [row["step"] for row in read_events(path)] == [0, 10, 20]
    with EventsLog(path, 20) as log:
        log.write(0, "note", message="two processes")  # said at each start
        log.write(20, "held_out", loss=1.3, sources={"sums": math.nan})
    assert path.read_text().splitlines() == [
        '{"step": 0, "kind": "note", "message": "two processes"}',
        '{"step": 10, "kind": "held_out", "loss": 1.5, "sources": {"sums": 1.5}}',
        '{"step": 20, "kind": "held_out", "loss": 1.3, "sources": {"sums": null}}',
    ]
    assert read_events(path, "note") == [{"step": 0, "kind": "note", "message": "two processes"}]


def test_what_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics") == []
    assert read_events(tmp_path / "events") == []


def test_a_smoothed_loss_begins_with_the_first_one_and_passes_over_missing_ones() -> None:
    mean = None
    for loss, expected in ((None, None), (2.0, 2.0), (1.0, 1.9), (None, 1.9), (0.0, 1.71)):
        mean = smoothed(mean, loss)
        assert mean == (expected if expected is None else pytest.approx(expected))
