"""A checkpoint fits any number of processes and any way of sharing the work, to the last bit."""

import json
import os
import resource
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model

from genesis_sft.errors import InputError, RunDirError
from genesis_sft.recipe.training import CheckpointSection
from genesis_sft.training.forward.padding import VocabRows
from genesis_sft.training.processes.parallel import join_ranks
from genesis_sft.training.saving import checkpoints as checkpoints_module
from genesis_sft.training.saving.weights import write_weights
from tests.conftest import build_llama
from tests.training.processes.processes import run_ranks
from tests.training.saving.saved_tuning import AT_ONCE, SECTION, checkpoints_in, differences, tuning

State = dict[str, torch.Tensor]


def train_and_save(parallel: str, folder: str, tied: bool, offload: bool = False) -> State:
    """Go on from what is in the folder, if anything, train two steps more, save them; return the state."""
    section = SECTION.model_copy(update={"parallel": parallel, "cpu_offload": offload, "timeout_seconds": 60})
    with join_ranks(section) as ranks:
        run = tuning(ranks, section, tied=tied, seed=3)
        checkpoints = checkpoints_in(Path(folder), CheckpointSection(), ranks)
        done = run.restore(checkpoints)
        run.steps(done, done + 2)
        run.save(checkpoints, done + 2)
        state = run.state()
        run.steps(done + 2, done + 3)  # while it is written
        checkpoints.wait()
        return state


def restore_only(parallel: str, folder: str, tied: bool, offload: bool = False) -> tuple[int, State]:
    section = SECTION.model_copy(update={"parallel": parallel, "cpu_offload": offload, "timeout_seconds": 60})
    with join_ranks(section) as ranks:
        run = tuning(ranks, section, tied=tied, seed=9)
        done = run.restore(checkpoints_in(Path(folder), AT_ONCE, ranks))
        path = Path(folder) / "weights.safetensors"
        write_weights(run.trainable, path, VocabRows(100, 100))
        return done, run.state()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_from_two_to_one_to_three_processes_nothing_changes(tmp_path: Path, tied: bool) -> None:
    chain = [("ddp", 2, 2), ("ddp", 1, 1), ("fsdp", 3, 3), ("hybrid", 4, 2)]
    done, before = 0, None
    for parallel, count, local in chain:
        if before is not None:
            restored = run_ranks(partial(restore_only, parallel, str(tmp_path), tied), count, local=local)
            assert [step for step, _ in restored] == [done] * count
            for _, state in restored:
                assert differences(state, before) == [], (parallel, count)
        before = run_ranks(partial(train_and_save, parallel, str(tmp_path), tied), count, local=local)[0]
        done += 2
    for parallel, count in (("ddp", 2), ("fsdp", 2)):  # FSDP's names are those of all others
        for _, state in run_ranks(partial(restore_only, parallel, str(tmp_path), tied), count):
            assert differences(state, before) == [], (parallel, count)
        weights = load_file(tmp_path / "weights.safetensors")
        assert differences(weights, {name: before[f"model.{name}"] for name in weights}) == []
        assert ("lm_head.weight" in weights) == (not tied)
        load_model(build_llama(100, tied=tied), tmp_path / "weights.safetensors")
    restored_alone = tuning(tied=tied)
    assert restored_alone.restore(checkpoints_in(tmp_path)) == 8
    assert differences(restored_alone.state(), before) == []


@pytest.mark.slow
def test_states_kept_in_main_memory_are_saved_too(tmp_path: Path) -> None:
    before = run_ranks(partial(train_and_save, "fsdp", str(tmp_path), True, True), 2)[0]
    for offload in (True, False):
        for done, state in run_ranks(partial(restore_only, "fsdp", str(tmp_path), True, offload), 2):
            assert done == 2
            assert differences(state, before) == []


def save_beside_training(parallel: str, folder: str) -> list[str]:
    """Save every step, in the background and at once; return the hashes of both."""
    digests, section = [], SECTION.model_copy(update={"parallel": parallel, "timeout_seconds": 60})
    with join_ranks(section) as ranks:
        for asynchronous in (True, False):
            place = Path(folder) / str(asynchronous)
            run = tuning(ranks, section)
            checkpoints = checkpoints_in(place, CheckpointSection(asynchronous=asynchronous, keep=9), ranks)
            for step in range(6):
                run.steps(step, step + 1)
                run.save(checkpoints, step + 1)
            checkpoints.wait()
            ranks.barrier()
            states = sorted((place / "checkpoints").glob("*/state.json"))
            digests.append(",".join(json.loads(state.read_text())["sha256"] for state in states))
    return digests


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_what_is_written_while_gradients_are_exchanged_is_the_same(tmp_path: Path, parallel: str) -> None:
    for in_background, at_once in run_ranks(partial(save_beside_training, parallel, str(tmp_path)), 2):
        assert in_background == at_once
        assert len(set(at_once.split(","))) == 6


def fail_in_the_second(folder: str, asynchronous: bool) -> tuple[str, list[str], int]:
    with join_ranks(SECTION.model_copy(update={"timeout_seconds": 60})) as ranks:
        run = tuning(ranks, SECTION.model_copy(update={"parallel": "fsdp"}))
        checkpoints = checkpoints_in(Path(folder), CheckpointSection(asynchronous=asynchronous), ranks)
        run.save(checkpoints, 1)
        checkpoints.wait()
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if ranks.rank == 1:  # its disk is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        try:
            run.save(checkpoints, 2)
            checkpoints.wait()
            said = "nothing"
        except RunDirError as error:
            said = str(error)
        ranks.barrier()
        return said, sorted(path.name for path in (Path(folder) / "checkpoints").iterdir()), run.restore(checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [True, False])
def test_where_one_cannot_write_all_say_so(tmp_path: Path, asynchronous: bool) -> None:
    for said, names, restored in run_ranks(partial(fail_in_the_second, str(tmp_path), asynchronous), 2):
        assert said.startswith(f"could not write to {tmp_path}/checkpoints/.step-000002.tmp: ")
        assert names == ["step-000001"]
        assert restored == 1


def refuse_without(folder: str) -> str:
    with join_ranks(SECTION) as ranks:
        try:
            tuning(ranks).restore(checkpoints_in(Path(folder), AT_ONCE, ranks), resume="required")
        except InputError as error:
            return str(error)
    return "nothing"


def test_all_processes_refuse_where_the_first_finds_nothing(tmp_path: Path) -> None:
    said = run_ranks(partial(refuse_without, str(tmp_path)), 2)
    assert all("found none" in line for line in said)


def lose_the_second(folder: str) -> tuple[str, float]:
    """The second process dies within a save; how long does the first one take to notice?"""
    with join_ranks(SECTION.model_copy(update={"timeout_seconds": 60})) as ranks:
        run = tuning(ranks)
        checkpoints = checkpoints_in(Path(folder), CheckpointSection(), ranks)
        run.save(checkpoints, 1)
        checkpoints.wait()
        if ranks.rank == 1:
            checkpoints_module.Writer.write_data = lambda *_: os._exit(1)  # type: ignore[method-assign]
        run.save(checkpoints, 2)
        started = time.monotonic()
        try:
            checkpoints.wait()
        except RuntimeError as error:
            return str(error), time.monotonic() - started
    return "nothing", 0.0


@pytest.mark.slow
def test_a_process_that_dies_within_a_save_is_noticed_and_the_earlier_checkpoint_stays(tmp_path: Path) -> None:
    said, elapsed_seconds = run_ranks(partial(lose_the_second, str(tmp_path)), 2, unheard={1})[0]
    assert "Connection" in said
    assert elapsed_seconds < 50
    assert tuning().restore(checkpoints_in(tmp_path)) == 1
