"""What a run of writing is given, whether it asks one by one or in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genesis_sft.console import Progress
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.writing.screened import Screened

if TYPE_CHECKING:
    from genesis_sft.synthesis.price.prices import Price


@dataclass(frozen=True, slots=True)
class Work:
    """Conversations to be written, and all that it takes but a provider.

    Attributes:
        chain: Says what to ask.
        scenarios: What to write, in this order.
        store: Keeps every request and answer, and the budget.
        price: Of the model.
        section: Concurrency and attempts.
        stop: When set, no new requests are sent; those under way are taken in.
        progress: Counts conversations.
        screened: Counts, for it, those that are kept.
    """

    chain: Chain
    scenarios: Sequence[Scenario]
    store: JobStore
    price: Price
    section: SynthesisSection
    stop: asyncio.Event
    progress: Progress
    screened: Screened
