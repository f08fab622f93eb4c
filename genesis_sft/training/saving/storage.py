"""How a checkpoint lies on disk: a folder of PyTorch's distributed checkpoint (DCP), with the hashes of its files.

step-000120/
  __0_0.distcp  __1_0.distcp ...   tensors, a file for each process that wrote
  .metadata                        which tensor lies where; DCP's pickle
  state.json                       step, held-out loss, size and SHA-256 of every other file; written last

What is trusted: the hashes tell what a crash or a disk has damaged, and are checked before anything is read. They are
no signature. So nothing in the folder is run either: ``.metadata`` is unpickled only when it names nothing but DCP's
own plain classes, only tensors are read, through ``torch.load(weights_only=True)``, and from hashed files only.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult

from genesis_sft.checkpoint.tensors.dcp_metadata import ALLOWED
from genesis_sft.checkpoint.tensors.safe_pickle import read_pickle
from genesis_sft.errors import GenesisError, RunDirError
from genesis_sft.run_dir import hash_file, sync_folder, write_json

WHEN_FULL = "Is the disk full? When there is room, the same command goes on from the last checkpoint."
_METADATA, _STATE = ".metadata", "state.json"


@dataclass(frozen=True)
class SavedState:
    """What ``state.json`` says of a checkpoint.

    Attributes:
        step: Steps done.
        held_out_loss: Nats per token after that step, where it was measured.
        sha256: Hash over the hashes of the tensors' files: equal states saved by as many processes have equal ones.
        files: Name to ``{"bytes": ..., "sha256": ...}`` of every other file.
    """

    step: int
    held_out_loss: float | None
    sha256: str
    files: Mapping[str, Mapping[str, Any]]


class Writer(FileSystemWriter):
    """Writes tensors, each process its own part, synced to disk.

    Args:
        folder: To write to.
        when_written: Called in the first process with the names of the files when all processes have written theirs;
            what it raises is raised in all of them.
    """

    def __init__(self, folder: Path, when_written: Callable[[list[str]], None]) -> None:
        super().__init__(folder)
        self._when_written = when_written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write DCP's own metadata, then call back."""
        super().finish(metadata, results)
        data = {result.storage_data.relative_path for part in results for result in part}
        self._when_written([*sorted(data), _METADATA])


class Reader(FileSystemReader):
    """Reads tensors out of hashed files, and nothing else.

    Args:
        folder: To read from.
        files: Names of the files whose hashes were checked.
    """

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._files = files

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return what lies where; refuse a pickle that holds anything else, or points elsewhere."""
        data = (Path(self.path) / _METADATA).read_bytes()
        read_pickle(data, ALLOWED)  # raises where a name is not one of DCP's own
        metadata: Metadata = pickle.loads(data)  # noqa: S301 - its names were just looked at
        others = [k for k, v in metadata.state_dict_metadata.items() if not isinstance(v, TensorStorageMetadata)]
        others += sorted({info.relative_path for info in metadata.storage_data.values()} - self._files.keys())
        if others:
            raise RunDirError(f"expected nothing but tensors in hashed files; {_METADATA} holds {others[0]!r}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def write_state(folder: Path, names: list[str], *, step: int, held_out_loss: float | None) -> None:
    """Hash the files of a checkpoint and write ``state.json``, which makes it one."""
    hashes = {name: hash_file(folder / name) for name in names}
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": hashes[name]} for name in names}
    tensors = "".join(hashes[name] for name in names if name != _METADATA)
    sha256 = hashlib.sha256(tensors.encode()).hexdigest()
    write_json(folder / _STATE, {"step": step, "held_out_loss": held_out_loss, "sha256": sha256, "files": files})
    sync_folder(folder)


def read_state(folder: Path) -> SavedState | None:
    """Return what a checkpoint says of itself; None where ``state.json`` is absent or damaged."""
    try:
        state = SavedState(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
        loss, hashes = state.held_out_loss, [entry["sha256"] for entry in state.files.values()]
        whole = folder.name == f"step-{state.step:06d}" and isinstance(state.sha256, str) and _METADATA in state.files
        whole = whole and (loss is None or math.isfinite(loss)) and all(isinstance(digest, str) for digest in hashes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return state if whole else None


def is_intact(folder: Path, state: SavedState) -> bool:
    """Whether every file is what it was when it was written."""
    try:
        return all(
            (folder / name).stat().st_size == entry["bytes"] and hash_file(folder / name) == entry["sha256"]
            for name, entry in state.files.items()
        )
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def disk_errors(what: str, *, hint: str) -> Iterator[None]:
    """Turn the errors of PyTorch and safetensors about files into one that says what could not be done, and why.

    A process that is lost meanwhile is no such error and passes.
    """
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        if isinstance(cause, GenesisError | KeyboardInterrupt):
            raise cause from None
        raise RunDirError(f"{what}: {cause}", hint=hint) from None
