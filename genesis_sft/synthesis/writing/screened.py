"""What screening says of conversations while others are still being written: for the progress bar alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from genesis_sft.synthesis.screening.candidate import Candidate, Verdict

_AT_A_LOOK = 8
_MOST_CHARACTERS = 20_000  # of a look: some 15 ms of prose, 80 ms of the worst text; answers wait no longer than that
_MOST_WAITING = 64


class Screened:
    """Counts what is kept of the conversations that are finished, as far as each can be judged by itself.

    Near duplicates and repeated openings are found when all are there. Where more are finished at once than there is
    time for, as when a batch ends, only some are counted here; and none of those that are very long.

    Args:
        check: Screens conversations, each by itself, as `Screens.check` does.

    Attributes:
        kept: Number of those that passed.
        rejected: Number of those that did not.
    """

    def __init__(self, check: Callable[[Sequence[Candidate]], Sequence[Verdict]]) -> None:
        self._check = check
        self._waiting: deque[Candidate] = deque(maxlen=_MOST_WAITING)
        self.kept = self.rejected = 0

    def add(self, candidate: Candidate) -> None:
        """Take a finished conversation, to be looked at when there is time."""
        if _num_characters(candidate) <= _MOST_CHARACTERS:
            self._waiting.append(candidate)

    def look(self) -> None:
        """Screen a few of those that wait."""
        some, left = list[Candidate](), _MOST_CHARACTERS
        while self._waiting and len(some) < _AT_A_LOOK and (left := left - _num_characters(self._waiting[0])) >= 0:
            some.append(self._waiting.popleft())
        kept = sum(verdict.kept for verdict in self._check(some))
        self.kept += kept
        self.rejected += len(some) - kept


def _num_characters(candidate: Candidate) -> int:
    return sum(len(message.content) + len(message.reasoning or "") for message in candidate.messages)
