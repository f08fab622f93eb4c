"""The fresh process of a parity check: opens an exported folder as others will, and writes down what it computes.

python -m genesis_sft.checkpoint.llama.hf_outputs FOLDER GIVEN.safetensors FOUND.safetensors
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from genesis_sft.checkpoint.llama.parity import GREEDY_TOKENS
from genesis_sft.checkpoint.model_dir import ModelDir

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def main(folder: Path, given_file: Path, found_file: Path) -> None:
    """Compute in float32 and write each part's output, and a greedy text if a prompt is given."""
    given = load_file(given_file)
    model = ModelDir.open(folder).load_model()
    found: dict[str, torch.Tensor] = {}
    hooks = [module.register_forward_hook(partial(_keep, found, name)) for name, module in _parts(model)]
    with torch.inference_mode():
        found["head"] = model(input_ids=given["ids"][None], use_cache=False).logits[0].float()
        for hook in hooks:
            hook.remove()
        if "prompt" in given:
            found["greedy_ids"] = _greedy(model, given["prompt"])
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, found_file)


def _parts(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    inner = model.get_decoder()
    layers = [(f"layer {number}", layer) for number, layer in enumerate(inner.layers)]
    return [("embedding", model.get_input_embeddings()), *layers, ("final norm", inner.norm)]


def _keep(found: dict[str, torch.Tensor], name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
    found[name] = (output[0] if isinstance(output, tuple) else output)[0].float()


def _greedy(model: PreTrainedModel, prompt: torch.Tensor) -> torch.Tensor:
    """Take the likeliest token, whatever it is, again and again; the end of text does not end it."""
    outputs = model(input_ids=prompt[None], use_cache=True)
    ids = [int(outputs.logits[0, -1].argmax())]
    while len(ids) < GREEDY_TOKENS:
        last = torch.tensor([[ids[-1]]])
        outputs = model(input_ids=last, past_key_values=outputs.past_key_values, use_cache=True)
        ids.append(int(outputs.logits[0, -1].argmax()))
    return torch.cat((prompt, torch.tensor(ids)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
