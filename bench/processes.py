"""Runs of a specification, each in a process of its own, whose answer is read back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LONGEST_RUN_SECONDS = 3600
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_OFFLINE": "1"}
_MOST_ERROR_TEXT = 2000


class RunFailed(Exception):
    """A program ended with an error; the text is the end of what it said."""


def run_program(program: Sequence[str], specification: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a program on a specification and return its answer.

    Args:
        program: A Python, and a script of this folder.
        specification: See `measure`.
        folder: For the files between them.

    Raises:
        RunFailed: It ended with an error.
    """
    python, script = program
    written, answer = folder / "specification.json", folder / "answer.json"
    written.write_text(json.dumps(specification), encoding="utf-8")
    answer.unlink(missing_ok=True)
    output_of([python, str(HERE / script), str(written), str(answer)], on_gpu=specification["device"] == "cuda")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found | {"settings": specification.get("trl") or specification["ours"]}


def output_of(command: Sequence[str], *, on_gpu: bool = False) -> str:
    """Return what a command prints, without the network and, unless wanted, without CUDA devices.

    Raises:
        RunFailed: It ended with an error, or not at all.
    """
    own = OFFLINE | ({} if on_gpu else {"CUDA_VISIBLE_DEVICES": ""})
    try:
        process = subprocess.run(
            command, env=os.environ | own, capture_output=True, text=True, timeout=LONGEST_RUN_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"not done after {LONGEST_RUN_SECONDS} s: {' '.join(command)}") from None
    if process.returncode != 0:
        raise RunFailed(f"{' '.join(command)} ended with {process.returncode}:\n{process.stderr[-_MOST_ERROR_TEXT:]}")
    return process.stdout
