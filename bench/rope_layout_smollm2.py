"""A real model in a foreign checkpoint: converted blindly it is far worse, and the diagnosis finds out why.

SmolLM2-135M-Instruct is saved as a PyTorch DCP checkpoint under the names of Meta's code, with its query and key rows
permuted to the interleaved RoPE layout, as a training run in that layout would leave them. Then:

1. `base convert` states nothing of the layout: what does it find?
2. `base convert --rope-layout half_split --verify warn`: the blind conversion, as tools do that check names and shapes;
3. `base convert --rope-layout half_split`: refused;
4. `base diagnose --write`: the cause, and the corrected folder;
5. the corrected folder against the original: largest difference of two logits.

    python bench/rope_layout_smollm2.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from genesis_sft.checkpoint.llama.hf_layout import half_split_order
from genesis_sft.checkpoint.origin import read_base
from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.recipe.sections import BaseSection

META_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}


def main() -> None:
    """Run the five steps and print a table."""
    model, tokenizer = read_base(BaseSection(model="package:smollm2-135m-instruct"))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save_pretrained(folder / "tokenizer")
        dcp.save({"model": meta_state(model), "step": 1}, checkpoint_id=folder / "checkpoint", no_dist=True)
        given = [str(folder / "checkpoint"), "--tokenizer", str(folder / "tokenizer")]
        stated = ["--rope-theta", "100000", "--norm-eps", "1e-5", "--context", "2048"]

        found = genesis_sft("convert", given[0], str(folder / "found"), *given[1:], "--context", "2048")
        blind = genesis_sft(
            "convert", given[0], str(folder / "blind"), *given[1:], *stated, "--rope-layout", "half_split",
            "--verify", "warn",
        )  # fmt: skip
        refused = genesis_sft(
            "convert", given[0], str(folder / "no"), *given[1:], *stated, "--rope-layout", "half_split"
        )
        mended = genesis_sft(
            "diagnose", given[0], *given[1:], *stated, "--rope-layout", "half_split", "--write", str(folder / "mended")
        )
        print(f"\n{'step':<44}{'nats a token':>14}")
        nats = blind["answer"]["nats_per_token"]["all"]
        print(
            f"{'nothing stated: found ' + layout(found['answer']):<44}{found['answer']['nats_per_token']['all']:14.3f}"
        )
        print(f"{'converted blindly as half-split':<44}{nats:14.3f}")
        print(f"{'corrected by the diagnosis':<44}{mended['answer']['nats_per_token']['chosen']:14.3f}")
        print(f"\nstated wrongly, convert ends with status {refused['status']}: {refused['answer']['causes'][0]}")
        print(f"diagnosis: {mended['answer']['cause']} (margin {mended['answer']['margin']['nats']:.3f} nats)")
        for name in ("found", "mended"):
            print(
                f"{name}: max |delta logit| to the original {largest_difference(model, tokenizer, folder / name):.1e}"
            )
        seconds = ", ".join(f"{run['elapsed_seconds']:.0f} s" for run in (found, blind, refused, mended))
        print(f"took {seconds}")


def meta_state(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Return the weights under Meta's names, query and key rows interleaved."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    state = {}
    for name, tensor in model.state_dict().items():
        for part, count in heads.items():
            if part in name:
                order = torch.tensor(half_split_order(count, tensor.shape[0] // count))
                tensor = torch.empty_like(tensor).index_copy_(0, order, tensor)
        for mine, theirs in META_NAMES.items():
            name = name.replace(mine, theirs)
        state[name.removeprefix("model.")] = tensor.clone()
    del state["output.weight"]  # tied
    return state


def genesis_sft(command: str, *arguments: str) -> dict:
    """Run a command of ``genesis-sft base`` with --json; return answer, exit status and time."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "genesis_sft", "base", command, *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return {
        "status": done.returncode,
        "answer": json.loads(done.stdout),
        "elapsed_seconds": time.monotonic() - started,
    }


def layout(answer: dict) -> str:
    """Return the RoPE layout that a conversion was written by."""
    return answer["diagnosis"]["conventions"]["rope_layout"]


@torch.inference_mode()
def largest_difference(model: LlamaForCausalLM, tokenizer, folder: Path) -> float:
    """Return the largest difference of two logits over the sample text."""
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return max(
        float((model(ids).logits - other(ids).logits).abs().max())
        for text in sample_passages().values()
        for ids in [torch.tensor([tokenizer(text)["input_ids"]])]
    )


if __name__ == "__main__":
    main()
