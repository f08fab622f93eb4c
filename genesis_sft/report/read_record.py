"""The two evaluations that a comparison is asked for, from folders of either kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.record_files import RECORD
from genesis_sft.report.read_samples import holds_samples, read_samples


def read_pair(before: Path, after: Path) -> tuple[EvalRecord, EvalRecord]:
    """Return both records; of a run's folders ``before`` and ``after`` with their held-out loss.

    Args:
        before: Folder of a record, a ``record.json``, or a folder that lm-evaluation-harness wrote with
            ``--log_samples``.
        after: The same.

    Raises:
        InputError: One of them is neither, or damaged.
    """
    records = [read_record(one) for one in (before, after)]
    losses = [_held_out(folder, record) for folder, record in zip((before, after), records, strict=True)]
    old, new = (
        replace(record, held_out=loss.held_out) if loss and all(losses) else record
        for record, loss in zip(records, losses, strict=True)
    )
    return old, new


def read_record(path: Path) -> EvalRecord:
    """Return a record from its folder, or out of lm-evaluation-harness's samples.

    Raises:
        InputError: It is neither, or damaged.
    """
    if path.is_dir() and not (path / RECORD).is_file() and holds_samples(path):
        return read_samples(path)
    return EvalRecord.open(path)


def _held_out(folder: Path, record: EvalRecord) -> EvalRecord | None:
    """Return the held-out loss that a run measured of the same model in a stage of its own, where it did."""
    place = folder.resolve().parent / "held_out" / folder.resolve().name
    if record.held_out or not (place / RECORD).is_file():
        return None
    loss = EvalRecord.open(place)
    return loss if loss.model == record.model else None
