"""What was found out about engines, kept in the cache: a tokenizer is tried on the hard texts once, not in every run.

::

    CACHE/engines/<key>.json    {"engine", "note", "sha256"}
    CACHE/engines/<key>.tkz     the tokenizer in tokie's own format, where tokie was proven

The key is a hash of the tokenizer, of both libraries' versions and of the program's own files that hold the trial, so
that a proof is never older than what it is about.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from genesis_sft.assets import cache_dir
from genesis_sft.checkpoint.sentencepiece import proof_texts
from genesis_sft.run_dir import replacing
from genesis_sft.tokens import hard_texts, long_texts

_LIBRARIES = ("tokie", "tokenizers")


@dataclass(frozen=True)
class Finding:
    """What a trial came to.

    Attributes:
        note: In a line, for people.
        compiled: The tokenizer in tokie's own format; ``None`` where tokie was not proven.
    """

    note: str
    compiled: bytes | None


def recall(serialised: str) -> Finding | None:
    """Return what is known of a tokenizer; ``None`` where it was not tried yet, or the files are damaged.

    Args:
        serialised: The tokenizer as JSON.
    """
    facts, compiled = _paths(serialised)
    try:
        values = json.loads(facts.read_text(encoding="utf-8"))
        if values["engine"] != "tokie":
            return Finding(str(values["note"]), None)
        found = compiled.read_bytes()
        intact = hashlib.sha256(found).hexdigest() == values["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Finding(str(values["note"]), found) if intact else None


def remember(serialised: str, finding: Finding) -> None:
    """Keep what a trial came to; where the cache cannot be written, the next run tries again."""
    facts, compiled = _paths(serialised)
    values = {
        "engine": "tokie" if finding.compiled is not None else "tokenizers",
        "note": finding.note,
        "sha256": hashlib.sha256(finding.compiled or b"").hexdigest(),
    }
    try:
        facts.parent.mkdir(parents=True, exist_ok=True)
        if finding.compiled is not None:
            with replacing(compiled) as temporary:
                temporary.write_bytes(finding.compiled)
        with replacing(facts) as temporary:
            temporary.write_text(json.dumps(values), encoding="utf-8")
    except OSError:
        return


def _paths(serialised: str) -> tuple[Path, Path]:
    key = hashlib.sha256(_trial().encode() + serialised.encode()).hexdigest()[:24]
    folder = cache_dir() / "engines"
    return folder / f"{key}.json", folder / f"{key}.tkz"


@cache
def _trial() -> str:
    """Return what decides a trial but for the tokenizer."""
    files = [Path(str(module.__file__)) for module in (hard_texts, long_texts, proof_texts)]
    files.append(Path(__file__).with_name("engine.py"))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return json.dumps([[f"{name} {_version(name)}" for name in _LIBRARIES], hashes])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
