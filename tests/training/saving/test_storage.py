"""A damaged checkpoint is left aside, one that was tampered with runs nothing, one of another model is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import hash_file
from tests.training.saving.saved_tuning import MANY, checkpoints_in, cut, differences, flip_a_bit, saved_at, tuning

DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit in the tensors": lambda folder: flip_a_bit(folder, "__0_0.distcp"),
    "a bit in the metadata": lambda folder: flip_a_bit(folder, ".metadata"),
    "tensors cut": lambda folder: cut(folder, "__0_0.distcp"),
    "tensors missing": lambda folder: (folder / "__0_0.distcp").unlink(),
    "metadata missing": lambda folder: (folder / ".metadata").unlink(),
    "state cut": lambda folder: cut(folder, "state.json"),
    "state missing": lambda folder: (folder / "state.json").unlink(),
    "state empty": lambda folder: (folder / "state.json").write_text(""),
    "state a list": lambda folder: (folder / "state.json").write_text("[]"),
    "state of no file": lambda folder: change_state(folder, files={}),
    "state of other things": lambda folder: change_state(folder, files={".metadata": 3}),
    "state of another step": lambda folder: change_state(folder, step=7),
    "state with a word for a loss": lambda folder: change_state(folder, held_out_loss="low"),
    "state with a field more": lambda folder: change_state(folder, more=1),
    "state too deep": lambda folder: (folder / "state.json").write_text("[" * 100_000),
}


def change_state(folder: Path, **changes: object) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | changes))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_left_aside_with_a_word(
    tmp_path: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    straight = saved_at(tmp_path, 2, 4, 6)
    damage(tmp_path / "checkpoints" / "step-000006")
    damage(tmp_path / "checkpoints" / "step-000004")
    run, checkpoints = tuning(seed=1), checkpoints_in(tmp_path, MANY)
    assert run.restore(checkpoints) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == [f"  checkpoint step-00000{step} is damaged and is left aside" for step in (6, 4)]
    run.steps(2, 6)
    run.save(checkpoints, 6)  # in the place of the damaged one
    assert differences(run.state(), straight.state()) == []
    assert tuning().restore(checkpoints) == 6


class Attack:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {os.environ['ATTACK_LEAVES']}",)


class AttackWithin:
    """DCP's own classes only, with an object that DCP would unpickle where a tensor should lie."""

    @staticmethod
    def on(folder: Path) -> bytes:
        from torch.distributed.checkpoint.metadata import BytesStorageMetadata

        metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - our own
        index, info = next((k, v) for k, v in metadata.storage_data.items() if k.fqn == "model.model.model.norm.weight")
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
        blob = bytearray((folder / info.relative_path).read_bytes())
        attack = pickle.dumps(Attack())
        blob[info.offset : info.offset + len(attack)] = attack
        (folder / info.relative_path).write_bytes(blob)
        return pickle.dumps(metadata)


def elsewhere(folder: Path) -> bytes:
    from dataclasses import replace

    metadata = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - our own
    storage = {key: replace(info, relative_path="../../secret") for key, info in metadata.storage_data.items()}
    return pickle.dumps(replace(metadata, storage_data=storage))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda folder: pickle.dumps(Attack()), r"posix\.system"),
        (AttackWithin.on, r"nothing but tensors.*norm\.weight"),
        (elsewhere, r"nothing but tensors in hashed files.*secret"),
    ],
    ids=["code in the metadata", "an object among the tensors", "another file"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_runs_nothing_even_where_its_hashes_are_right(
    tmp_path: Path, attack: Callable[[Path], bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTACK_LEAVES", str(tmp_path / "attacked"))
    saved_at(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "step-000001"
    (folder / ".metadata").write_bytes(attack(folder))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
        for name in (".metadata", "__0_0.distcp")
    }
    change_state(folder, files=files)
    with pytest.raises(RunDirError, match=message):
        tuning().restore(checkpoints_in(tmp_path))
    assert not (tmp_path / "attacked").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = tuning(tied=False)
    run.save(checkpoints_in(tmp_path), 1)
    del run.trainable.objective.model.model.layers[1]
    run.optimizer = torch.optim.AdamW(run.trainable.module.parameters())
    run.save(checkpoints_in(tmp_path), 2)
    with pytest.raises(RunDirError, match=r"could not go on from .*step-000002"):
        tuning(tied=False).restore(checkpoints_in(tmp_path))
