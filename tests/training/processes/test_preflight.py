"""What cannot work together says so before training, in time and with what to do; a lost process is named as one."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from genesis_sft.errors import CheckFailed, GenesisError, RunDirError
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.processes import preflight as preflight_module
from genesis_sft.training.processes.parallel import Ranks, join_ranks
from genesis_sft.training.processes.preflight import (
    Preflight,
    check_agreement,
    check_shared_folder,
    lost_peer,
    preflight,
)
from tests.training.processes.processes import run_ranks

SECTION = TrainingSection(batch=BatchSection(sequences=1), device="cpu", timeout_seconds=30)
CPU = torch.device("cpu")


def complaint(error: GenesisError) -> tuple[str, str, str]:
    return type(error).__name__, str(error), error.hint or ""


# --- the exchange ---------------------------------------------------------------------------------------------------


def measure(num_bytes: int) -> Preflight | None:
    preflight_module.CHUNK_BYTES = 4096
    with join_ranks(SECTION) as ranks:
        return preflight(ranks, num_bytes, timeout_seconds=20)


def test_the_gradient_is_exchanged_in_chunks_and_measured() -> None:
    for found in run_ranks(functools.partial(measure, 10_000), 3):
        assert found.seconds > 0
        assert found.gigabytes_per_second * found.seconds == pytest.approx(10_000 / 1e9 * 2 * 2 / 3)


def test_one_process_has_nothing_to_exchange() -> None:
    assert preflight(Ranks(0, 1, 1, CPU), 10_000, timeout_seconds=5) is None


def come_or_stay_away(absent: int) -> tuple[Any, float]:
    with join_ranks(SECTION) as ranks:
        started = time.monotonic()
        if ranks.rank == absent:
            time.sleep(6)
            return None, 0.0
        try:
            preflight(ranks, 1_000_000, timeout_seconds=2)
        except CheckFailed as error:
            return complaint(error), time.monotonic() - started
    raise AssertionError("no error")


@pytest.mark.slow
def test_a_process_that_does_not_come_is_not_waited_for() -> None:
    for found, seconds in run_ranks(functools.partial(come_or_stay_away, absent=1), 2)[:1]:
        kind, text, hint = found
        assert kind == "CheckFailed"
        assert "expected 2 processes to exchange 1.0 MB within 2 s; found, in process 0 on " in text
        assert text.endswith(": no answer")
        assert "GLOO_SOCKET_IFNAME" in hint
        assert seconds < 5  # before the group's own time-out of 30 s


def exchange_under_a_wrong_number() -> Any:
    with join_ranks(SECTION) as ranks:
        number = 5 if ranks.rank == 1 else ranks.rank
        try:
            preflight(Ranks(number, 2, 2, CPU), 4_000, timeout_seconds=20)
        except CheckFailed as error:
            return complaint(error)


def test_numbers_that_arrive_wrong_are_noticed() -> None:
    for kind, text, _ in run_ranks(exchange_under_a_wrong_number, 2):
        assert kind == "CheckFailed"
        assert "996 of 1,000 sums are wrong" in text  # zeros are right in any case


def test_on_gpus_the_hint_names_the_fix_unless_it_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for tried in (False, True):
        if tried:
            monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
        else:
            monkeypatch.delenv("NCCL_P2P_DISABLE", raising=False)
        with pytest.raises(CheckFailed) as caught:  # there is no group: the exchange fails
            preflight(Ranks(0, 2, 2, torch.device("cuda", 0)), 1_000, timeout_seconds=20)
        assert ("NCCL_P2P_DISABLE=1" in (caught.value.hint or "")) == (not tried)
        assert "NCCL_DEBUG=INFO" in (caught.value.hint or "")


SCRIPT = """
import sys, time
from genesis_sft.errors import CheckFailed
from genesis_sft.training.processes.parallel import join_ranks
from genesis_sft.training.processes.preflight import preflight
from tests.training.processes.test_preflight import SECTION
try:
    with join_ranks(SECTION.model_copy(update={"timeout_seconds": 600})) as ranks:
        if ranks.rank == 1:
            time.sleep(200)
        preflight(ranks, 1_000_000, timeout_seconds=2)
except CheckFailed as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(error.exit_status)
"""


@pytest.mark.slow
def test_a_program_that_waits_in_vain_ends_too() -> None:
    """The thread that hangs in the collective does not keep the process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--shutdown-timeout", "2", "--no-python", sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 1
    assert "expected 2 processes to exchange 1.0 MB within 2 s" in done.stderr


# --- what all have to agree on --------------------------------------------------------------------------------------


def agree(identities: list[dict[str, str]]) -> Any:
    with join_ranks(SECTION) as ranks:
        try:
            check_agreement(ranks, identities[ranks.rank])
        except CheckFailed as error:
            return complaint(error)
    return "agreed"


def test_processes_that_mean_the_same_agree() -> None:
    same = {"version": "1", "recipe": "abc"}
    assert run_ranks(functools.partial(agree, [same, dict(same)]), 2) == ["agreed", "agreed"]


def test_who_differs_in_what_is_named_everywhere() -> None:
    same, other = {"version": "1", "recipe": "abc"}, {"version": "1", "recipe": "xyz"}
    found = run_ranks(functools.partial(agree, [same, same, other]), 3)
    assert found[0] == found[1] == found[2]
    assert found[0][0] == "CheckFailed"
    assert "process 2 on" in found[0][1]
    assert "has another recipe (xyz) than process 0 on" in found[0][1]
    assert found[0][1].endswith("(abc)")


def look(folders: list[Path], seconds: float) -> Any:
    with join_ranks(SECTION) as ranks:
        try:
            check_shared_folder(ranks, folders[ranks.rank], timeout_seconds=seconds)
        except RunDirError as error:
            return complaint(error)
    return "seen"


def test_a_shared_folder_is_recognised_and_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "train"
    assert run_ranks(functools.partial(look, [folder, folder], 10.0), 2) == ["seen", "seen"]
    assert list(folder.iterdir()) == []


def test_a_folder_that_a_process_does_not_share_is_refused_by_all(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "a", tmp_path / "b"]
    found = run_ranks(functools.partial(look, folders, 0.5), 3)
    assert found[0] == found[1] == found[2]
    kind, text, hint = found[0]
    assert kind == "RunDirError"
    assert "expected all processes to see the same folder; process 2 on " in text
    assert f"does not see in {folders[2]} what process 0 on " in text
    assert text.endswith(f"wrote in {folders[0]}")
    assert "--run-dir" in hint
    assert list(folders[0].iterdir()) == []


def look_at_a_folder_that_shows_late(folder: Path, link: Path) -> Any:
    if os.environ["RANK"] == "1":
        threading.Timer(1.0, link.symlink_to, args=(folder,)).start()
    return look([folder, link], 20.0)


def test_a_file_may_show_late_as_on_network_storage(tmp_path: Path) -> None:
    function = functools.partial(look_at_a_folder_that_shows_late, tmp_path / "a", tmp_path / "b")
    assert run_ranks(function, 2) == ["seen", "seen"]


def test_a_folder_that_cannot_be_written_is_an_error_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "train"
    for kind, text, _ in run_ranks(functools.partial(look, [folder, folder], 0.5), 2):
        assert kind == "RunDirError"
        assert text == f"process 0 cannot write to {folder}: Not a directory"


# --- a process that is lost -----------------------------------------------------------------------------------------


def lose_one(parallel: str, last: int) -> Any:
    """Train on until the last process dies in the middle of a step."""
    with join_ranks(SECTION) as ranks:
        model: nn.Module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1))
        if parallel == "ddp":
            model = nn.parallel.DistributedDataParallel(model)
        else:
            from torch.distributed.fsdp import fully_shard

            fully_shard(model)
        for step in range(1000):
            try:
                if ranks.rank == last and step == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                model(torch.ones(2, 8)).sum().backward()
                ranks.sum([1.0])
            except RuntimeError as error:
                found = lost_peer(error, f"step {step}")
                return complaint(found) if found else repr(error)
    raise AssertionError("nothing was noticed")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_process_that_was_killed_is_named_as_the_cause(parallel: str) -> None:
    with pytest.raises(AssertionError) as caught:  # the killed process ends without a word
        run_ranks(functools.partial(lose_one, parallel, last=2), 3)
    assert str(caught.value) == "process 2: it ended without a word"
    found = run_ranks(functools.partial(lose_one, parallel, last=2), 3, unheard={2})
    for kind, text, hint in found[:2]:
        assert kind == "CheckFailed"
        assert "lost contact with another process during step 3: " in text
        assert "/pytorch/" not in text
        assert "start the same command again" in hint


def wait_for_one_that_hangs() -> Any:
    section = SECTION.model_copy(update={"timeout_seconds": 5})
    with join_ranks(section) as ranks:
        if ranks.rank == 1:
            time.sleep(12)
            return None
        try:
            ranks.sum([1.0])
        except RuntimeError as error:
            found = lost_peer(error)
            return complaint(found) if found else repr(error)
    raise AssertionError("nothing was noticed")


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up_after_the_time_out() -> None:
    kind, text, _ = run_ranks(wait_for_one_that_hangs, 2)[0]
    assert (kind, text.split(":")[0]) == ("CheckFailed", "lost contact with another process during training")


def test_other_errors_are_not_taken_for_a_lost_process() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("Connection closed by peer"), dist.DistError("odd")):
        assert (lost_peer(error) is None) == (not isinstance(error, dist.DistError))


def wait_for_nobody() -> Any:
    section = SECTION.model_copy(update={"timeout_seconds": 5})
    if os.environ["RANK"] == "1":
        time.sleep(10)
        return None
    with pytest.raises(CheckFailed) as caught, join_ranks(section):
        pass
    return complaint(caught.value)


@pytest.mark.slow
def test_a_process_that_never_starts_is_given_up_with_a_hint() -> None:
    kind, text, hint = run_ranks(wait_for_nobody, 2)[0]
    assert kind == "CheckFailed"
    assert "expected 2 processes to meet at 127.0.0.1:" in text
    assert "within 5 s; found: " in text
    assert "GLOO_SOCKET_IFNAME" in hint
