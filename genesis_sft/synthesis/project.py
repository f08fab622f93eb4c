"""What a recipe's ``synthesis`` section leads to: the plan, what is asked for it, and where its answers are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from genesis_sft.errors import RecipeError
from genesis_sft.recipe import SynthesisRecipe, load_synthesis
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.planning.framework import Framework, load_framework
from genesis_sft.synthesis.planning.plan import make_plan
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.price.prices import Price, price_of
from genesis_sft.synthesis.store.job_store import JobStore, ReadStore

STORE = "requests.sqlite"


@dataclass(frozen=True, slots=True)
class Project:
    """Conversations that are to be written.

    Attributes:
        recipe: What is wanted; paths absolute.
        framework: Principles, scenarios and prompts.
        scenarios: The plan, or its beginning.
        chain: Says what is asked next for a scenario.
        price: Prices of the model.
    """

    recipe: SynthesisRecipe
    framework: Framework
    scenarios: tuple[Scenario, ...]
    chain: Chain
    price: Price

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = (), *, limit: int | None = None) -> Project:
        """Read a recipe and make its plan; nothing is written, nothing is sent.

        Args:
            path: The recipe.
            overrides: As for `load_recipe`.
            limit: Only so many conversations of the plan, from its beginning.

        Raises:
            RecipeError: The recipe or one of the framework's files is wrong, or the price of the model is unknown.
        """
        recipe = load_synthesis(path, overrides)
        section = recipe.synthesis
        framework = load_framework(Path(section.constitution))
        count = section.conversations if limit is None else min(limit, section.conversations)
        scenarios = make_plan(framework, recipe.seed, count)
        return cls(recipe, framework, scenarios, Chain(framework, section), price_of(section.provider))

    @property
    def section(self) -> SynthesisSection:
        """The recipe's section."""
        return self.recipe.synthesis

    @property
    def out(self) -> Path:
        """Folder of the result."""
        return Path(self.section.out)

    @property
    def store_path(self) -> Path:
        """The file that holds every request and answer."""
        return self.out / STORE

    @contextmanager
    def reading(self) -> Iterator[ReadStore | None]:
        """Look into the store as it is now, also while another process writes; ``None`` where there is none yet.

        Raises:
            RunDirError: Another file lies there, or it is damaged.
        """
        if not self.store_path.exists():
            yield None
            return
        with JobStore.read(self.store_path) as store, store.snapshot():
            yield store

    @property
    def budget(self) -> int | None:
        """What may be spent in all, in nano-dollars (1e-9 USD)."""
        dollars = self.section.budget_usd
        return None if dollars is None else int(Decimal(str(dollars)) * 10**9)

    def require_budget(self) -> None:
        """Refuse to spend money without a limit.

        Raises:
            RecipeError: The model has a price, and the recipe no budget.
        """
        if self.budget is None and not self.price.is_free:
            raise RecipeError(
                f"expected synthesis.budget_usd, what may be spent in all: {self.section.provider.model} is paid for",
                hint="--dry-run says what it is likely to cost; then give --set synthesis.budget_usd=DOLLARS.",
            )
