from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genesis_sft.checkpoint.tensors.safetensors_files import open_safetensors
from genesis_sft.errors import ModelError

FIRST = {"wte": torch.arange(12.0).reshape(4, 3), "norm": torch.tensor([float("nan"), 1.0]).bfloat16()}
SECOND = {
    "head": torch.ones(4, 3).half(),
    "f8": torch.ones(2, 2).to(torch.float8_e4m3fn),
    "position_ids": torch.arange(4),
}


def shards(folder: Path, index: dict[str, str] | None = None) -> Path:
    folder.mkdir()
    save_file(FIRST, folder / "model-00001-of-00002.safetensors")
    save_file(SECOND, folder / "model-00002-of-00002.safetensors")
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def whole_index() -> dict[str, str]:
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    return dict.fromkeys(FIRST, first) | dict.fromkeys(SECOND, second)


@pytest.mark.parametrize("index", [None, whole_index()], ids=["no index", "index"])
def test_a_folder_of_shards_gives_all_weights(tmp_path: Path, index: dict[str, str] | None) -> None:
    source = open_safetensors(shards(tmp_path / "a", index))
    assert source.kind == "safetensors folder"
    assert set(source.tensors) == {"wte", "norm", "head", "f8"}
    assert source.left_out == {"whole numbers": 1}
    assert torch.equal(source.read("wte"), FIRST["wte"])
    assert torch.equal(source.read("norm").view(torch.int16), FIRST["norm"].view(torch.int16))
    assert torch.equal(source.read("head"), SECOND["head"])
    assert source.read("f8").dtype == source.tensors["f8"].dtype == torch.float8_e4m3fn


def test_what_is_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    save_file(FIRST, tmp_path / "a.safetensors")
    source = open_safetensors(tmp_path / "a.safetensors")
    assert source.kind == "safetensors file"
    found = source.read("wte")
    assert found.untyped_storage().nbytes() == found.nbytes
    found.zero_()
    assert torch.equal(source.read("wte"), FIRST["wte"])


@pytest.mark.parametrize("index", [None, whole_index()], ids=["no index", "index"])
def test_a_missing_shard_is_named(tmp_path: Path, index: dict[str, str] | None) -> None:
    folder = shards(tmp_path / "a", index)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors is missing"):
        open_safetensors(folder)


def test_an_index_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path / "a", whole_index() | {"extra": "model-00002-of-00002.safetensors"})
    with pytest.raises(ModelError, match="says that extra is in"):
        open_safetensors(folder)


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/b.safetensors", "sub/b.safetensors", "b\\c.safetensors", "b.pt"]
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="expected the name of a safetensors file"):
        open_safetensors(shards(tmp_path / "a", {"wte": name}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = shards(tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index"):
        open_safetensors(folder)


def test_a_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path / "a")
    save_file(FIRST, folder / "again.safetensors")
    with pytest.raises(ModelError, match="once"):
        open_safetensors(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16_000]},
        {"dtype": "F32", "shape": [4_000], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "NEW", "shape": [4], "data_offsets": [0, 16]},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, entry: dict[str, object]) -> None:
    header = json.dumps({"w": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(ModelError, match=r"a\.safetensors is damaged"):
        open_safetensors(tmp_path / "a.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_file_is_an_error_or_still_readable(tmp_path: Path, where: float, value: int, cut: bool) -> None:
    path = tmp_path / "a.safetensors"
    save_file(FIRST, path)
    original = path.read_bytes()
    position = int(where * len(original))
    changed = original[:position] if cut else original[:position] + bytes([value]) + original[position + 1 :]
    path.unlink()
    path.write_bytes(changed)
    try:
        source = open_safetensors(path)
        for name in source.tensors:
            source.read(name)
    except ModelError:
        pass
