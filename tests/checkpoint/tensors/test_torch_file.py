from __future__ import annotations

import argparse
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from genesis_sft.checkpoint.tensors.torch_file import open_torch_file
from genesis_sft.errors import ModelError
from tests.checkpoint.tensors.attacks import Runs, attacks

WEIGHTS = {
    "wte.weight": torch.arange(12.0).reshape(4, 3),
    "norm": torch.tensor([1.0, float("inf")]).bfloat16(),
    "freqs_cis": torch.polar(torch.ones(2), torch.tensor([0.5, 1.0])),
}


class Scaled(torch.Tensor):
    pass


def write(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def nested() -> dict[str, Any]:
    return {
        "model": OrderedDict(WEIGHTS),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(4, 3)}}, "param_groups": []},
        "step": 3,
        "config": {"theta": 5e5, "names": ["a", "b"]},
        "rng": torch.get_rng_state(),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_nested_dictionaries_are_flattened_and_weights_come_back_exactly(tmp_path: Path, zipped: bool) -> None:
    source = open_torch_file(write(tmp_path / "a.pt", nested(), _use_new_zipfile_serialization=zipped))
    assert list(source.tensors) == [f"model.{name}" for name in WEIGHTS]
    for name, expected in WEIGHTS.items():
        found = source.read(f"model.{name}")
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype == source.tensors[f"model.{name}"].dtype
    # step and exp_avg; step, theta, two names; the random state
    assert source.left_out == {"optimizer state": 2, "no tensor": 4, "whole numbers": 1}


def test_what_is_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", WEIGHTS)
    source = open_torch_file(path)
    first, second = source.read("wte.weight"), source.read("wte.weight")
    first.zero_()
    assert torch.equal(second, WEIGHTS["wte.weight"])
    assert torch.equal(source.read("wte.weight"), WEIGHTS["wte.weight"])
    assert torch.equal(torch.load(path, weights_only=True)["wte.weight"], WEIGHTS["wte.weight"])


def test_tied_views_and_parameters_become_plain_tensors_of_their_own(tmp_path: Path) -> None:
    table = nn.Parameter(torch.arange(12.0).reshape(4, 3))
    source = open_torch_file(
        write(tmp_path / "a.pt", {"wte": table, "head": table, "turned": table.T, "part": table[1:2]})
    )
    for name, expected in {"wte": table, "head": table, "turned": table.T, "part": table[1:2]}.items():
        found = source.read(name)
        assert torch.equal(found, expected)
        assert type(found) is torch.Tensor
        assert not found.requires_grad
        assert found.is_contiguous()
        assert found.untyped_storage().nbytes() == found.nbytes


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ({"args": argparse.Namespace(lr=1), "model": WEIGHTS}, r"argparse\.Namespace"),
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        ({"path": Path("x")}, r"pathlib\.\w+"),
    ],
)
def test_foreign_classes_are_refused_by_name_with_a_way_out(tmp_path: Path, content: object, culprit: str) -> None:
    path = write(tmp_path / "a.pt", content)
    with pytest.raises(ModelError, match=f"asks for {culprit}") as error:
        open_torch_file(path)
    assert "model.state_dict()" in str(error.value.hint)


def test_classes_that_a_program_has_allowed_stay_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"args": argparse.Namespace(lr=1)})
    with torch.serialization.safe_globals([argparse.Namespace]):
        with pytest.raises(ModelError, match=r"argparse\.Namespace"):
            open_torch_file(path)
        assert torch.load(path, weights_only=True)["args"].lr == 1  # and the program's list is as it was


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    path = write(tmp_path / "a.pt", {"w": WEIGHTS, "x": Runs(marker)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"asks for (posix|nt)\.system"):
        open_torch_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", tuple(attacks(Path("marker"))))
def test_every_attack_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    with zipfile.ZipFile(write(tmp_path / "a.pt", WEIGHTS)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for member, data in members.items():
            hostile = b"\x80\x02" + attacks(marker)[name][0] + b"." if member.endswith("data.pkl") else data
            archive.writestr(member, hostile)
    with pytest.raises(ModelError):
        open_torch_file(tmp_path / "b.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: torch.eye(3).to_sparse(), "layers.0 is a sparse_coo tensor"),
        (lambda: torch.zeros(3, device="meta"), "layers.0 is a tensor on device meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "layers.0 is a quantised tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "layers.0 is a nested tensor"),
        (lambda: torch.ones(2).as_subclass(Scaled), r"asks for .*\.Scaled"),
    ],
    ids=["sparse", "meta", "quantised", "nested", "subclass"],
)
def test_tensors_that_are_more_than_numbers_are_refused_by_name(
    tmp_path: Path, make: Callable[[], torch.Tensor], problem: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some kinds are about to be taken out of torch
        path = write(tmp_path / "a.pt", {"layers": [make()]})
    with pytest.raises(ModelError, match=problem):
        open_torch_file(path)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(member, b"")
    with pytest.raises(ModelError, match="asks for TorchScript code"):
        open_torch_file(tmp_path / "a.pt")


def test_they_do_no_harm_in_the_optimizer(tmp_path: Path) -> None:
    content = {"w": WEIGHTS["norm"], "optimizer": {"state": torch.eye(3).to_sparse()}}
    assert set(open_torch_file(write(tmp_path / "a.pt", content)).tensors) == {"w"}


def test_a_few_numbers_that_claim_to_be_many_are_not_expanded(tmp_path: Path) -> None:
    source = open_torch_file(write(tmp_path / "a.pt", {"bomb": torch.zeros(1).expand(2**40), "w": torch.ones(1)}))
    with pytest.raises(ModelError, match="expected 4,398,046,511,104 bytes for bomb"):
        source.read("bomb")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "a.pt", {"w": torch.zeros(1000)})) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    with pytest.raises(ModelError, match="compressed"):
        open_torch_file(tmp_path / "b.pt")


def test_names_that_meet_after_flattening_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a\.b occurs"):
        open_torch_file(write(tmp_path / "a.pt", {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}))


def test_dictionaries_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"w": torch.ones(1)}
    loop["again"] = loop
    with pytest.raises(ModelError, match="at most 50 deep"):
        open_torch_file(write(tmp_path / "a.pt", loop))


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], 3])
def test_what_is_no_dictionary_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ModelError, match="expected a dictionary of tensors"):
        open_torch_file(write(tmp_path / "a.pt", content))


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.pt cannot be read"):
        open_torch_file(tmp_path / "a.pt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_file_is_an_error_or_still_readable(tmp_path: Path, where: float, value: int, cut: bool) -> None:
    path = write(tmp_path / "a.pt", nested())
    original = path.read_bytes()
    position = int(where * len(original))
    changed = original[:position] if cut else original[:position] + bytes([value]) + original[position + 1 :]
    path.unlink()  # the old file may still be mapped
    path.write_bytes(changed)
    try:
        source = open_torch_file(path)
        for name in source.tensors:
            source.read(name)
    except ModelError:
        pass
