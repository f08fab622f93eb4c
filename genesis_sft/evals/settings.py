"""How an evaluation is made: what a record says of it besides the numbers."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Literal

from genesis_sft.evals.folder_data import folder_identity
from genesis_sft.recipe import EvalsSection

Dtype = Literal["float32", "bfloat16"]

_PACKAGES = ("genesis-sft", "lm-eval", "torch", "transformers", "tokenizers", "datasets")


def settings_of(section: EvalsSection, data: str, *, seed: int, device: str, dtype: str) -> dict[str, Any]:
    """Return the settings of a record: those of the recipe, and what else can change a number.

    Args:
        section: The recipe's.
        data: Where documents come from in the end: a folder is recorded by what is in it rather than by its place.
        seed: For the choice of answered questions.
        device: E.g. ``"cpu"``.
        dtype: Of the weights while they are measured.
    """
    import torch

    found: dict[str, Any] = section.model_dump(mode="json") | {"data": "folder" if section.data_folder else data}
    if section.data_folder:
        found["documents"] = folder_identity(section.data_folder, tuple(task.task for task in section.tasks))
    # the number of threads decides the order of sums, and that a greedy answer where two tokens are nearly as likely
    return found | {"seed": seed, "device": device, "dtype": dtype, "threads": torch.get_num_threads()}


def tasks_in_words(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Return the ``tasks`` of settings as a sentence has them: ``"piqa (50 items), mmlu 5-shot"``."""
    words = []
    for task in tasks:
        limit, shots = task.get("limit"), task.get("num_fewshot")
        words.append(f"{task.get('task')}{f' {shots}-shot' if shots else ''}{f' ({limit} items)' if limit else ''}")
    return ", ".join(words) or "nothing"


def pick_device(device: str) -> str:
    """Return the device meant by ``"auto"``: CUDA where there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
