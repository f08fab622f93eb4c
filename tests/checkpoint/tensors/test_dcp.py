from __future__ import annotations

import dataclasses
import io
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from genesis_sft.checkpoint.tensors.dcp import open_dcp
from genesis_sft.errors import ModelError
from tests.checkpoint.tensors.attacks import Runs, attacks

WEIGHTS = {
    "embed.weight": torch.arange(24.0).reshape(6, 4),
    "norm": torch.tensor([1.5, float("nan"), -0.0]).bfloat16(),
    "freqs_cis": torch.polar(torch.ones(2, 3), torch.arange(6.0).reshape(2, 3)),
    "empty": torch.zeros(0, 4),
    "head.weight": torch.arange(24).reshape(4, 6).T.half(),  # not contiguous
}
BYTES_OF_EMBED = 24 * 4


def save(folder: Path, state: dict[str, Any], **options: Any) -> Path:
    """Write a DCP folder from one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, storage_writer=FileSystemWriter(folder, **options), no_dist=True)
    return folder


def training_state() -> dict[str, Any]:
    moments = {name: {"exp_avg": value.clone(), "step": torch.tensor(3.0)} for name, value in WEIGHTS.items()}
    return {
        "model": WEIGHTS,
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]},
        "step": 40_000,
        "tokens": torch.tensor(21),
        "rng": torch.arange(16, dtype=torch.uint8),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "step-3", training_state())


def edit(folder: Path, change: Callable[[Metadata], object]) -> None:
    """Change the metadata of a folder that this test has written."""
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())  # noqa: S301 - written by this test
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def place_of(folder: Path, name: str) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's first chunk."""
    storage = pickle.loads((folder / ".metadata").read_bytes()).storage_data  # noqa: S301 - written by this test
    info = next(info for index, info in storage.items() if index.fqn == name)
    return folder / info.relative_path, info.offset, info.length


def overwrite(folder: Path, name: str, blob: bytes) -> None:
    """Put other bytes where a tensor lies; the metadata follows."""
    file, _, _ = place_of(folder, name)
    start = file.stat().st_size
    file.write_bytes(file.read_bytes() + blob)

    def move(metadata: Metadata) -> None:
        index = next(index for index in metadata.storage_data if index.fqn == name)
        metadata.storage_data[index] = dataclasses.replace(metadata.storage_data[index], offset=start, length=len(blob))

    edit(folder, move)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row order; unlike equality, they tell NaN from NaN and 0 from -0."""
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def test_every_weight_comes_back_bit_for_bit(folder: Path) -> None:
    source = open_dcp(folder)
    for name, expected in WEIGHTS.items():
        found = source.read(f"model.{name}")
        stored = source.tensors[f"model.{name}"]
        assert (tuple(found.shape), found.dtype) == (stored.shape, stored.dtype) == (expected.shape, expected.dtype)
        assert raw(found) == raw(expected)
        assert found.is_contiguous()
        assert found.untyped_storage().nbytes() == found.nbytes


def test_optimizer_counters_and_settings_are_counted_and_left_out(folder: Path) -> None:
    source = open_dcp(folder)
    assert set(source.tensors) == {f"model.{name}" for name in WEIGHTS}
    # 5 x (exp_avg, step), lr and betas; "step"; "tokens"; "rng"
    assert source.left_out == {"optimizer state": 12, "no tensor": 1, "single number": 1, "whole numbers": 1}


def test_nothing_is_said_and_no_process_group_is_made(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = open_dcp(folder)  # warnings are errors in these tests
    source.read("model.norm")
    assert capfd.readouterr() == ("", "")
    assert not dist.is_initialized()


def test_files_that_hold_optimizer_state_alone_are_not_needed(tmp_path: Path) -> None:
    folder = save(tmp_path / "apart", training_state(), single_file_per_rank=False)  # a file for each entry
    weights = {place_of(folder, f"model.{name}")[0] for name in WEIGHTS if name != "empty"}
    for file in folder.glob("*.distcp"):
        if file not in weights:
            file.unlink()
    source = open_dcp(folder)
    assert torch.equal(source.read("model.embed.weight"), WEIGHTS["embed.weight"])
    assert source.read("model.empty").shape == (0, 4)


def test_only_the_range_of_the_tensor_is_read(folder: Path) -> None:
    file, offset, length = place_of(folder, "model.embed.weight")
    data = file.read_bytes()
    file.write_bytes(b"\xff" * offset + data[offset : offset + length] + b"\xff" * (len(data) - offset - length))
    assert torch.equal(open_dcp(folder).read("model.embed.weight"), WEIGHTS["embed.weight"])


def test_a_shard_that_is_missing_is_named_with_what_lies_in_it(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    # the empty tensor has no bytes anywhere
    with pytest.raises(ModelError, match=r"__0_0\.distcp is missing .* 4 tensors of the model"):
        open_dcp(folder)


def test_a_shard_that_was_cut_short_is_refused_with_both_lengths(folder: Path) -> None:
    file = folder / "__0_0.distcp"
    whole = file.stat().st_size
    os.truncate(file, whole - 1)  # in the optimizer's part: the save is not whole all the same
    with pytest.raises(ModelError, match=f"expected {whole:,} bytes or more, found {whole - 1:,}"):
        open_dcp(folder)


def test_a_flipped_bit_in_a_weight_is_found(folder: Path) -> None:
    file, offset, length = place_of(folder, "model.embed.weight")
    data = bytearray(file.read_bytes())
    weights = WEIGHTS["embed.weight"].numpy().tobytes()
    data[data.index(weights, offset, offset + length) + 17] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"__0_0\.distcp is damaged where the tensor model\.embed\.weight lies"):
        open_dcp(folder).read("model.embed.weight")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_in_a_shard_is_an_error_or_changes_nothing(folder: Path, data: st.DataObject) -> None:
    file, offset, length = place_of(folder, "model.embed.weight")
    original = file.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(offset, offset + length - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(changed)
    try:
        assert torch.equal(open_dcp(folder).read("model.embed.weight"), WEIGHTS["embed.weight"])
    except ModelError:
        pass
    finally:
        file.write_bytes(original)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
@example(where=0.0, value=0, cut=True)
def test_a_changed_metadata_file_is_an_error_or_still_readable(
    folder: Path, where: float, value: int, cut: bool
) -> None:
    file = folder / ".metadata"
    original = file.read_bytes()
    position = int(where * len(original))
    changed = original[:position] if cut else original[:position] + bytes([value]) + original[position + 1 :]
    file.write_bytes(changed)
    try:
        source = open_dcp(folder)
        assert {raw(source.read(name)) for name in source.tensors} <= set(map(raw, WEIGHTS.values()))
    except ModelError:
        pass
    finally:
        file.write_bytes(original)


def test_a_missing_metadata_file_is_explained(folder: Path) -> None:
    (folder / ".metadata").unlink()
    with pytest.raises(ModelError, match=r"expected \.metadata") as error:
        open_dcp(folder)
    assert "not finished" in str(error.value.hint)


@pytest.mark.parametrize("name", tuple(attacks(Path("marker"))))
def test_a_metadata_file_that_runs_code_is_refused_by_name_and_runs_nothing(
    folder: Path, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    attack, culprit = attacks(marker)[name]
    whole = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(b"\x80\x04" + attack + b"0" + whole[2:])  # the attack, then all as before
    with pytest.raises(ModelError, match=culprit.replace(".", r"\.")):
        open_dcp(folder)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["planner_data", "storage_meta", "state_dict_metadata"])
def test_code_deep_in_the_metadata_is_refused(folder: Path, tmp_path: Path, place: str) -> None:
    marker = tmp_path / "marker"
    hostile: Any = {"model.norm": [Runs(marker)]}
    edit(folder, lambda metadata: setattr(metadata, place, hostile))
    with pytest.raises(ModelError, match=r"posix\.system|nt\.system"):
        open_dcp(folder)
    assert not marker.exists()


def test_code_in_a_shard_is_refused_by_name_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    overwrite(folder, "model.embed.weight", saved([torch.zeros(24), Runs(marker)]))
    with pytest.raises(ModelError, match=r"__0_0\.distcp asks for (posix|nt)\.system .* model\.embed\.weight"):
        open_dcp(folder).read("model.embed.weight")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (torch.zeros(6, 4, dtype=torch.float64), "float64"),
        (torch.zeros(4, 6), r"\(4, 6\)"),
        (torch.zeros(7, 4), r"\(7, 4\)"),
        (torch.zeros(6, 4).to_sparse(), "sparse_coo"),
        (torch.zeros(6, 4, device="meta"), "meta"),
        ({"a": torch.zeros(6, 4)}, "dict"),
        (torch.zeros(1).expand(6, 4), None),
    ],
)
def test_a_shard_that_holds_something_else_is_refused(folder: Path, blob: object, problem: str | None) -> None:
    overwrite(folder, "model.embed.weight", saved(blob))
    source = open_dcp(folder)
    if problem is None:
        assert torch.equal(source.read("model.embed.weight"), torch.zeros(6, 4))
    else:
        with pytest.raises(ModelError, match=problem):
            source.read("model.embed.weight")


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/b", "", "..", ".", "a\\b", "nul\0", "c:x"])
def test_a_path_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    def point(metadata: Metadata) -> None:
        index = MetadataIndex("model.norm", (0,))
        metadata.storage_data[index] = dataclasses.replace(metadata.storage_data[index], relative_path=path)

    (folder.parent / "outside").write_bytes((folder / "__0_0.distcp").read_bytes())
    edit(folder, point)
    with pytest.raises(ModelError, match="expected the name of a file"):
        open_dcp(folder)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(folder: Path) -> None:
    shard = folder / "__0_0.distcp"
    shard.rename(folder / "data")
    shard.symlink_to("data")
    assert open_dcp(folder).read("model.norm").shape == (3,)
    (folder / "data").rename(folder.parent / "data")
    shard.unlink()
    shard.symlink_to(folder.parent / "data")
    with pytest.raises(ModelError, match="link to a file elsewhere"):
        open_dcp(folder)


def test_a_pipe_in_the_place_of_a_shard_is_refused_without_waiting(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    os.mkfifo(folder / "__0_0.distcp")
    with pytest.raises(ModelError, match="something else"):
        open_dcp(folder)


def test_a_gap_between_chunks_is_refused(folder: Path) -> None:
    def cut(metadata: Metadata) -> None:
        chunk = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([5, 4]))
        metadata.state_dict_metadata["model.embed.weight"].chunks = [chunk]

    edit(folder, cut)
    with pytest.raises(ModelError, match=r"model\.embed\.weight .* cover 20 of 24 elements"):
        open_dcp(folder)


def test_a_size_that_the_bytes_cannot_hold_is_refused_before_memory_is_taken(folder: Path) -> None:
    def grow(metadata: Metadata) -> None:
        huge = torch.Size([2**40, 2**20])
        stored = metadata.state_dict_metadata["model.embed.weight"]
        stored.size, stored.chunks = huge, [ChunkStorageMetadata(torch.Size([0, 0]), huge)]

    edit(folder, grow)
    with pytest.raises(ModelError, match="cannot lie in"):
        open_dcp(folder)


def test_one_list_of_chunks_named_again_and_again_is_refused(folder: Path) -> None:
    def repeat(metadata: Metadata) -> None:
        stored = metadata.state_dict_metadata["model.embed.weight"]
        stored.chunks = [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([0, 4]))] * 5_000
        for number in range(5_000):
            metadata.state_dict_metadata[f"model.{number}"] = stored
            place = metadata.storage_data[MetadataIndex("model.embed.weight", (0, 0))]
            metadata.storage_data[MetadataIndex(f"model.{number}", (0, 0))] = place

    edit(folder, repeat)
    with pytest.raises(ModelError, match="more chunks than"):
        open_dcp(folder)


def test_a_transformed_shard_is_refused(folder: Path) -> None:
    def transform(metadata: Metadata) -> None:
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["stream.zstd"]

    edit(folder, transform)
    with pytest.raises(ModelError, match=r"transformed by stream\.zstd"):
        open_dcp(folder)


def test_metadata_of_older_versions_of_torch_is_read(folder: Path) -> None:
    """Up to torch 2.2, TensorProperties lay in another module, and metadata held three fields."""
    from torch.distributed._shard.sharded_tensor.metadata import TensorProperties

    def age(metadata: Metadata) -> None:
        for stored in metadata.state_dict_metadata.values():
            if hasattr(stored, "properties"):
                stored.properties = TensorProperties(dtype=stored.properties.dtype)
        for name in ("storage_meta", "version"):
            delattr(metadata, name)

    edit(folder, age)
    assert torch.equal(open_dcp(folder).read("model.embed.weight"), WEIGHTS["embed.weight"])
