"""A project written to its end, as far as budget, provider and user let it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from genesis_sft.console import progress
from genesis_sft.conversations.contamination import Question
from genesis_sft.errors import RunDirError
from genesis_sft.synthesis.project import Project
from genesis_sft.synthesis.providers import ProviderError, open_batches, open_provider
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.screening.screen import Screens
from genesis_sft.synthesis.store.job_store import JobStore
from genesis_sft.synthesis.store.replay import survey
from genesis_sft.synthesis.writing.screened import Screened
from genesis_sft.synthesis.writing.stopping import stop_requests
from genesis_sft.synthesis.writing.work import Work
from genesis_sft.synthesis.writing.write import write
from genesis_sft.synthesis.writing.write_batches import write_batches
from genesis_sft.synthesis.writing.written import Written


def write_project(project: Project, questions: Sequence[Question] = ()) -> Written | None:
    """Have the conversations written that the store does not hold yet.

    Args:
        project: What is wanted.
        questions: Items of evaluations, which no conversation may hold: for what the progress bar says of screening.

    Returns:
        What became of those that were open; ``None`` where there were none.

    Raises:
        RecipeError: The model has a price, and the recipe no budget.
        RunDirError: Another process writes to the store, it cannot be written, or another file lies there.
        Stopped: The user asked for it, or the provider answers no more; every answer is kept.
        GenesisError: The provider takes no requests of ours, e.g. for want of a key.
    """
    project.require_budget()
    try:
        project.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirError(f"expected a folder to write to at {project.out}: {error.strerror}") from None
    with JobStore.open(project.store_path, budget=project.budget) as store:
        return asyncio.run(_write(project, store, questions))


def require_provider(project: Project) -> None:
    """Refuse a provider that cannot be asked, for want of a key or of an address that is fit for one.

    Raises:
        ProviderError: It cannot, and something is still to be asked.
    """
    try:
        address_of(project.section.provider)
    except ProviderError:
        with project.reading() as store:  # where all is answered nobody is asked, and no key is needed
            if store is None or store.open_batches() or survey(project.chain, project.scenarios, store).open:
                raise


async def _write(project: Project, store: JobStore, questions: Sequence[Question]) -> Written | None:
    settings, planned = project.section.provider, len(project.scenarios)
    rest = survey(project.chain, project.scenarios, store).open
    if not rest and not store.open_batches():
        return None
    screened = Screened(Screens(project.section.screening, project.framework, questions).check)
    with stop_requests() as stop, progress("writing", planned, "conversations", done=planned - len(rest)) as bar:
        work = Work(project.chain, rest, store, project.price, project.section, stop, bar, screened)
        if settings.batches:
            batches = open_batches(settings)
            try:
                return await write_batches(work, batches)
            finally:
                await batches.close()
        provider = open_provider(settings)
        try:
            return await write(work, provider)
        finally:
            await provider.close()
