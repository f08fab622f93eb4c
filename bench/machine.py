"""What a result file says about where it was measured: machine, commit, versions, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent


def origin(commit: str | None) -> dict[str, Any]:
    """Return when, where and of what a result is measured.

    Args:
        commit: Of the measured tree, where git cannot be asked; None asks git.
    """
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        # absolute paths are of one machine only: their last part says enough
        "command": shlex.join(["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)]),
        "commit": commit or ask_git(),
        "machine": describe_machine(),
    }


def ask_git() -> str:
    """Return the commit of the working tree, with ``+changes`` where files differ from it."""
    try:
        answers = [
            subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, timeout=30, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answers[0].strip() + ("+changes" if answers[1].strip() else "")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, main memory, and the CUDA devices."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "devices": [
            {"name": found.name, "memory_gb": round(found.total_memory / 1e9, 1)}
            for found in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
    }


def processor() -> str:
    """Return the processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
