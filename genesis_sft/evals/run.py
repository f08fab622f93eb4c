"""An evaluation: benchmarks, held-out loss, chat answers; a part that is done is kept, and not done again after a kill.

While an evaluation is at work its folder holds::

    .genesis-parts/identity.json    what is being measured, with which settings; parts of another are thrown away
    .genesis-parts/task-piqa.json   what a part gave, written at once when the part is done

and at the end the files of a record (see ``record.py``), ``record.json`` last, without the parts.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import format_duration, say
from genesis_sft.errors import InputError
from genesis_sft.evals.chat_checks import ChatPrompt, answer_prompts, read_prompts
from genesis_sft.evals.record import (
    ANSWERS,
    RECORD,
    SAMPLES,
    ChatAnswer,
    EvalRecord,
    HeldOutRecord,
    PartTime,
    TaskRecord,
    from_values,
    write_lines,
)
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import EvalsSection, TaskSection
from genesis_sft.run_dir import canonical_json, write_json, write_text

PARTS = ".genesis-parts"
_PACKAGES = ("genesis-sft", "lm-eval", "torch", "transformers", "tokenizers", "datasets")
_DTYPE = "float32"  # so that two models are never compared through different rounding

T = TypeVar("T")


@dataclass(frozen=True)
class TaskPart:
    """A finished benchmark."""

    records: tuple[TaskRecord, ...]
    samples: tuple[dict[str, Any], ...]
    time: PartTime


@dataclass(frozen=True)
class HeldOutPart:
    """A finished held-out loss."""

    records: tuple[HeldOutRecord, ...]
    time: PartTime


@dataclass(frozen=True)
class ChatPart:
    """Finished chat answers."""

    answers: tuple[ChatAnswer, ...]
    time: PartTime


def run_evals(
    section: EvalsSection,
    model: ModelDir,
    out: Path,
    *,
    store: TokenStore | None = None,
    seed: int = 0,
    device: str = "auto",
) -> EvalRecord:
    """Measure a model, and write ``record.json``, ``samples.jsonl`` and ``answers.jsonl`` to ``out``.

    Args:
        section: What is measured.
        model: The model; loaded in float32.
        out: Folder, new or empty or of an earlier evaluation; what a call with the same settings left there is used.
        store: Where held-out conversations come from; without it no held-out loss is measured.
        seed: For everything that draws; greedy answers and 0-shot prompts do not.
        device: ``"auto"`` takes a CUDA device where there is one.

    Raises:
        AssetError: Documents of a benchmark are out of reach.
        InputError: The folder holds something else.
        ModelError: The model cannot be loaded, lacks a control token, or its outputs are not numbers.
        RecipeError: More chat prompts are asked for than there are.
    """
    _refuse_foreign(out)
    prompts = read_prompts(section.chat_prompts)  # before the hours of the benchmarks, as there may be too few
    loaded = _Models(model, _pick_device(device), section.pass_tokens)
    settings = _settings(section, seed, loaded.device)
    record = EvalRecord(model.content_hash(), settings, _versions())
    if store is None and (done := _done_before(out, record)):
        say("  measured before, nothing to do")
        return done
    parts = _Parts(out / PARTS, {"model": record.model, "settings": settings, "versions": record.versions})
    tasks = [
        parts.make(f"task-{task.task}", TaskPart, partial(_task_part, task, section, loaded, seed))
        for task in section.tasks
    ]
    held_out = parts.make("held-out", HeldOutPart, partial(_held_out_part, section, loaded, store)) if store else None
    chat = parts.make("chat", ChatPart, partial(_chat_part, prompts, section, loaded)) if prompts else None
    times = {part.records[0].task: part.time for part in tasks}
    times |= {"held-out loss": held_out.time} if held_out else {}
    times |= {"chat": chat.time} if chat else {}
    record = EvalRecord(
        model=record.model,
        settings=record.settings,
        versions=record.versions,
        tasks=tuple(one for part in tasks for one in part.records),
        held_out=held_out.records if held_out else (),
        chat=chat.answers if chat else (),
        times=times,
    )
    (out / RECORD).unlink(missing_ok=True)  # one of another evaluation must not stand beside these samples
    write_lines(out / SAMPLES, [sample for part in tasks for sample in part.samples])
    write_lines(out / ANSWERS, [asdict(answer) for answer in record.chat])
    record.save(out)
    parts.remove()
    return record


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something, but nothing of an evaluation."""
    if out.is_dir() and any(out.iterdir()) and not ((out / RECORD).exists() or (out / PARTS).exists()):
        raise InputError(
            f"expected a new or empty folder, or one of an earlier evaluation, at {out}; found other files in it",
            hint="Name another folder.",
        )


def _done_before(out: Path, wanted: EvalRecord) -> EvalRecord | None:
    """Return the record that lies there when it is of this very evaluation (without held-out loss)."""
    try:
        found = EvalRecord.open(out)
    except InputError:
        return None
    same = (found.model, found.settings, found.versions) == (wanted.model, wanted.settings, wanted.versions)
    if not same or found.held_out:
        return None
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return found


class _Models:
    """The model, loaded when a part needs it and not before: a resumed evaluation may need only one of the two ways."""

    def __init__(self, model: ModelDir, device: str, pass_tokens: int) -> None:
        self.model_dir, self.device, self.pass_tokens = model, device, pass_tokens

    @cached_property
    def scoring(self) -> Any:
        """For benchmarks and chat."""
        return self.model_dir.load_model(_DTYPE, self.device)

    @cached_property
    def scorer(self) -> Any:
        """The harness's view of it; with a tokenizer of its own, as the harness changes it."""
        from genesis_sft.evals.scorer import Scorer

        return Scorer(self.scoring, self.model_dir.load_tokenizer(), self.pass_tokens)


class _Parts:
    """Results of finished parts, one file each."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / "identity.json"
        wanted = canonical_json(identity)
        if folder.exists() and not (file.is_file() and file.read_bytes() == wanted.encode()):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, wanted)

    def make(self, name: str, kind: type[T], work: Callable[[], T]) -> T:
        """Return the part that is kept under this name; do the work and keep it when there is none."""
        file = self.folder / f"{name}.json"
        if file.is_file():
            try:
                part = from_values(kind, json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, RecursionError):
                say(f"  {name}: its file is damaged, it is done again")
            else:
                say(f"  {name}: done before the interruption")
                return part
        part = work()
        write_json(file, asdict(part))  # type: ignore[call-overload]  # all parts are dataclasses
        return part

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _task_part(task: TaskSection, section: EvalsSection, loaded: _Models, seed: int) -> TaskPart:
    from genesis_sft.evals.harness import run_task

    result = run_task(task, section.data, loaded.scorer, seed)
    first = result.records[0]
    say(
        f"  {first.task}: {first.metric} {first.value:.3f} ± {first.standard_error:.3f}, n {first.n}, "
        f"{format_duration(result.time.elapsed_seconds)}"
    )
    return TaskPart(result.records, result.samples, result.time)


def _held_out_part(section: EvalsSection, loaded: _Models, store: TokenStore) -> HeldOutPart:
    from genesis_sft.evals.held_out import measure_held_out
    from genesis_sft.training.forward.attention import SEGMENT_ATTENTION

    started = time.monotonic()
    model = loaded.model_dir.load_model(_DTYPE, loaded.device, SEGMENT_ATTENTION)
    records = measure_held_out(model, store.held_out, section.held_out.max_tokens)
    for one in records:
        say(f"  held-out {one.source}: {one.nats_per_token:.3f} ± {one.standard_error:.3f} nats/token")
    return HeldOutPart(records, _time_since(started, sum(one.n_tokens for one in records)))


def _chat_part(prompts: Sequence[ChatPrompt], section: EvalsSection, loaded: _Models) -> ChatPart:
    from genesis_sft.tokens.chatml import ChatMLEncoder

    started = time.monotonic()
    encoder = ChatMLEncoder(loaded.model_dir.load_tokenizer())
    answers = answer_prompts(loaded.scoring, encoder, prompts, section.max_new_tokens, section.repetition_penalty)
    num_tokens = sum(answer.num_tokens for answer in answers)
    part = ChatPart(answers, _time_since(started, num_tokens))
    ended, empty = sum(answer.answered for answer in answers), sum(answer.empty for answer in answers)
    say(
        f"  chat: {ended} of {len(answers)} answered to the end, {empty} empty, "
        f"{format_duration(part.time.elapsed_seconds)}"
    )
    return part


def _time_since(started: float, num_tokens: int) -> PartTime:
    return PartTime(round(time.monotonic() - started, 1), num_tokens)


def _settings(section: EvalsSection, seed: int, device: str) -> dict[str, Any]:
    import torch

    # the number of threads decides the order of sums, and that a greedy answer where two tokens are nearly as likely
    how = {"seed": seed, "device": device, "dtype": _DTYPE, "threads": torch.get_num_threads()}
    return {**section.model_dump(mode="json"), **how, "num_fewshot": 0, "chat_template": False}


def _pick_device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
