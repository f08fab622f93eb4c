"""Whether a folder computes what somebody else's training code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.checkpoint.genesis.train import TinyGenesis


@torch.no_grad()
def expected_logits(tiny: TinyGenesis, ids: torch.Tensor) -> torch.Tensor:
    """What the training code itself computes, (T, rows)."""
    return tiny.model(ids[None])[0]


@torch.no_grad()
def greedy(next_logits: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, count: int) -> list[int]:
    for _ in range(count):
        ids = torch.cat((ids, next_logits(ids)[-1:].argmax(-1)))
    return ids[-count:].tolist()


def assert_computes_the_same(tiny: TinyGenesis, folder: Path, *, tolerance: float = 1e-4) -> None:
    """Others open the folder: the same ids, logits and greedy text as in the training code."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tiny.held_out_text[1].read_text(encoding="utf-8")[:900]
    ids = torch.tensor(tokenizer(text)["input_ids"])
    assert ids.tolist() == [1, *tiny.processor().encode(text)]
    assert 150 < len(ids) < 256
    with torch.no_grad():
        found = model(input_ids=ids[None]).logits[0]
    assert float((found - expected_logits(tiny, ids)).abs().max()) < tolerance
    prompt = ids[:60]
    theirs = greedy(lambda all_ids: model(input_ids=all_ids[None]).logits[0], prompt, 40)
    assert theirs == greedy(lambda all_ids: expected_logits(tiny, all_ids), prompt, 40)
