from __future__ import annotations

import pytest
import torch

from genesis_sft.checkpoint.tensors.left_out import is_optimizer_state, split_entries
from genesis_sft.checkpoint.tensors.source import StoredTensor


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.layers.0.attention.wq.weight.exp_avg",
        "optimizer.param_groups.0.lr",
        "optim.state.0.step",
        "app.optimizer.state.tok_embeddings.weight.exp_avg_sq",
        "optimizers.0.x",
        "optimizer_state_dict.state.0.momentum_buffer",
        "optimizer_states.0.state.1.exp_avg",
        "optim_state.tok_embeddings.weight",
        "opt_state.tok_embeddings.weight",
        "adam_optimizer.m",
        "opt.mu.w",
        "state.0.max_exp_avg_sq",
        "layers.0.wq.weight.exp_avg",
        "layers.0.wq.weight.master_weight",
        "train.fp32_from_fp16_params.0.1",
        "Optimizer.state.x",
    ],
)
def test_optimizer_state_is_known_by_name(name: str) -> None:
    assert is_optimizer_state(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.attention.wq.weight",
        "layers.0.optimal.weight",
        "model.opt.weight",
        "opt",
        "_orig_mod.transformer.h.0.attn.c_attn.weight",
        "state.layers.0.feed_forward.w1.weight",
        "exp_avg_norm.weight",
    ],
)
def test_weights_are_not_taken_for_optimizer_state(name: str) -> None:
    assert not is_optimizer_state(name)


def test_buffers_of_floats_stay_and_counters_go() -> None:
    def stored(dtype: torch.dtype, *shape: int) -> StoredTensor:
        return StoredTensor(shape, dtype)

    tensors, left_out = split_entries(
        [
            ("w", stored(torch.bfloat16, 2, 3)),
            ("rope.inv_freq", stored(torch.float32, 4)),
            ("freqs_cis", stored(torch.complex64, 4, 2)),
            ("mask", stored(torch.bool, 4, 4)),
            ("w8", stored(torch.float8_e4m3fn, 4, 4)),
            ("step", stored(torch.float32)),
            ("rng", stored(torch.uint8, 16)),
            ("seen", stored(torch.int64, 1)),
            ("config.name", None),
            ("optimizer.state.w.exp_avg", stored(torch.float32, 2, 3)),
        ]
    )
    assert list(tensors) == ["w", "rope.inv_freq", "freqs_cis", "mask", "w8"]
    assert left_out == {"single number": 1, "whole numbers": 2, "no tensor": 1, "optimizer state": 1}
