"""What a run of writing came to, and how it shows its progress."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from genesis_sft.console import Progress
from genesis_sft.errors import GenesisError, InputError, Stopped
from genesis_sft.synthesis.asking.chain import Ended, Finished
from genesis_sft.synthesis.asking.request import Usage
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.screening.candidate import Candidate
from genesis_sft.synthesis.store.ledger import BudgetSpent, Ledger, format_usd
from genesis_sft.synthesis.writing.screened import Screened

_SHOWN_EVERY_SECONDS = 0.2
NOT_BEGUN = "not begun"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: ``"1 request"``, ``"1,200 requests"``, ``"2 batches"``."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{ending}"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the scenarios that a run was given.

    Attributes:
        finished: Conversations that are complete.
        ended: Those that cannot go on.
        unfinished: Those that the same command goes on with.
        why: Why the run ended before its scenarios did, in words; ``None`` where it did not.
        ended_by: Reason to number.
        unfinished_by: Reason to number.
    """

    finished: int
    ended: int
    unfinished: int
    why: str | None
    ended_by: Mapping[str, int]
    unfinished_by: Mapping[str, int]


class Tally:
    """Counts what a run does, and shows it.

    Args:
        planned: Number of scenarios of the run.
        ledger: Of the store.
        progress: A bar that counts conversations.
        screened: Counts those of the finished ones that are kept.
    """

    def __init__(self, planned: int, ledger: Ledger, progress: Progress, screened: Screened) -> None:
        self._planned, self._ledger, self._progress, self._screened = planned, ledger, progress, screened
        self._started, self._shown_at = time.monotonic(), 0.0
        self._requests, self._tokens_in, self._tokens_out = 0, 0, 0
        self.finished, self.ended, self.unfinished = 0, Counter[str](), Counter[str]()

    def count_answer(self, usage: Usage) -> None:
        """Count an answer."""
        self._requests += 1
        self._tokens_in += usage.input + usage.cache_write + usage.cache_read
        self._tokens_out += usage.output
        self.show()

    def count_outcome(self, scenario: Scenario, outcome: Finished | Ended) -> None:
        """Count a conversation that is complete or cannot go on."""
        if isinstance(outcome, Finished):
            self.finished += 1
            self._screened.add(Candidate(scenario, outcome.messages))
        else:
            self.ended[outcome.reason] += 1
        self.show(1)

    def count_unfinished(self, reason: str) -> None:
        """Count a conversation that is left for the next run."""
        self.unfinished[reason] += 1

    def written(self, why: str | None) -> Written:
        """Return the sums."""
        ended, tried = sum(self.ended.values()), sum(self.unfinished.values())
        unfinished = self._planned - self.finished - ended
        reasons = {**self.unfinished, NOT_BEGUN: unfinished - tried}
        return Written(
            self.finished,
            ended,
            unfinished,
            why if unfinished else None,
            dict(sorted(self.ended.items())),
            {reason: count for reason, count in sorted(reasons.items()) if count},
        )

    def out_of_budget(self, spent: BudgetSpent) -> str:
        """Say that the budget is used up, and by what."""
        ledger = self._ledger
        text = f"the budget of {format_usd(ledger.budget or 0)} is used up: {format_usd(ledger.spent)} spent"
        if ledger.maybe_spent:
            text += f", {format_usd(ledger.maybe_spent)} perhaps charged for requests whose answer was lost"
        return f"{text}; {spent}"

    def gone(self, what: str) -> GenesisError:
        """Return the error of a provider that answers no more, or never did.

        Args:
            what: Was found.
        """
        if self._requests:
            return Stopped(f"{what}; every answer that came before is kept")
        return InputError(what, hint="Is the server there, and synthesis.provider right?")

    def show(self, conversations: int = 0, note: str = "") -> None:
        """Show how far the run is.

        Args:
            conversations: Number of those that are done since it was last shown.
            note: What is to be said beside the sums.
        """
        now = time.monotonic()
        is_due = now - self._shown_at >= _SHOWN_EVERY_SECONDS
        if is_due:
            self._shown_at = now
            self._screened.look()
        if is_due or conversations or note:
            self._progress.advance(conversations, f"{self._note()}{note and ', '}{note}")

    def _note(self) -> str:
        """Return the line behind the bar."""
        ledger, seconds = self._ledger, max(1e-3, time.monotonic() - self._started)
        budget = "" if ledger.budget is None else f" of {format_usd(ledger.budget)}"
        return (
            f"{counted(self._requests, 'request')} ({self._requests / seconds:.1f}/s), {self.finished:,} finished "
            f"({self._screened.kept:,} kept, {self._screened.rejected:,} rejected of those screened so far), "
            f"{sum(self.ended.values()):,} ended, {self._tokens_in:,} tokens in, {self._tokens_out:,} out, "
            f"{format_usd(ledger.spent)}{budget}"
        )
