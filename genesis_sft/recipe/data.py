"""The recipe's ``data`` section: the mixture of conversations, and each source in it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genesis_sft.recipe.base import Fraction, Name, PositiveInt, Section, Text
from genesis_sft.recipe.presets import fill_from_preset


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
