"""Whether a report says what the records of its run say: every number is computed again.

From the bottom up: the outcome of each item follows from its log-likelihoods, a record's scores from its items, the
report from the records; the pages are written again and compared byte by byte. What no computation covers (a time, a
log-likelihood itself) is covered by the SHA-256 that the stage that wrote it left in its manifest. Pages of another
version of the program, which may be laid out otherwise, are covered by their SHA-256 only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import progress
from genesis_sft.errors import GenesisError
from genesis_sft.evals.record_files import RECORD
from genesis_sft.recipe import Recipe
from genesis_sft.report.differing import Difference, differing_lines, differing_values
from genesis_sft.report.page import JSON, render_report
from genesis_sft.report.run_report import STAGES_READ, read_results, recipe_of, require_finished
from genesis_sft.report.verify_record import verify_record
from genesis_sft.run_dir import RunDir, hash_file, read_manifest

REPORT_VERSION = 3
"""Of the report stage; raised when the program changes what it writes."""

_MODELS = {"before": "base", "held_out/before": "base", "after": "export", "held_out/after": "export"}
"""Folder of a record to the stage whose model it is of."""

_DAMAGED = (
    GenesisError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RecursionError,
)
"""What reading a file can raise after someone changed it."""


@dataclass(frozen=True)
class ReportVerification:
    """What a check of a run's report found.

    Attributes:
        run: The run folder.
        num_files: How many files were hashed.
        differences: What is not as it should be.
        note: Why the pages were not compared; empty where they were.
    """

    run: str
    num_files: int
    differences: tuple[Difference, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return it as plain text lines."""
        note = [self.note] if self.note else []
        if not self.differences:
            agree = "The records say what their items say" if note else "The report says what the records say"
            return "\n".join([f"{agree}; {self.num_files:,} files are as they were written.", *note])
        lines = [f"{one.file}: {one.field}: found {one.found}, expected {one.expected}" for one in self.differences]
        return "\n".join([*lines, f"{len(lines):,} value{'s differ' if len(lines) > 1 else ' differs'}.", *note])


def verify_run(path: str | Path) -> ReportVerification:
    """Compute every number of a finished run's report again, and compare.

    Args:
        path: The run folder.

    Raises:
        RunDirError: It holds no finished run, or one that another version of the program wrote.
    """
    run_dir = RunDir(path)
    stages = (*STAGES_READ, "report")
    require_finished(run_dir, ("report",))
    recipe = recipe_of(run_dir)
    note = _other_version(read_manifest(run_dir.folder("report")) or {})
    found = [
        *(one for folder in _MODELS for one in _tried(f"{folder}/{RECORD}", _record_of(run_dir.path, folder))),
        *([] if note else _tried("report", lambda: _differing_pages(recipe, run_dir))),
    ]
    named = {one.file for one in found}
    hashes = _tried("manifest.json", lambda: _differing_files(run_dir, stages))
    num_files = sum(len(_files_of(run_dir, stage)) for stage in stages)
    return ReportVerification(str(path), num_files, (*found, *(one for one in hashes if one.file not in named)), note)


def _other_version(manifest: Mapping[str, Any]) -> str:
    """Say that another version of the program wrote the report; nothing where this one did."""
    versions, layout = manifest.get("versions"), manifest.get("version")
    found, this = versions.get("genesis-sft") if isinstance(versions, dict) else None, metadata.version("genesis-sft")
    if layout != REPORT_VERSION:
        what = f"The report is in version {layout} of its format, this program writes version {REPORT_VERSION}"
    elif found != this:
        what = f"The report was written by {f'genesis-sft {found}' if found else 'an unknown version'}, this is {this}"
    else:
        return ""
    return f"{what}: its pages are not compared. `genesis-sft report write` writes them again."


def _tried(file: str, check: Callable[[], Iterable[Difference]]) -> list[Difference]:
    """Return what a check finds; a file that it cannot make sense of is a difference too."""
    try:
        return list(check())
    except _DAMAGED as error:
        said = str(error) if isinstance(error, GenesisError) else f"{type(error).__name__}: {error}"
        return [Difference(file, "content", said, "what the stage wrote")]


def _record_of(run: Path, folder: str) -> Callable[[], Iterator[Difference]]:
    def check() -> Iterator[Difference]:
        model = ModelDir(run / _MODELS[folder] / "model")
        yield from verify_record(run / folder, name=folder, model_hash=model.content_hash())

    return check


def _differing_pages(recipe: Recipe, run_dir: RunDir) -> Iterator[Difference]:
    for name, expected in render_report(read_results(recipe, run_dir)).items():
        file = run_dir.folder("report") / name
        found = file.read_bytes().decode("utf-8", errors="replace") if file.is_file() else ""
        if found != expected:
            yield from _differing_page(f"report/{name}", found, expected)


def _differing_page(file: str, found: str, expected: str) -> Iterator[Difference]:
    """Yield the fields of JSON that differ, or the first line of anything else."""
    fields: list[Difference] = []
    if file.endswith(JSON):
        with suppress(ValueError, RecursionError):  # no JSON any more
            fields = list(differing_values(file, json.loads(found), json.loads(expected)))
    yield from fields or differing_lines(file, found, expected)


def _differing_files(run_dir: RunDir, stages: Iterable[str]) -> Iterator[Difference]:
    """Yield the files that are not those that their stage wrote."""
    files = [(f"{stage}/{name}", entry) for stage in stages for name, entry in _files_of(run_dir, stage).items()]
    with progress("checking files", sum(entry["bytes"] for _, entry in files) / 1e6, "MB") as bar:
        for name, entry in files:
            path = run_dir.path / name
            if not path.is_file():
                yield Difference(name, "SHA-256", "no file", entry["sha256"])
            elif (found := hash_file(path)) != entry["sha256"]:
                yield Difference(name, "SHA-256", found, entry["sha256"])
            bar.advance(entry["bytes"] / 1e6)


def _files_of(run_dir: RunDir, stage: str) -> dict[str, Any]:
    manifest = read_manifest(run_dir.folder(stage))
    assert manifest is not None  # looked at before
    files: dict[str, Any] = manifest["files"]
    return files
