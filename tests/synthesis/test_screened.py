"""What the progress bar says of screening while conversations are still being written."""

from __future__ import annotations

from collections.abc import Sequence

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.candidate import KEPT, Candidate, Verdict
from genesis_sft.synthesis.writing.screened import Screened
from tests.synthesis.writing import scenario


class Screen:
    """Rejects the odd ones; counts how many it is given at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def check(self, batch: Sequence[Candidate]) -> list[Verdict]:
        self.batches.append(len(batch))
        return [Verdict("too long") if each.scenario.number % 2 else KEPT for each in batch]


def candidate(number: int, answer: str = "56", reasoning: str | None = None) -> Candidate:
    return Candidate(scenario(number), (Message("user", "7 times 8?"), Message("assistant", answer, reasoning)))


def test_what_is_finished_is_counted_a_few_at_a_time() -> None:
    screen = Screen()
    screened = Screened(screen.check)
    for number in range(21):
        screened.add(candidate(number))
    assert (screened.kept, screened.rejected) == (0, 0)
    screened.look()
    assert (screened.kept, screened.rejected) == (4, 4)
    while screened.kept + screened.rejected < 21:
        screened.look()
    assert (screened.kept, screened.rejected) == (11, 10)
    assert max(screen.batches) == 8


def test_memory_is_bounded_where_conversations_come_faster_than_they_are_looked_at() -> None:
    screen = Screen()
    screened = Screened(screen.check)
    for number in range(5000):
        screened.add(candidate(number))
    for _ in range(5000):
        screened.look()
    assert screened.kept + screened.rejected == 64


def test_a_look_is_short_whatever_was_written() -> None:
    """Answers of other conversations come meanwhile, and wait: what takes seconds to screen is left to the end."""
    screen = Screen()
    screened = Screened(screen.check)
    screened.add(candidate(0, "a-" * 500_000))
    screened.add(candidate(0, reasoning="4111 " * 200_000))
    for number in range(10):
        screened.add(candidate(number, "x" * 6_000))
    screened.look()
    assert screen.batches == [3]
    for _ in range(10):
        screened.look()
    assert screened.kept + screened.rejected == 10
