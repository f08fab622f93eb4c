from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genesis_sft.checkpoint.tensors.kinds import checkpoint_files, is_checkpoint

_FOLDERS = {
    "dcp": (".metadata", "__0_0.distcp", "__1_0.distcp", "train.json"),
    "dcp without metadata": ("__0_0.distcp",),
    "shards": ("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
}


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", _FOLDERS)
def test_folders_of_raw_weights_are_checkpoints(tmp_path: Path, kind: str) -> None:
    assert is_checkpoint(fill(tmp_path / "run", *_FOLDERS[kind]))


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.safetensors"])
def test_files_of_weights_are_checkpoints(tmp_path: Path, name: str) -> None:
    file = fill(tmp_path, name) / name
    assert is_checkpoint(file)
    assert checkpoint_files(file) == [file]


@pytest.mark.parametrize(
    "names", [("config.json", "model.safetensors"), ("notes.txt",), ("weights.pt",), ("model.gguf",), ()]
)
def test_other_folders_are_not(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = fill(tmp_path / "folder", *names)
    assert not is_checkpoint(folder)
    assert checkpoint_files(folder) == []


def test_other_files_and_nothing_are_not(tmp_path: Path) -> None:
    assert not is_checkpoint(fill(tmp_path, "model.gguf") / "model.gguf")
    assert not is_checkpoint(tmp_path / "nothing.pt")


def test_the_files_that_decide_the_weights_are_listed_in_order(tmp_path: Path) -> None:
    dcp = fill(tmp_path / "dcp", *_FOLDERS["dcp"])
    assert [file.name for file in checkpoint_files(dcp)] == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    shards = fill(tmp_path / "shards", *_FOLDERS["shards"])
    assert [file.name for file in checkpoint_files(shards)] == sorted(_FOLDERS["shards"])


def test_telling_kinds_apart_needs_no_torch() -> None:
    program = "import sys, genesis_sft.checkpoint.tensors.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
