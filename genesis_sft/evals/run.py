"""An evaluation: benchmarks, held-out loss, plain text, chat answers.

A part that is done is kept in ``.genesis-parts`` (see ``parts.py``), and not done again after a kill. At the end the
folder holds the files of a record (see ``record.py``), ``record.json`` last, without the parts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import format_duration
from genesis_sft.errors import InputError
from genesis_sft.evals.chat_checks import answer_prompts
from genesis_sft.evals.chat_prompts import ChatPrompt, read_prompts
from genesis_sft.evals.documents import refuse_missing_examples, resolve_data
from genesis_sft.evals.parts import LOCK, PARTS, ChatPart, LossPart, Parts, TaskPart, held, refuse_another
from genesis_sft.evals.processes import Team, alone
from genesis_sft.evals.record import EvalRecord, PartTime
from genesis_sft.evals.record_files import ANSWERS, RECORD, SAMPLES, write_lines
from genesis_sft.evals.settings import Dtype, pick_device, settings_of, versions
from genesis_sft.evals.task_record import Surface
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import EvalsSection, TaskSection


def run_evals(
    section: EvalsSection,
    model: ModelDir,
    out: Path,
    *,
    store: TokenStore | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "float32",
    team: Team | None = None,
    replace: bool = True,
) -> EvalRecord:
    """Measure a model, and write ``record.json``, ``samples.jsonl`` and ``answers.jsonl`` to ``out``.

    Args:
        section: What is measured.
        model: The model.
        out: Folder, new or empty or of an earlier evaluation; what a call with the same settings left there is used.
        store: Where held-out conversations come from; without it no held-out loss is measured.
        seed: For the choice of answered questions before each; greedy answers and 0-shot prompts draw nothing.
        device: ``"auto"`` takes a CUDA device where there is one.
        dtype: Of the weights. Two models are only compared in the same one.
        team: The processes that measure together, each on its own device; ``out`` counts in the first one.
        replace: Whether another evaluation that lies in ``out``, of another model or with other settings, is replaced.

    Raises:
        AssetError: Documents of a benchmark are out of reach.
        CheckFailed: Another process has ended.
        InputError: The folder holds something else, or another evaluation that is not to be replaced.
        ModelError: The model cannot be loaded, lacks a control token, or its outputs are not numbers.
        RunDirError: Another process measures into this folder, or it cannot be written.
        RecipeError: More chat prompts or answered questions are asked for than there are.
    """
    device = str(team.ranks.device) if team else pick_device(device)
    team = team or alone(device)
    _refuse_foreign(out)
    prompts = _read_prompts(section)  # before the hours of the benchmarks, as there may be too few
    data = team.from_first(lambda: resolve_data(section))
    for task in section.tasks:
        team.first_before_others(partial(refuse_missing_examples, task, data))
    loaded = _Models(model, device, dtype, section.pass_tokens, team)
    if "chat" in section.surfaces and section.tasks:
        loaded.encoder  # noqa: B018 - a tokenizer that cannot chat is refused now
    settings = settings_of(section, data, seed=seed, device=device.partition(":")[0], dtype=dtype)
    record = EvalRecord(model.content_hash(), settings, versions())
    with held(out, team):
        if store is None and (done := team.from_first(lambda: _done_before(out, record))):
            team.say("  measured before, nothing to do")
            return done
        identity = {"model": record.model, "settings": settings, "versions": record.versions}
        if not replace:
            team.from_first(lambda: refuse_another(out, identity))
        parts = Parts(out / PARTS, identity, team)
        asked = [(task, surface) for surface in section.surfaces for task in section.tasks]
        tasks = [
            parts.make(_part_name(*one), TaskPart, partial(_task_part, *one, data, loaded, seed), together=True)
            for one in asked
        ]
        times = {part.records[0].label: part.time for part in tasks}
        held_out = plain = chat = None
        if store:
            held_out = parts.make("held-out", LossPart, partial(_held_out_part, section, loaded, store))
            times["held-out loss"] = held_out.time
        if section.plain_text:
            plain = parts.make("plain-text", LossPart, partial(_plain_text_part, loaded))
            times["plain text"] = plain.time
        if prompts:
            chat = parts.make("chat", ChatPart, partial(_chat_part, prompts, section, loaded))
            times["chat"] = chat.time
        record = EvalRecord(
            model=record.model,
            settings=record.settings,
            versions=record.versions,
            tasks=tuple(one for part in tasks for one in part.records),
            held_out=held_out.records if held_out else (),
            chat=chat.answers if chat else (),
            plain_text=plain.records if plain else (),
            times=times,
        )
        if team.is_first:
            (out / RECORD).unlink(missing_ok=True)  # one of another evaluation must not stand beside these samples
            write_lines(out / SAMPLES, [sample for part in tasks for sample in part.samples])
            write_lines(out / ANSWERS, [asdict(answer) for answer in record.chat])
            record.save(out)
            parts.remove()
        return record


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something, but nothing of an evaluation."""
    found = {file.name for file in out.iterdir()} if out.is_dir() else set()
    if found - {LOCK} and not found & {RECORD, PARTS}:
        raise InputError(
            f"expected a new or empty folder, or one of an earlier evaluation, at {out}; found other files in it",
            hint="Name another folder.",
        )


def _read_prompts(section: EvalsSection) -> tuple[ChatPrompt, ...]:
    prompts = read_prompts(section.chat_prompts)
    if section.instructions:
        from genesis_sft.evals.instructions import read_instruction_prompts

        prompts += read_instruction_prompts(section.instructions)
    return prompts


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


@dataclass
class _Models:
    """The model, loaded when a part needs it and not before: a resumed evaluation may need only one of the two ways."""

    model_dir: ModelDir
    device: str
    dtype: Dtype
    pass_tokens: int
    team: Team

    @cached_property
    def encoder(self) -> Any:
        """What turns conversations into ids."""
        from genesis_sft.tokens.chatml import ChatMLEncoder

        return ChatMLEncoder(self.model_dir.load_tokenizer())

    @cached_property
    def scoring(self) -> Any:
        """For benchmarks, plain text and chat."""
        return self.model_dir.load_model(self.dtype, self.device)

    @cached_property
    def scorer(self) -> Any:
        """The harness's view of it; with a tokenizer of its own, as the harness changes it."""
        from genesis_sft.evals.scorer import Scorer

        return Scorer(self.scoring, self.model_dir.load_tokenizer(), self.pass_tokens, self.team)


def _part_name(task: TaskSection, surface: Surface) -> str:
    shots = f"-{task.num_fewshot}-shot" if task.num_fewshot else ""
    return f"task-{task.task}{shots}{'-chat' if surface == 'chat' else ''}"


def _task_part(task: TaskSection, surface: Surface, data: str, loaded: _Models, seed: int) -> TaskPart:
    from genesis_sft.evals.harness import run_task

    result = run_task(task, data, loaded.scorer, seed, surface)
    first = result.records[0]
    loaded.team.say(
        f"  {first.label}: {first.metric} {first.value:.3f} ± {first.standard_error:.3f}, n {first.n}, "
        f"{format_duration(result.time.elapsed_seconds)}"
    )
    num_tokens = int(loaded.team.sum([result.time.num_tokens])[0])
    return TaskPart(result.records, result.samples, PartTime(result.time.elapsed_seconds, num_tokens))


def _held_out_part(section: EvalsSection, loaded: _Models, store: TokenStore) -> LossPart:
    from genesis_sft.evals.held_out import measure_held_out
    from genesis_sft.training.forward.attention import SEGMENT_ATTENTION

    started = time.monotonic()
    model = loaded.model_dir.load_model(loaded.dtype, loaded.device, SEGMENT_ATTENTION)
    records = measure_held_out(model, store.held_out, section.held_out.max_tokens, loaded.encoder)
    for one in records:
        loaded.team.say(f"  held-out {one.source}: {one.nats_per_token:.3f} ± {one.standard_error:.3f} nats/token")
    return LossPart(records, _time_since(started, sum(one.n_tokens for one in records)))


def _plain_text_part(loaded: _Models) -> LossPart:
    from genesis_sft.evals.plain_text import measure_plain_text

    started = time.monotonic()
    records = measure_plain_text(loaded.scoring, loaded.model_dir.load_tokenizer())
    n_tokens = sum(one.n_tokens for one in records)
    loss = sum(sum(one.losses) for one in records) / n_tokens
    loaded.team.say(f"  plain text: {loss:.3f} nats/token, {len(records)} passages, {n_tokens:,} tokens")
    return LossPart(records, _time_since(started, n_tokens))


def _chat_part(prompts: Sequence[ChatPrompt], section: EvalsSection, loaded: _Models) -> ChatPart:
    started = time.monotonic()
    answers = answer_prompts(
        loaded.scoring, loaded.encoder, prompts, section.max_new_tokens, section.repetition_penalty
    )
    part = ChatPart(answers, _time_since(started, sum(answer.num_tokens for answer in answers)))
    ended, empty = sum(answer.answered for answer in answers), sum(answer.empty for answer in answers)
    loaded.team.say(
        f"  chat: {ended} of {len(answers)} answered to the end, {empty} empty, "
        f"{format_duration(part.time.elapsed_seconds)}"
    )
    return part


def _time_since(started: float, num_tokens: int) -> PartTime:
    return PartTime(round(time.monotonic() - started, 1), num_tokens)
