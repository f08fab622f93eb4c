"""Promises of verification on a folder that somebody changed: it is held against its checkpoint, and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.convert import Converted
from genesis_sft.checkpoint.llama.parity import measure_against_reference, read_reference
from genesis_sft.checkpoint.tokenizer_files import with_bos
from genesis_sft.checkpoint.verify import Verification
from genesis_sft.checkpoint.verify_folder import verify
from genesis_sft.errors import ModelError
from genesis_sft.recipe import BaseSection
from tests.checkpoint.genesis.sections import section_of
from tests.checkpoint.genesis.train import TinyGenesis

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(genesis_converted: Converted, tmp_path: Path) -> Path:
    """A folder of a right conversion, to be spoilt."""
    return Path(shutil.copytree(genesis_converted.model.path, tmp_path / "model"))


@pytest.fixture
def verified(tiny_genesis: TinyGenesis) -> Callable[[Path], Verification]:
    texts = tuple(map(str, tiny_genesis.held_out_text[:2]))
    checkpoint = section_of(tiny_genesis)
    return lambda folder: verify(BaseSection(model=str(folder), text=texts), checkpoint=checkpoint)


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def assert_differs(found: Verification, first: str | None) -> None:
    assert found.is_refused
    assert found.parity is not None
    assert not found.parity.holds
    assert found.parity.first_differing_part == first
    assert any(cause.startswith("parity does not hold against the checkpoint") for cause in found.causes)


def test_a_right_folder_is_accepted(folder: Path, verified: Callable[[Path], Verification]) -> None:
    found = verified(folder)
    assert found.causes == ()
    assert found.parity is not None
    assert found.parity.max_abs_delta_logit < 1e-4
    assert found.parity.first_differing_part is None
    assert "parity holds against the checkpoint" in found.table()
    assert "other readings predicts the text better" in found.table()


def test_another_theta_in_the_config_differs_from_the_first_layer_on(
    folder: Path, verified: Callable[[Path], Verification]
) -> None:
    edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 400_000.0})
    assert_differs(verified(folder), "layer 0")


def test_another_epsilon_in_the_config_differs_from_the_first_layer_on(
    folder: Path, verified: Callable[[Path], Verification]
) -> None:
    edit_config(folder, rms_norm_eps=1e-3)
    assert_differs(verified(folder), "layer 0")


def test_a_changed_matrix_is_traced_to_its_layer(folder: Path, verified: Callable[[Path], Verification]) -> None:
    def nudge(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["model.layers.1.mlp.down_proj.weight"][7] += 0.05
        return weights

    edit_weights(folder, nudge)
    assert_differs(verified(folder), "layer 1")


def test_a_dropped_head_is_traced_to_the_head(folder: Path, verified: Callable[[Path], Verification]) -> None:
    edit_weights(folder, lambda weights: {name: t for name, t in weights.items() if name != "lm_head.weight"})
    edit_config(folder, tie_word_embeddings=True)
    assert_differs(verified(folder), "head")


def test_a_tokenizer_without_its_bos_is_told(
    folder: Path, genesis_converted: Converted, verified: Callable[[Path], Verification]
) -> None:
    with_bos(genesis_converted.model.load_tokenizer(), False).save_pretrained(folder)
    found = verified(folder)
    assert found.is_refused
    assert found.parity is not None
    assert found.parity.holds
    assert any(cause.startswith("BOS is missing in the folder's tokenizer: ") for cause in found.causes)
    assert any(cause.startswith("BOS is missing: the model expects one") for cause in found.causes)


def test_the_training_codes_own_logits_tell_what_loss_cannot(
    tiny_genesis: TinyGenesis, folder: Path, tmp_path: Path
) -> None:
    """Forty tokens: theta 100,000 in place of 500,000 is no dearer there, and is told by its logits."""
    text = "Anna has a red hat. Otto has a blue cat. Once more: Anna has a red hat."
    ids = torch.tensor([1, *tiny_genesis.processor().encode(text)])[:12]
    with torch.no_grad():
        mine = tiny_genesis.model(ids[None])[0]
    reference = tmp_path / "reference.safetensors"
    save_file({"input_ids": ids, "logits": mine}, reference)
    right = measure_against_reference(folder, reference)
    assert right.holds
    assert right.against == "reference"
    edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0})
    wrong = measure_against_reference(folder, reference)
    assert not wrong.holds
    assert wrong.max_abs_delta_logit > 10 * wrong.tolerance
    costs = []
    for theta in (500_000.0, 100_000.0):
        edit_config(folder, rope_parameters={"rope_type": "default", "rope_theta": theta})
        from genesis_sft.checkpoint.model_dir import ModelDir

        with torch.no_grad():
            logits = ModelDir.open(folder).load_model()(input_ids=ids[None]).logits[0, :-1]
        costs.append(float(torch.nn.functional.cross_entropy(logits, ids[1:])))
    assert abs(costs[0] - costs[1]) < 0.1


def test_a_reference_refuses_a_folder(tiny_genesis: TinyGenesis, folder: Path, tmp_path: Path) -> None:
    ids = torch.arange(300, 340)
    with torch.no_grad():
        mine = tiny_genesis.model(ids[None])[0]
    save_file({"input_ids": ids, "logits": mine.bfloat16() * 1.2}, tmp_path / "reference.safetensors")
    found = verify(BaseSection(model=str(folder)), reference=tmp_path / "reference.safetensors")
    assert any(cause.startswith("parity does not hold against the reference") for cause in found.causes)


@pytest.mark.parametrize(
    "tensors",
    [
        {"logits": torch.zeros(4, 9)},
        {"input_ids": torch.arange(3), "logits": torch.zeros(4, 9)},
        {"input_ids": torch.arange(4).float(), "logits": torch.zeros(4, 9)},
        {"input_ids": torch.arange(4), "logits": torch.zeros(4, 9).long()},
    ],
    ids=["no ids", "other lengths", "ids that are no integers", "logits that are integers"],
)
def test_a_reference_of_another_kind(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "reference.safetensors")
    with pytest.raises(ModelError, match=r"expected input_ids of \(T,\) and logits of \(T, rows\)"):
        read_reference(tmp_path / "reference.safetensors")


def test_a_reference_that_is_no_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "reference").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read_reference(tmp_path / "reference")


def test_a_checkpoint_is_not_taken_for_a_model(tiny_genesis: TinyGenesis) -> None:
    with pytest.raises(ModelError, match="is a pretraining checkpoint, not a model that can be run"):
        verify(BaseSection(model=str(tiny_genesis.state_file)))
