"""Verify a model as it lies there: a folder, a GGUF file, a package; beside its checkpoint, if there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.checkpoint.convert import resolve
from genesis_sft.checkpoint.llama.parity import Parity, measure_against_reference, measure_parity
from genesis_sft.checkpoint.opened import open_checkpoint
from genesis_sft.checkpoint.origin import read_base
from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.checkpoint.prove import PARITY_TOKENS
from genesis_sft.checkpoint.tensors.kinds import is_checkpoint
from genesis_sft.checkpoint.tokenizer_files import with_bos
from genesis_sft.checkpoint.verify import Verification, read_texts, verify_model
from genesis_sft.console import say
from genesis_sft.errors import ModelError
from genesis_sft.recipe.sections import BaseSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def verify(
    section: BaseSection, *, checkpoint: BaseSection | None = None, reference: Path | None = None
) -> Verification:
    """Verify a model: consistency, plausibility, conventions, and parity where there is something to compare with.

    Args:
        section: ``model`` is the model; ``text`` and ``training_loss`` are what it is held against.
        checkpoint: The checkpoint that a folder was made from, and what is known of it.
        reference: A file of logits that the training code wrote.

    Raises:
        ModelError: The model, the checkpoint or the reference cannot be read, or the model contradicts itself.
    """
    if section.is_local and Path(section.model).exists() and is_checkpoint(Path(section.model)):
        raise ModelError(
            f"{section.model} is a pretraining checkpoint, not a model that can be run",
            hint="genesis-sft base convert makes one of it, and verifies it; genesis-sft base diagnose only looks.",
        )
    if (checkpoint or reference) and not Path(section.model).is_dir():
        raise ModelError(f"expected a Hugging Face folder to compare with a checkpoint; found {section.model}")
    model, tokenizer = read_base(section)
    own = read_texts(section.text)
    parity: Parity | None = None
    causes: list[str] = []
    if checkpoint is not None:
        parity, causes = _compare_with_checkpoint(Path(section.model), tokenizer, checkpoint)
    if reference is not None and (parity is None or parity.holds):
        parity = measure_against_reference(Path(section.model), reference)
    say("measuring, and trying what else the tensors may mean")
    found = verify_model(model, tokenizer, own, training_loss=section.training_loss, parity=parity)
    return replace(found, causes=(*found.causes, *causes))


def _compare_with_checkpoint(
    folder: Path, tokenizer: PreTrainedTokenizerFast, checkpoint: BaseSection
) -> tuple[Parity, list[str]]:
    """Return the parity of a folder, and what is wrong with its tokenizer."""
    opened = open_checkpoint(checkpoint)
    conventions = resolve(opened, checkpoint)
    text = max((read_texts(checkpoint.text) or sample_passages()).values(), key=len)
    theirs = with_bos(opened.tokenizer, conventions.bos)(text, verbose=False)["input_ids"]
    mine = tokenizer(text, verbose=False)["input_ids"]
    causes = []
    if mine != theirs:
        at = next(
            (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
        )
        what = "BOS is missing in the folder's tokenizer" if mine == theirs[1:] else "the tokenizer gives other ids"
        causes = [f"{what}: {mine[at : at + 4]} instead of {theirs[at : at + 4]} at position {at} of a text"]
    stored = replace(opened.stored, keep=False)
    opened.stored.forget()
    return measure_parity(stored, conventions, folder, theirs[:PARITY_TOKENS]), causes
