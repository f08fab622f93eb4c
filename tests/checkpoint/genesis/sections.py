"""What a user would state of a tiny Genesis, rightly or wrongly; and state dicts with a fault in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genesis_sft.recipe import BaseSection
from tests.checkpoint.genesis.train import TinyGenesis

State = dict[str, torch.Tensor]
Edit = Callable[[State], State]


def section_of(
    tiny: TinyGenesis, model: Path | None = None, *, wrong: dict[str, Any] | None = None, **fields: Any
) -> BaseSection:
    """Return a section that states everything as the training had it, ``wrong`` aside.

    Args:
        tiny: The run.
        model: The checkpoint, if not the run's own state dict.
        wrong: Conventions that are stated otherwise; None for one that is not stated.
        fields: Other fields of the section.
    """
    args = tiny.model.args
    right: dict[str, Any] = {
        "num_heads": args.n_heads,
        "num_kv_heads": args.n_kv_heads,
        "rope_layout": "interleaved",
        "rope_theta": args.rope_theta,
        "norm_eps": args.norm_eps,
        "tied": args.tied,
        "bos": True,
        "context": args.max_seq_len,
    }
    values = {
        "model": str(model or tiny.state_file),
        "tokenizer": str(tiny.tokenizer_file),
        "text": tuple(map(str, tiny.held_out_text)),
        "conventions": right | (wrong or {}),
    }
    return BaseSection(**(values | fields))


def save_edited(tiny: TinyGenesis, file: Path, edit: Edit) -> Path:
    """Write the run's weights with a change to a ``.pt`` file."""
    torch.save(edit({name: tensor.clone() for name, tensor in load_state(tiny).items()}), file)
    return file


def load_state(tiny: TinyGenesis) -> State:
    """Return the run's weights, by the training code's names."""
    state: State = torch.load(tiny.state_file, weights_only=True)
    return state


def swap(one: str, other: str) -> Edit:
    """Exchange the names of two matrices."""
    return lambda state: {
        name.replace(one, "§").replace(other, one).replace("§", other): tensor for name, tensor in state.items()
    }


def transpose(part: str) -> Edit:
    """Store the matrices whose names contain ``part`` as (in, out)."""
    return lambda state: {name: t.T.contiguous() if part in name else t for name, t in state.items()}


def shift_rows(by: int) -> Edit:
    """Store row i of embedding and head as row i + ``by``."""
    parts = ("tok_embeddings.weight", "output.weight")
    return lambda state: {name: t.roll(by, 0) if name in parts else t for name, t in state.items()}


def replace_head(state: State) -> State:
    """An output head that nobody trained."""
    noise = torch.randn(state["tok_embeddings.weight"].shape, generator=torch.Generator().manual_seed(3))
    return state | {"output.weight": noise * 0.02}


def fuse(*order: str, groups: int | None = None) -> Edit:
    """Store query, key and value as one matrix, in this order; by key-value head where ``groups`` is given."""

    def edit(state: State) -> State:
        fused = {name: t for name, t in state.items() if not name.endswith(("wq.weight", "wk.weight", "wv.weight"))}
        for name in [name for name in state if name.endswith("wq.weight")]:
            root = name.removesuffix("wq.weight")
            parts = [state[f"{root}w{part}.weight"] for part in order]
            if groups is not None:
                parts = [torch.cat(group) for group in zip(*(part.chunk(groups) for part in parts), strict=True)]
            fused[f"{root}wqkv.weight"] = torch.cat(parts)
        return fused

    return edit
