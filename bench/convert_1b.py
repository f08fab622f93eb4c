"""Time and peak memory of converting a checkpoint of Genesis 1B's size, with Adam's state beside the weights.

The checkpoint has random float32 weights (hidden 1536, 32 layers, 12 query and 6 key-value heads, FFN 4736, vocabulary
49,152, tied head: 1.000B parameters, 4.0 GB) and as many first and second moments (8.0 GB), saved with
torch.distributed.checkpoint. As random weights predict nothing, they are converted with --verify warn --no-diagnosis,
and the answer has to say that they are refused. Memory is the largest resident set of any moment, summed over the
process and its children; the bound is 1.5 times the weights that are written.

    python bench/convert_1b.py [SCRATCH_FOLDER]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

HIDDEN, LAYERS, Q_WIDTH, KV_WIDTH, FFN, ROWS = 1536, 32, 1536, 768, 4736, 49_152


def main() -> None:
    """Make the checkpoint if it is not there, convert it, and print what it took."""
    scratch = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    checkpoint, out = scratch / "checkpoint", scratch / "model"
    if not (checkpoint / ".metadata").exists():
        save_checkpoint(checkpoint)
    write_tokenizer(scratch / "tokenizer")
    shutil.rmtree(out, ignore_errors=True)
    on_disk = sum(file.stat().st_size for file in checkpoint.iterdir())
    command = [
        sys.executable, "-m", "genesis_sft", "base", "convert", str(checkpoint), str(out),
        "--tokenizer", str(scratch / "tokenizer"), "--verify", "warn", "--json",
        "--num-heads", "12", "--rope-layout", "interleaved", "--rope-theta", "500000", "--norm-eps", "1e-5",
        "--tied", "--context", "2048", "--no-diagnosis",
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak: list[tuple[int, float]] = [(0, 0.0)]
    watcher = threading.Thread(target=watch, args=(process, started, peak))
    watcher.start()
    answer = json.loads(process.communicate()[0])
    watcher.join()
    elapsed_seconds = time.monotonic() - started
    written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    parity = answer["parity"]
    print(f"checkpoint on disk: {on_disk / 1e9:.2f} GB; weights written: {written / 1e9:.2f} GB")
    print(f"time: {elapsed_seconds:.0f} s; exit status {process.returncode}")
    print(f"peak memory: {peak[0][0] / 1e9:.2f} GB = {peak[0][0] / written:.2f} x the weights, {peak[0][1]:.0f} s in")
    print(f"parity: max |delta logit| {parity['max_abs_delta_logit']:.1e}, same greedy ids {parity['same_greedy_ids']}")
    print(f"refused: {answer['refused']}: {answer['causes'][0]}")


def watch(process: subprocess.Popen[str], started: float, peak: list[tuple[int, float]]) -> None:
    """Keep the largest sum of resident sets of the process and its children."""
    while process.poll() is None:
        total = sum(resident_bytes(pid) for pid in family(process.pid))
        if total > peak[0][0]:
            peak[0] = (total, time.monotonic() - started)
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += family(int(child))
        except OSError:
            continue
    return found


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process; pages of files that it maps count as well."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def save_checkpoint(folder: Path) -> None:
    """Save random weights and Adam's moments of them, as a training run does."""
    print("making the checkpoint", file=sys.stderr)
    torch.manual_seed(0)
    model = {
        name: torch.randn(shape) * 0.02 if len(shape) > 1 else torch.ones(shape) for name, shape in shapes().items()
    }
    state = {
        f"{name}.{moment}": torch.full(shape, 1e-3)
        for name, shape in shapes().items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    dcp.save({"model": model, "optimizer": {"state": state}, "step": 40_000}, checkpoint_id=folder, no_dist=True)


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of the model under Meta's names."""
    found: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (ROWS, HIDDEN)}
    found["norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        found |= {
            f"layers.{layer}.attention_norm.weight": (HIDDEN,),
            f"layers.{layer}.attention.wq.weight": (Q_WIDTH, HIDDEN),
            f"layers.{layer}.attention.wk.weight": (KV_WIDTH, HIDDEN),
            f"layers.{layer}.attention.wv.weight": (KV_WIDTH, HIDDEN),
            f"layers.{layer}.attention.wo.weight": (HIDDEN, Q_WIDTH),
            f"layers.{layer}.ffn_norm.weight": (HIDDEN,),
            f"layers.{layer}.feed_forward.w1.weight": (FFN, HIDDEN),
            f"layers.{layer}.feed_forward.w2.weight": (HIDDEN, FFN),
            f"layers.{layer}.feed_forward.w3.weight": (FFN, HIDDEN),
        }
    return found


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of as many tokens: SmolLM2's, which has 49,152."""
    from genesis_sft.checkpoint.origin import read_base
    from genesis_sft.recipe.sections import BaseSection

    if not folder.exists():
        _, tokenizer = read_base(BaseSection(model="package:smollm2-135m-instruct"))
        tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
