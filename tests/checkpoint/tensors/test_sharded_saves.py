"""Checkpoints as training runs leave them: two and three gloo ranks, FSDP1 and FSDP2, with AdamW state."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp

from genesis_sft.checkpoint.tensors.dcp import DcpSource, open_dcp
from tests.checkpoint.tensors.save_with_ranks import STYLES, expected_weights, save

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[(style, ranks) for style in STYLES for ranks in (2, 3)], ids=str)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DcpSource:
    style, ranks = request.param
    folder = tmp_path_factory.mktemp("run") / f"{style}-{ranks}"
    save(folder, style=style, ranks=ranks)
    return open_dcp(folder)


def test_every_weight_comes_back_bit_for_bit(source: DcpSource) -> None:
    expected = {f"model.{name}": value for name, value in expected_weights().items()}
    assert set(source.tensors) == set(expected)
    for name, value in expected.items():
        assert source.tensors[name].shape == tuple(value.shape)
        assert torch.equal(source.read(name), value), name


def test_torch_itself_reads_the_same(source: DcpSource) -> None:
    state = {name: torch.empty(stored.shape, dtype=stored.dtype) for name, stored in source.tensors.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=source.path, no_dist=True)
    for name, value in state.items():
        assert torch.equal(source.read(name), value), name


def test_rows_are_cut_unevenly_among_the_ranks(source: DcpSource) -> None:
    rows = [chunk.sizes[0] for chunk in source.chunks["model.embed.weight"]]
    assert sum(rows) == 13
    assert len(set(rows)) > 1


def test_the_state_of_adamw_is_left_out(source: DcpSource) -> None:
    # exp_avg, exp_avg_sq and step of 10 parameters, and 12 settings of one parameter group
    assert source.left_out == {"optimizer state": 42, "no tensor": 1}
