"""The section of a recipe that says which conversations a language model is to write, and what that may cost."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from genesis_sft.recipe.base import Fraction, PositiveFloat, PositiveInt, Section, Text

Price = Annotated[float, Field(ge=0, le=10_000)]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class PriceSection(Section):
    """US dollars per million tokens, where the shipped table has none or an old one."""

    input: Price
    """Tokens of a request that no cache holds."""

    output: Price
    """Tokens of an answer."""

    cache_write: Price | None = None
    """Tokens of a request that are written to the provider's prompt cache; when absent, 1.25 times ``input`` for
    ``anthropic``, which is always asked to cache and takes that much, and as ``input`` for ``openai``."""

    cache_read: Price | None = None
    """Tokens of a request that the cache holds; as ``input`` when absent."""

    batch_discount: Fraction = 0.0
    """Share by which requests in batches are cheaper, e.g. 0.5."""


class ProviderSection(Section):
    """Who writes: the Anthropic API, or any server that speaks OpenAI's chat completions."""

    api: Literal["anthropic", "openai"] = "anthropic"
    """The wire protocol. ``openai`` is also what vLLM, llama.cpp, Ollama and ``transformers serve`` speak."""

    model: Text = "claude-haiku-4-5"
    """The model's name, as the provider calls it."""

    base_url: Text | None = None
    """Address of the server, e.g. ``http://127.0.0.1:11434/v1``; the provider's own when absent."""

    key_from: EnvironmentName | None = None
    """Environment variable that holds the key; ``ANTHROPIC_API_KEY`` or ``OPENAI_API_KEY`` when absent. A server on
    this machine needs none. The key itself never stands in a recipe, a file or a log."""

    batches: bool = False
    """Send requests as Message Batches: half the price, answers within minutes to hours (``anthropic`` only)."""

    price: PriceSection | None = None
    """Prices of the model, where the shipped table (``genesis_sft/synthesis/price/prices.yaml``) does not know it."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    """Requests under way at once, at most; fewer while the provider says that it is too many."""

    timeout_seconds: PositiveFloat = 300.0
    """How long an answer may take."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 8
    """How often one request is tried in a run, where rate limits, overload or the connection are in the way."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; the server's own when absent."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batches and self.api != "anthropic":
            raise ValueError("batches are Anthropic's Message Batches; leave them out for api: openai")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("expected base_url to be an address such as http://127.0.0.1:8000/v1")
            if parts.username or parts.password or parts.query:
                raise ValueError("base_url holds a user, password or query: keys belong into the environment")
        return self


class StepsSection(Section):
    """How a conversation is written. Every step is a request; its text is kept."""

    mode: Literal["steps", "one_request"] = "steps"
    """``steps``: the user's turn, a draft answer, a critique by principles, a revision, the next turn. ``one_request``
    asks for the whole conversation at once: cheaper, and without critique."""

    questions: Text | None = None
    """A file of opening questions, JSON lines with ``{"question": "..."}``, in place of asking the model for the
    user's first turn; scenario i takes line i, from the first again when there are no more."""

    critique: bool = True
    """Whether a draft is criticised against two or three principles before it is revised."""

    revision: bool = True
    """Whether there is a revision; without it the draft is the answer."""

    follow_ups: bool = True
    """Whether a conversation goes on after its first answer, as its scenario says."""

    reasoning: bool = True
    """Whether answers have reasoning where the scenario says so."""

    principles: Literal["all", "sampled"] = "all"
    """What every request quotes: the whole constitution (a prompt cache makes that cheap), or the scenario's own
    principles (for local models with a short context)."""

    max_tokens_question: PositiveInt = 400
    """Longest turn of a user, in tokens."""

    max_tokens_answer: PositiveInt = 1500
    """Longest draft or revision, reasoning included."""

    max_tokens_critique: PositiveInt = 600
    """Longest critique."""

    max_tokens_conversation: PositiveInt = 4000
    """Longest answer where one request asks for a whole conversation."""

    @model_validator(mode="after")
    def _critique_is_read(self) -> Self:
        if self.critique and not self.revision:
            raise ValueError("a critique is for the revision: switch critique off too, or revision on")
        return self


class ScreeningSection(Section):
    """What a finished conversation must pass."""

    min_answer_words: Annotated[int, Field(ge=1)] = 1
    """Shortest answer."""

    max_answer_words: PositiveInt = 900
    """Longest answer, without its reasoning."""

    max_question_words: PositiveInt = 400
    """Longest turn of a user."""

    near_duplicates: Annotated[float, Field(ge=0.5, lt=1)] = 0.7
    """Conversations that resemble an earlier one at least this much (Jaccard similarity of word 5-grams, estimated by
    MinHash) are rejected."""

    same_opening: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Largest share of the conversations whose first answer may begin with the same four words; of the later ones, as
    of questions, the rest is rejected."""

    quoted_words: Annotated[int, Field(ge=5, le=100)] = 12
    """Words in a row that an answer may not have in common with the constitution or the prompts."""

    languages: bool = True
    """Whether a conversation must be in the language of its scenario."""

    personal_data: bool = True
    """Whether what looks like a real person's e-mail address, telephone, card or account number is rejected."""


class SynthesisSection(Section):
    """Conversations that a language model writes from principles; `genesis-sft synthesize` makes them."""

    constitution: Text
    """Folder with ``principles.yaml``, ``taxonomy.yaml`` and ``prompts.yaml``, relative to the recipe."""

    out: Text
    """Folder of the result, relative to the recipe: every request and answer (``requests.sqlite``),
    ``conversations.jsonl``, rejects and a data card. A source of the mixture names ``OUT/conversations.jsonl``."""

    conversations: PositiveInt = 10_000
    """How many conversations are planned. More can be planned later: the first ones stay the same."""

    budget_usd: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    """What may be spent in all, in US dollars; reserved before a request is sent, and never exceeded. Needed unless the
    price is 0."""

    provider: ProviderSection = ProviderSection()
    steps: StepsSection = StepsSection()
    screening: ScreeningSection = ScreeningSection()
