from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genesis_sft.checkpoint.tensors.open import open_tensors
from genesis_sft.errors import ModelError
from tests.checkpoint.tensors.test_dcp import save

_WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3)}


def test_each_kind_is_opened_by_what_lies_there(tmp_path: Path) -> None:
    torch.save(_WEIGHTS, tmp_path / "a.pt")
    save_file(_WEIGHTS, tmp_path / "a.safetensors")
    (tmp_path / "shards").mkdir()
    save_file(_WEIGHTS, tmp_path / "shards/model.safetensors")
    save(tmp_path / "dcp", _WEIGHTS)
    kinds = {}
    for name in ("a.pt", "a.safetensors", "shards", "dcp"):
        source = open_tensors(tmp_path / name)
        kinds[name] = source.kind
        assert torch.equal(source.read("w"), _WEIGHTS["w"])
        assert source.path == tmp_path / name
    assert list(kinds.values()) == [
        "PyTorch state dict",
        "safetensors file",
        "safetensors folder",
        "PyTorch DCP folder",
    ]


@pytest.mark.parametrize(("name", "found"), [("nothing", "nothing"), ("", "another kind"), ("a.gguf", "another file")])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelError, match=f"expected a checkpoint .* found .*{found}"):
        open_tensors(tmp_path / name)


def test_a_checkpoint_one_folder_down_is_pointed_out(tmp_path: Path) -> None:
    save(tmp_path / "step-3/model", _WEIGHTS)
    with pytest.raises(ModelError) as error:
        open_tensors(tmp_path / "step-3")
    assert error.value.hint == f"There is one at {tmp_path / 'step-3/model'}."


def test_a_checkpoint_of_the_optimizer_alone_is_refused(tmp_path: Path) -> None:
    torch.save({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}, tmp_path / "optim.pt")
    with pytest.raises(ModelError, match=r"expected weights of a model .* 2 x optimizer state"):
        open_tensors(tmp_path / "optim.pt")
