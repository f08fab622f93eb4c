"""A pretraining checkpoint becomes a Hugging Face folder that is proven right, or is refused with the cause.

    checkpoint ──> names, sizes ──> conventions ──> folder ──> parity, plausibility ──> accepted
                                        │ stated, or found by what predicts text

The folder appears under its name when all of it is written and proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from genesis_sft.checkpoint.diagnosis.diagnose import Diagnosis, diagnose, found_by_trying
from genesis_sft.checkpoint.llama.conventions import Conventions, describe
from genesis_sft.checkpoint.opened import MUST_BE_KNOWN, OpenedLlama, describe_source, open_checkpoint, open_model
from genesis_sft.checkpoint.origin import read_base
from genesis_sft.checkpoint.prove import Converted, Dtype, refuse_existing, write_proven
from genesis_sft.checkpoint.tensors.kinds import is_checkpoint
from genesis_sft.checkpoint.verify import read_texts
from genesis_sft.console import say
from genesis_sft.errors import CheckFailed, ModelError
from genesis_sft.recipe.sections import BaseSection


def convert(section: BaseSection, out: Path, *, dtype: Dtype = "stored", try_others: bool = True) -> Converted:
    """Convert a pretraining checkpoint, prove the folder, and put it in place.

    Args:
        section: ``model`` is the checkpoint; the other fields say what is known of it.
        out: The folder to make; nothing lies there yet.
        dtype: Of the weights that are written.
        try_others: Whether other readings of the tensors are tried; if not, all conventions have to be stated.

    Raises:
        ModelError: The checkpoint cannot be read, or is not Llama-style.
        CheckFailed: It is refused; the message names the cause. Nothing is written then, unless ``section.verify`` is
            ``"warn"``.
        RunDirError: The folder exists, or cannot be written.
    """
    refuse_existing(out)
    opened = open_checkpoint(section)
    say(describe_source(opened.stored.source))
    say(opened.names)
    own = read_texts(section.text)
    if try_others:
        found = diagnose(opened, own)
        conventions = settle(found, opened, correct=False, stop=section.verify == "stop")
    else:
        found, conventions = None, _all_stated(opened)
    return write_proven(opened, conventions, found, section, out, dtype=dtype, own_texts=own)


def _all_stated(opened: OpenedLlama) -> Conventions:
    """Return the conventions where no other reading is to be tried.

    Raises:
        ModelError: One that has to be known is not stated.
        CheckFailed: The shapes contradict the names.
    """
    if unknown := [name for name in MUST_BE_KNOWN if name in opened.unknown]:
        raise ModelError(
            f"nobody states {', '.join(unknown)}, and other readings are not to be tried",
            hint="State them, or leave --no-diagnosis out.",
        )
    if opened.faults:
        raise CheckFailed(f"the checkpoint is not what is stated of it: {opened.faults[0]}")
    return opened.stated


def diagnose_and_mend(
    section: BaseSection, write: Path | None, *, show: Callable[[str], None] | None = None
) -> Diagnosis:
    """Diagnose a checkpoint or a model; write the corrected folder where that is asked for.

    Args:
        section: ``model`` is the checkpoint or the model.
        write: The folder to make.
        show: Is given the finding in words, before anything is written.

    Raises:
        ModelError: It cannot be read, or is not Llama-style.
        CheckFailed: A corrected folder is wanted, and the finding is not clear or the folder is refused.
    """
    if write is not None:
        refuse_existing(write)
    opened = open_any(section)
    own = read_texts(section.text)
    found = diagnose(opened, own)
    if show is not None:
        show(found.table())
    if write is not None:
        conventions = settle(found, opened, correct=True, stop=True)
        write_proven(opened, conventions, found, section, write, dtype="stored", own_texts=own, corrected=True)
        if show is not None:
            show(f"\nmodel: {write}")
    return found


def open_any(section: BaseSection) -> OpenedLlama:
    """Open a checkpoint, or a Hugging Face model as if it were one.

    Raises:
        ModelError: It cannot be read, or is not Llama-style.
    """
    path = Path(section.model)
    if section.is_local and path.exists() and is_checkpoint(path):
        return open_checkpoint(section)
    opened = open_model(*read_base(section))
    if opened is None:
        raise ModelError(f"expected a Llama-style model without RoPE scaling; {section.model} is of another kind")
    return opened


def resolve(opened: OpenedLlama, section: BaseSection) -> Conventions:
    """Return the conventions of a checkpoint as stated; those that nobody states are found by trying."""
    if not opened.unknown:
        return opened.stated
    found = diagnose(opened, read_texts(section.text))
    return settle(found, opened, correct=False, stop=False)


def settle(found: Diagnosis, opened: OpenedLlama, *, correct: bool, stop: bool) -> Conventions:
    """Return the conventions to write by: as stated, and as found where nobody stated them.

    Args:
        found: What the search says.
        opened: What is stated.
        correct: Whether what was found goes before what is stated.
        stop: Whether a contradiction is an error or a warning.

    Raises:
        CheckFailed: What is stated is wrong, or what nobody stated cannot be told.
    """
    if correct and not found.is_clear:
        raise CheckFailed(f"{found.first_line()}; not clear enough to write a corrected folder", hint=found.advice())
    if found.causes and not correct:
        refusal = (
            f"{found.causes[0]} ({found.search.nats_stated:.2f} nats a token as stated, "
            f"{found.search.nats_chosen:.2f} as found)"
        )
        if stop:
            raise CheckFailed(f"the checkpoint is not what is stated of it: {refusal}", hint=found.advice())
        say(f"warning: {refusal}")
    if found.untold and stop:
        named = ", ".join(found.untold)
        raise CheckFailed(
            f"nobody states {named}, and this text cannot tell: other values are not clearly worse",
            hint="State it (--config FILE, --rope-theta, --norm-eps, --num-heads, --context ...), or give more and "
            "longer text with --text.",
        )
    if correct:
        return found.conventions
    chosen = {name: getattr(found.conventions, name) for name in found.unknown}
    for name in found_by_trying(found, opened.stated):
        say(f"found by trying: {describe(name, chosen[name])}")
    return replace(opened.stated, **chosen)
