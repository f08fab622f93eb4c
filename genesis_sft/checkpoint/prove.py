"""Write a converted model beside its place, prove it, and put it there: nothing half-written, nothing unproven."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from genesis_sft.checkpoint.diagnosis.diagnose import Diagnosis, conventions_to_json, found_by_trying
from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.llama.hf_layout import hf_config, hf_tensors
from genesis_sft.checkpoint.llama.parity import measure_parity
from genesis_sft.checkpoint.llama.write_folder import write_folder
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.checkpoint.opened import DEFAULT_CONTEXT, OpenedLlama
from genesis_sft.checkpoint.plausibility import measure, sample_passages
from genesis_sft.checkpoint.tokenizer_files import rebuilt, with_bos, with_dummy_prefix
from genesis_sft.checkpoint.verify import Verification, judge_model
from genesis_sft.console import say
from genesis_sft.errors import CheckFailed, ModelError, RunDirError
from genesis_sft.recipe.sections import BaseSection
from genesis_sft.run_dir import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INTAKE_FILE = "intake.json"
PARITY_TOKENS = 96
Dtype = Literal["stored", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Converted:
    """A checkpoint that became a folder.

    Attributes:
        model: The folder.
        verification: What was proven of it; its causes are warnings where the section says ``verify: warn``.
        conventions: What the folder was written by.
    """

    model: ModelDir
    verification: Verification
    conventions: Conventions


def write_proven(
    opened: OpenedLlama,
    conventions: Conventions,
    found: Diagnosis | None,
    section: BaseSection,
    out: Path,
    *,
    dtype: Dtype,
    own_texts: Mapping[str, str] | None,
    corrected: bool = False,
) -> Converted:
    """Write a folder beside its place, prove it, and move it there.

    Raises:
        CheckFailed: The folder does not hold what the checkpoint means, and ``section.verify`` is ``"stop"``.
        RunDirError: It cannot be written.
    """
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        _remove_left_over(out)
        partial.mkdir(parents=True)
        verification = _write_and_prove(
            opened, conventions, found, section, partial, dtype=dtype, own_texts=own_texts, corrected=corrected
        )
        if verification.is_refused:
            if section.verify == "stop":
                raise CheckFailed(
                    f"the converted model is refused: {verification.causes[0]}", hint=found.advice() if found else None
                )
            for cause in verification.causes:
                say(f"warning: {cause}")
        refuse_existing(out)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise RunDirError(f"could not write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Converted(ModelDir.open(out), verification, conventions)


def refuse_existing(out: Path) -> None:
    """Raise if something lies where a folder is to be made.

    Raises:
        RunDirError: So it is.
    """
    if not out.name:
        raise RunDirError(f"expected the name of a new folder as OUT; found {str(out)!r}")
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise RunDirError(
            f"expected nothing at {out}, where the folder is to be; something is there", hint="Name another."
        )


def _remove_left_over(out: Path) -> None:
    """Remove what killed runs have left beside the folder; what a living process writes stays."""
    begin = f".{out.name}.partial-"
    for left_over in out.parent.iterdir() if out.parent.is_dir() else ():
        pid = left_over.name.removeprefix(begin)
        if left_over.name.startswith(begin) and pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left_over)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _write_and_prove(
    opened: OpenedLlama,
    conventions: Conventions,
    found: Diagnosis | None,
    section: BaseSection,
    partial: Path,
    *,
    dtype: Dtype,
    own_texts: Mapping[str, str] | None,
    corrected: bool,
) -> Verification:
    written_dtype = _dtype(dtype, opened)
    if opened.context is None:
        say(f"warning: nobody states the context of the pretraining; {DEFAULT_CONTEXT} tokens are assumed (--context)")
    context = opened.context or DEFAULT_CONTEXT
    stored = replace(opened.stored, keep=False, round_to=written_dtype)  # forgets what it kept
    opened.stored.forget()
    config = hf_config(stored.sizes, conventions, context=context, dtype=str(written_dtype).removeprefix("torch."))
    tokenizer = _tokenizer(opened, conventions)
    write_folder(
        partial,
        hf_tensors(stored, conventions),
        config,
        tokenizer,
        dtype=written_dtype,
        num_tensors=len(stored.names.slots),
    )
    texts = own_texts or sample_passages()
    say("comparing the folder with the checkpoint, in a fresh process")
    parity = measure_parity(stored, conventions, partial, _some_ids(texts, tokenizer, context))
    model_dir = ModelDir.open(partial)
    measurement = measure(model_dir.load_model(), model_dir.load_tokenizer(), own_texts)
    # what a diagnosis finds of the stated conventions holds for a folder that is written by them
    remaining = None if corrected else found
    verification = judge_model(measurement, section.training_loss, remaining, parity, own_text=own_texts is not None)
    write_json(partial / INTAKE_FILE, _describe(opened, conventions, found, verification))
    return verification


def _dtype(wanted: Dtype, opened: OpenedLlama) -> torch.dtype:
    if wanted != "stored":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    dtypes = {opened.stored.source.tensors[name].dtype for name in opened.stored.names.slots.values()}
    if strange := dtypes - {torch.float32, torch.bfloat16, torch.float16}:
        raise ModelError(f"expected weights in float32, bfloat16 or float16; found {', '.join(map(str, strange))}")
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _tokenizer(opened: OpenedLlama, conventions: Conventions) -> PreTrainedTokenizerFast:
    """Return the tokenizer as the conventions have it: with or without a space in front, with or without BOS."""
    tokenizer = opened.tokenizer
    if conventions.dummy_prefix != opened.stated.dummy_prefix:
        engine = with_dummy_prefix(tokenizer.backend_tokenizer, bool(conventions.dummy_prefix))
        tokenizer = rebuilt(tokenizer, json.loads(engine.to_str()), add_bos_token=False)
    return with_bos(tokenizer, conventions.bos)


def _some_ids(texts: Mapping[str, str], tokenizer: PreTrainedTokenizerFast, context: int) -> list[int]:
    """Return the beginning of the longest text, as ids, for the comparison."""
    text = max(texts.values(), key=len)[: 20 * PARITY_TOKENS]
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids[: min(PARITY_TOKENS, context)]


def _describe(
    opened: OpenedLlama, conventions: Conventions, found: Diagnosis | None, verification: Verification
) -> dict[str, Any]:
    """Return what ``intake.json`` says of where the folder comes from and what was proven of it."""
    source = opened.stored.source
    return {
        "checkpoint": {"name": source.path.name, "kind": source.kind, "left_out": dict(source.left_out)},
        "names": {
            name: f"{slot}" + ("" if slot.layer is None else f" of layer {slot.layer}")
            for slot, name in sorted(opened.stored.names.slots.items(), key=lambda item: item[1])
        },
        "skipped": dict(opened.stored.names.skipped),
        "conventions": conventions_to_json(conventions),
        "found_by_trying": found_by_trying(found, opened.stated) if found else [],
        "verification": verification.to_json(),
    }
