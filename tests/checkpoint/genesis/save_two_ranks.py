"""Save a tiny Genesis as its training code would on several graphics cards: FSDP2 on gloo ranks, DCP, AdamW's state.

Run as a module, it is one rank: ``python -m tests.checkpoint.genesis.save_two_ranks JOB.json RANK``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.checkpoint.genesis.train import BOS, TinyGenesis, loss_of
from tests.checkpoint.genesis.training_code import ModelArgs, Transformer

ROOT = Path(__file__).resolve().parents[3]
STEP = 40_000


@dataclass(frozen=True)
class SaveJob:
    """What the ranks are told; paths as text, so that it travels as JSON."""

    args: dict[str, Any]
    state_file: str
    folder: str
    rendezvous: str
    ranks: int
    prefix: str
    wrapper: str
    dtype: str
    optimizer: bool


def save_dcp(
    tiny: TinyGenesis,
    folder: Path,
    *,
    ranks: int = 2,
    prefix: str = "app.model",
    wrapper: str = "",
    dtype: str = "float32",
    optimizer: bool = True,
    state: dict[str, torch.Tensor] | None = None,
    time_limit: float = 300.0,
) -> Path:
    """Save ``tiny`` (or other weights of its sizes: ``state``) as a DCP folder from ``ranks`` processes.

    Args:
        tiny: Whose weights and sizes.
        folder: Where to; must not exist.
        ranks: How many processes share the weights.
        prefix: Where the model hangs in the tree: ``"app.model"`` gives ``app.model.layers.0.attention.wq.weight``
            and beside it ``app.optimizer.state.layers.0.attention.wq.weight.exp_avg``; ``""`` puts both at the top.
        wrapper: What a wrapper leaves in front of every name: ``"_orig_mod."`` (torch.compile), ``"module."`` (DDP).
        dtype: The stored dtype of the weights, such as ``"bfloat16"``.
        optimizer: Whether AdamW's state after a step is saved as well.
        state: Weights in the training code's names in place of the model's own.
        time_limit: Seconds after which the ranks are ended and the test fails.

    Returns:
        ``folder``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        state_file = tiny.state_file
        if state is not None:
            state_file = Path(scratch) / "state.pt"
            torch.save(state, state_file)
        job = SaveJob(
            args=asdict(tiny.model.args),
            state_file=str(state_file),
            folder=str(folder),
            rendezvous=str(Path(scratch) / "rendezvous"),
            ranks=ranks,
            prefix=prefix,
            wrapper=wrapper,
            dtype=dtype,
            optimizer=optimizer,
        )
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(asdict(job)))
        _run_ranks(job_file, ranks, time_limit)
    return folder


def _run_ranks(job_file: Path, ranks: int, time_limit: float) -> None:
    """Start all ranks; where one fails or the time is up, end the others and show what was said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    logs = [job_file.with_name(f"rank_{rank}.log") for rank in range(ranks)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as file:
                command = [sys.executable, "-m", "tests.checkpoint.genesis.save_two_ranks", str(job_file), str(rank)]
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))
        statuses = [process.wait(time_limit) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(statuses):
        raise RuntimeError("\n".join(f"rank {n}: {log.read_text(errors='replace')}" for n, log in enumerate(logs)))


def save_as_rank(job: SaveJob, rank: int) -> None:
    """Build, shard, take a step that changes nothing, save."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{job.rendezvous}", rank=rank, world_size=job.ranks)
    model = Transformer(ModelArgs(**job.args))
    model.load_state_dict(torch.load(job.state_file, weights_only=True))
    model.to(getattr(torch, job.dtype))
    mesh = init_device_mesh("cpu", (job.ranks,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # lr 0: the weights stay bit-equal
    loss_of(model, torch.randint(BOS + 1, model.args.vocab_size, (1, 16))).backward()
    optimizer.step()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    parts: dict[str, Any] = {"model": {job.wrapper + name: tensor for name, tensor in model_state.items()}}
    if job.optimizer:
        parts["optimizer"] = optimizer_state
    save(_hang(parts, job.prefix) | {"step": STEP}, checkpoint_id=job.folder)
    dist.destroy_process_group()


def _hang(parts: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Hang the model at ``prefix``, the optimizer beside it; an empty prefix puts the weights' names at the top."""
    if not prefix:
        model = parts.pop("model")
        return {**model, **parts}
    *above, last = prefix.split(".")
    tree = {last if name == "model" else name: part for name, part in parts.items()}
    for name in reversed(above):
        tree = {name: tree}
    return tree


if __name__ == "__main__":
    save_as_rank(SaveJob(**json.loads(Path(sys.argv[1]).read_text())), int(sys.argv[2]))
