"""Verification: is a model what its own training says it is, and if not, why not?

Four checks, each of which can refuse a model:

1. consistency: rows, tokenizer and special ids agree, all weights are numbers;
2. plausibility: it predicts held-out text, and not far worse than the training log says;
3. conventions: no other reading of the same tensors predicts the text clearly better (Llama-style models);
4. parity: transformers computes from the folder what the checkpoint, or the training code, computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.checkpoint.consistency import check_consistency
from genesis_sft.checkpoint.diagnosis.diagnose import PROBE_TOKENS, Diagnosis, diagnose
from genesis_sft.checkpoint.llama.parity import Parity
from genesis_sft.checkpoint.opened import open_model
from genesis_sft.checkpoint.plausibility import REFUSED, Measurement, measure
from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

OWN_TEXT, SAMPLE = (1.25, 0.25), (2.0, 1.0)
"""(factor, nats): a cost above factor x training loss + nats contradicts the training log. On text of the training's
own kind a model costs about its training loss; on other text more: SmolLM2-135M costs 3.0 nats on the sample."""

_LONGEST_TEXT = 2_000_000  # characters read of a file; far more than is ever measured


@dataclass(frozen=True)
class Verification:
    """What was found of a model.

    Attributes:
        measurement: Cost of text, beside the yardsticks.
        training_loss: What the training log says, nats per token.
        diagnosis: Whether another reading of the tensors is better; None for a model that is not Llama-style.
        parity: Against checkpoint or training code; None where neither was given.
        causes: Why the model is refused; empty if it is not.
        own_text: Whether the text is the user's, not the sample that ships with the program.
    """

    measurement: Measurement
    training_loss: float | None
    diagnosis: Diagnosis | None
    parity: Parity | None
    causes: tuple[str, ...]
    own_text: bool

    @property
    def is_refused(self) -> bool:
        """Whether the model must not be trained or judged."""
        return bool(self.causes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.measurement
        return {
            "verdict": found.verdict,
            "refused": self.is_refused,
            "causes": list(self.causes),
            "nats_per_token": {part.name: part.nats_per_token for part in found.passages}
            | {"all": found.nats_per_token},
            "num_tokens": {part.name: part.num_tokens for part in found.passages},
            "uniform": found.uniform,
            "unigram": found.unigram,
            "training_loss": self.training_loss,
            "parity": None if self.parity is None else self.parity.to_json(),
            "diagnosis": None if self.diagnosis is None else self.diagnosis.to_json(),
        }

    def table(self) -> str:
        """Return the finding for the terminal."""
        found = self.measurement
        lines = [f"refused: {self.causes[0]}" if self.causes else f"accepted: {found.verdict}"]
        lines += [f"  also: {cause}" for cause in self.causes[1:]]
        lines += ["", "nats a token"]
        lines += [f"{part.nats_per_token:7.3f}  {part.name} ({part.num_tokens:,} tokens)" for part in found.passages]
        lines += [
            f"{found.nats_per_token:7.3f}  all",
            f"{found.unigram:7.3f}  by the text's own token frequencies",
            f"{found.uniform:7.3f}  by guessing",
        ]
        if self.training_loss is not None:
            allowed = highest_cost(self.training_loss, own_text=self.own_text)
            lines.append(f"{self.training_loss:7.3f}  in the training log (up to {allowed:.2f} is in keeping with it)")
        lines += ["", f"parity {self.parity.summary()}" if self.parity else "parity: no checkpoint to compare with"]
        if self.diagnosis is None:
            lines.append("conventions: not tried (not a plain Llama)")
        elif not self.diagnosis.causes:
            lines.append(
                f"conventions: none of {len(self.diagnosis.search.ranking)} other readings predicts the text better"
            )
        if self.diagnosis is not None:
            lines += self.diagnosis.notes()
        return "\n".join(lines)


def verify_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Mapping[str, str] | None = None,
    *,
    training_loss: float | None = None,
    parity: Parity | None = None,
    try_conventions: bool = True,
    num_tokens: int = PROBE_TOKENS,
) -> Verification:
    """Verify a model that is in memory.

    Args:
        model: In float32 and eval mode.
        tokenizer: Its tokenizer.
        texts: Name to held-out text; the shipped sample when absent.
        training_loss: From the training log, nats per token.
        parity: What the comparison with the checkpoint found, if there is one.
        try_conventions: Whether other readings of a Llama's tensors are tried (some thirty forward passes).
        num_tokens: Tokens for each of them.

    Raises:
        ModelError: Parts of the model contradict each other.
    """
    check_consistency(model, tokenizer)
    measurement = measure(model, tokenizer, texts)
    opened = open_model(model, tokenizer) if try_conventions else None
    diagnosis = None
    if opened is not None:
        refused = measurement.verdict in REFUSED
        diagnosis = diagnose(opened, texts, joint=refused, num_tokens=num_tokens)
    return judge_model(measurement, training_loss, diagnosis, parity, own_text=texts is not None)


def judge_model(
    measurement: Measurement,
    training_loss: float | None,
    diagnosis: Diagnosis | None,
    parity: Parity | None,
    *,
    own_text: bool,
) -> Verification:
    """Put what was measured together, and name the causes for a refusal."""
    nats = measurement.nats_per_token
    causes = [] if diagnosis is None else list(diagnosis.causes)
    if parity is not None and not parity.holds:
        causes.append(f"parity {parity.summary()}")
    if contradicts(nats, training_loss, own_text=own_text):
        causes.append(f"{nats:.2f} nats a token, in contradiction to the training loss of {training_loss:.2f}")
    elif measurement.verdict in REFUSED:
        causes.append(f"{measurement.verdict}: {nats:.2f} nats a token")
    return Verification(measurement, training_loss, diagnosis, parity, tuple(causes), own_text)


def contradicts(nats_per_token: float, training_loss: float | None, *, own_text: bool) -> bool:
    """Whether a cost and a training loss can hardly both be right."""
    return training_loss is not None and not nats_per_token <= highest_cost(training_loss, own_text=own_text)


def highest_cost(training_loss: float, *, own_text: bool) -> float:
    """Return the highest cost of text, nats per token, that a training loss allows."""
    factor, more = OWN_TEXT if own_text else SAMPLE
    return factor * training_loss + more


def read_texts(files: tuple[str, ...] | list[str]) -> dict[str, str] | None:
    """Return the texts of files by name; None if none is named.

    Raises:
        ModelError: A file is missing, empty or not UTF-8.
    """
    texts: dict[str, str] = {}
    for file in files:
        if not Path(file).is_file():
            raise ModelError(f"expected a text file at {file}; there is none")
        try:
            with open(file, encoding="utf-8") as handle:
                text = handle.read(_LONGEST_TEXT).strip()
        except (OSError, ValueError) as error:
            raise ModelError(f"expected a UTF-8 text file at {file}: {error}") from None
        if not text:
            raise ModelError(f"expected text in {file}; it is empty")
        names = (Path(file).stem, file, *(f"{file} ({number})" for number in range(2, len(files) + 2)))
        texts[next(name for name in names if name not in texts and name != "all")] = text
    return texts or None
