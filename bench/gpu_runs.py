"""What bench/train_gpu.py runs: the settings of each part, TRL's where it is installed, and two ranks at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from processes import HERE, LONGEST_RUN_SECONDS, OFFLINE, RunFailed, output_of

from genesis_sft.training.forward.attention import FLASH_ATTENTION, VARLEN_ATTENTION, usable_kernels


def parts_of(part: str, device: str) -> list[dict[str, Any]]:
    """Return the settings of a part's runs: fields of the training section that differ from the shared ones."""
    kernels = usable_kernels(torch.device(device), torch.bfloat16)
    named = {VARLEN_ATTENTION: "varlen", FLASH_ATTENTION: "flash"}
    attentions = [named.get(kernel, "segments") for kernel in kernels]
    best: dict[str, Any] = {"attention": attentions[-1]}
    runs: dict[str, list[dict[str, Any]]] = {
        "attention": [{"attention": name} for name in attentions],
        "compile": [{"attention": name, "compile": True} for name in attentions],
        "recompute": [best | {"activation_checkpointing": kind} for kind in ("selective", "full")],
        "micro_batch": [best | {"micro_batch_tokens": tokens} for tokens in (4096, 8192, 32_768)],
        "vocabulary": [best | {"pad_vocab_to_multiple_of": 64}],
    }
    return runs[part]


def trl_settings(python: str, device: str) -> list[dict[str, Any]]:
    """Return the settings to try TRL in; none where that Python has no TRL.

    flex_attention and flash_attention_2 read the borders of conversations laid end to end; sdpa gets a mask of them.
    """
    look = "import importlib.util as u; print([n for n in ('trl', 'flash_attn', 'liger_kernel') if u.find_spec(n)])"
    found = output_of([python, "-c", look])
    if "'trl'" not in found:
        print(f"TRL is not installed for {python}: it is left out")
        return []
    if device == "cpu":
        return [{"attention": "sdpa", "per_device": 2, "padding_free": True}]
    attentions = ["sdpa", "flex_attention"] + (["flash_attention_2"] if "'flash_attn'" in found else [])
    liger = {"liger": True} if "'liger_kernel'" in found else {}
    free = [{"attention": name, "per_device": 16, "padding_free": True} | liger for name in attentions]
    return [*free, {"attention": "sdpa", "per_device": 8} | liger]


def run_two_ranks(specification: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run two ranks in the most real way that works here, and return what rank 0 measured, with both peaks.

    Raises:
        RunFailed: None works.
    """
    on_gpu = specification["device"] == "cuda"
    ways = ["nccl"] if on_gpu and torch.cuda.device_count() > 1 else ["gloo", "fake"]
    failures = []
    for way in ways:
        try:
            answers = _run_ranks(specification | {"ranks": way}, folder, 1 if way == "fake" else 2)
        except RunFailed as failure:
            failures.append(f"{way}: {failure}")
            continue
        peaks = [answer["peak_bytes"] for answer in answers]
        more = {"ranks": way, "peaks_of_ranks": peaks, "cap_bytes": specification["cap_bytes"], "failed_ways": failures}
        return answers[0] | more | {"settings": specification["ours"]}
    raise RunFailed("\n".join(failures))


def _run_ranks(specification: dict[str, Any], folder: Path, count: int) -> list[dict[str, Any]]:
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    written = folder / "specification.json"
    written.write_text(json.dumps(specification | {"meeting": str(meeting)}), encoding="utf-8")
    answers = [folder / f"answer-{rank}.json" for rank in range(count)]
    processes = []
    for rank, answer in enumerate(answers):
        answer.unlink(missing_ok=True)
        with open(folder / f"errors-{rank}", "w", encoding="utf-8") as errors:
            command = [sys.executable, str(HERE / "two_ranks.py"), str(written), str(answer), str(rank)]
            processes.append(
                subprocess.Popen(command, env=os.environ | OFFLINE, stdout=subprocess.DEVNULL, stderr=errors)
            )
    _wait(processes, folder)
    return [json.loads(answer.read_text(encoding="utf-8")) for answer in answers]


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait for all; when one fails or time is up, end the others."""
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    try:
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline or any(process.poll() for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    for rank, process in enumerate(processes):
        if process.wait() != 0:
            raise RunFailed(f"rank {rank}: {(folder / f'errors-{rank}').read_text(encoding='utf-8')[-2000:]}")
