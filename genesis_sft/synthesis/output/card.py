"""The data card: what a set of written conversations holds, where it comes from, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from genesis_sft.console import visible
from genesis_sft.recipe import SynthesisRecipe
from genesis_sft.synthesis.asking.request import Usage
from genesis_sft.synthesis.output.card_parts import diversity_page, table
from genesis_sft.synthesis.planning.coverage import Coverage
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.price.prices import NANO, Price
from genesis_sft.synthesis.screening.diversity import Diversity
from genesis_sft.synthesis.store.records import Totals

WRITTEN_BY = "genesis-sft synthesize"

_LICENCE = (
    "The conversations were written by the models named here. Whether and under what terms they may be used, shared or "
    "trained on is for the terms of their provider to say, and for whoever uses them to look up; this card does not."
)
_LIMITS = (
    "The text is a language model's: facts, sums and code in it were not checked.",
    "Screens look at patterns. What has another shape passes: personal data in words, a paraphrase of the prompts.",
    "Near duplicates and overlap with evaluation documents are found by common words, not by meaning.",
    "Languages that py3langid does not know, and texts of few words, are not checked for their language.",
    "distinct-n falls as a set grows: compare sets of other sizes by the numbers of the sample.",
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a plan.

    Attributes:
        planned: Scenarios.
        finished: Conversations that were written to their end.
        kept: Those of them that passed all screens.
        rejected: Reason to number of those that did not.
        ended: Reason to number of scenarios that came to no conversation.
    """

    planned: int
    finished: int
    kept: int
    rejected: Mapping[str, int]
    ended: Mapping[str, int]

    @property
    def unfinished(self) -> int:
        """Scenarios of which something is still to be asked."""
        return self.planned - self.finished - sum(self.ended.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "planned": self.planned,
            "finished": self.finished,
            "kept": self.kept,
            "rejected": dict(self.rejected),
            "ended": dict(self.ended),
            "unfinished": self.unfinished,
        }


def make_card(
    counts: Counts,
    coverage: Coverage,
    diversity: Diversity,
    *,
    by_area: Mapping[str, Mapping[str, int]],
    models: Mapping[str, int],
    usage_of_kept: Usage,
    cost_of_kept: int,
    totals: Totals,
    recipe: SynthesisRecipe,
    framework: Framework,
    price: Price,
) -> dict[str, Any]:
    """Return the card as plain values of JSON.

    Args:
        counts: What became of the plan.
        coverage: Of the kept conversations.
        diversity: Of the kept conversations.
        by_area: Area to main principle to number of kept conversations.
        models: Name of the model to number of kept conversations.
        usage_of_kept: Tokens of the kept conversations.
        cost_of_kept: What they cost, in nano-dollars.
        totals: Of the whole store: what was asked for and not kept was paid for as well.
        recipe: What was wanted; folders and addresses stay out of the card.
        framework: What it was written from.
        price: Prices.
    """
    section = recipe.synthesis
    provider = section.provider
    return {
        "written_by": WRITTEN_BY,
        "conversations": counts.to_json(),
        "models": dict(models),
        "framework": {
            "sha256": framework.hash,
            "prompts_sha256": framework.prompts_hash,
            "versions": {
                "principles": framework.principles_file.version,
                "taxonomy": framework.taxonomy.version,
                "prompts": framework.prompts.version,
            },
        },
        "coverage": coverage.to_json(),
        "main_principles": {area: dict(principles) for area, principles in by_area.items()},
        "diversity": diversity.to_json(),
        "tokens": {"kept": asdict(usage_of_kept), "all": asdict(totals.usage)},
        "cost": {
            "kept_usd": cost_of_kept / NANO,
            "spent_usd": totals.spent / NANO,
            "maybe_spent_usd": totals.maybe_spent / NANO,
        },
        "price": {
            "source": price.source,
            "as_of": price.as_of.isoformat() if price.as_of else None,
            "usd_per_million_tokens": {
                name: getattr(price, name) * 1_000_000 / NANO
                for name in ("input", "output", "cache_write", "cache_read")
            },
            "batch_share": float(price.batch_share),
        },
        "settings": {
            "seed": recipe.seed,
            "conversations": section.conversations,
            "provider": provider.model_dump(mode="json", include={"api", "model", "batches", "temperature"}),
            "steps": section.steps.model_dump(mode="json", exclude={"questions"})
            | {"own_questions": section.steps.questions is not None},
            "screening": section.screening.model_dump(mode="json"),
            "evaluations_kept_out": [str(task) for task in recipe.evals.tasks],
        },
        "licence": _LICENCE,
        "limits": list(_LIMITS),
    }


def card_markdown(card: Mapping[str, Any], diversity: Diversity, coverage: Coverage) -> str:
    """Return the card as a page of Markdown."""
    # names come from servers and recipes: what would be obeyed on a terminal is shown
    return visible("\n".join(_page(card, diversity, coverage))) + "\n"


def _page(card: Mapping[str, Any], diversity: Diversity, coverage: Coverage) -> Iterator[str]:
    counts, cost, settings = card["conversations"], card["cost"], card["settings"]
    yield "# Data card: conversations written from principles\n"
    yield (
        f"{counts['kept']:,} conversations, kept of {counts['finished']:,} that were finished; "
        f"{counts['planned']:,} were planned, {counts['unfinished']:,} are unfinished.\n"
    )
    yield "## Where it comes from\n"
    yield from table(("model", "kept conversations"), card["models"].items())
    framework, versions = card["framework"], card["framework"]["versions"]
    yield f"- framework `{framework['sha256'][:16]}`, prompts `{framework['prompts_sha256'][:16]}`"
    yield "- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"- seed {settings['seed']}; " + _settings({**settings["provider"], **settings["steps"]})
    yield f"- screening: {_settings(settings['screening'])}"
    tasks = ", ".join(settings["evaluations_kept_out"])
    yield f"- evaluation documents kept out: {tasks or 'none were given'}\n"
    yield "## What was left out\n"
    rejected = [(f"rejected: {reason}", number) for reason, number in counts["rejected"].items()]
    ended = [(f"came to no conversation: {reason}", number) for reason, number in counts["ended"].items()]
    yield from table(("reason", "conversations"), [*rejected, *ended])
    yield "## Coverage of the kept conversations\n"
    yield from (f"- {' '.join(line.split())}" for line in coverage.lines())
    yield "\n## Diversity\n"
    yield from diversity_page(diversity)
    yield "## Tokens and price\n"
    tokens = card["tokens"]
    rows = ((name, *(f"{part[name]:,}" for part in (tokens["kept"], tokens["all"]))) for name in tokens["all"])
    yield from table(("tokens", "of kept conversations", "of all requests"), rows)
    yield f"- the kept conversations cost ${cost['kept_usd']:,.4f}; spent in all: ${cost['spent_usd']:,.4f}"
    yield f"- may have been spent as well: ${cost['maybe_spent_usd']:,.4f} (requests whose answer was lost)"
    price = card["price"]
    prices = ", ".join(f"{name} ${usd:g}" for name, usd in price["usd_per_million_tokens"].items())
    in_batches = f"; in batches {price['batch_share']:.0%} of these prices" if settings["provider"]["batches"] else ""
    yield f"- prices per million tokens: {prices}{in_batches}"
    yield f"- prices from {price['source']}\n"
    yield f"## Licence\n\n{card['licence']}\n"
    yield "## Known limits\n"
    yield from (f"- {limit}" for limit in card["limits"])


def _settings(values: Mapping[str, Any]) -> str:
    shown = {name: value if not isinstance(value, bool) else "yes" if value else "no" for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
