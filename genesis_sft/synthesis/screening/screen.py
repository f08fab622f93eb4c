"""All screens in their order; the first that a conversation fails is the reason.

1. ``empty``, ``wrong format``, ``control text``, ``cut off``, ``too short``, ``too long``
2. ``wrong side``, ``leaked instructions``, ``language``, ``personal data``
3. ``evaluation overlap``, then ``near duplicate``, then ``repeated opening``, each among those that passed all before

Candidates are taken in the order of the plan, and of those that resemble each other the first stays. What is held in
memory of each is 512 bytes of signature and its openings, not its text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from genesis_sft.conversations.contamination import Question, QuestionIndex
from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.near_duplicates import NUM_PERMUTATIONS, near_duplicates, signatures
from genesis_sft.recipe.synthesis import ScreeningSection
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.screening.candidate import KEPT, Candidate, Verdict, place
from genesis_sft.synthesis.screening.form import check_control_text, check_cut_off, check_format, check_length
from genesis_sft.synthesis.screening.language import LanguageScreen
from genesis_sft.synthesis.screening.openings import Openings, OpeningScreen, openings
from genesis_sft.synthesis.screening.personal_data import check_personal_data
from genesis_sft.synthesis.screening.phrases import find_ai_phrase, find_prompt_talk
from genesis_sft.synthesis.screening.prose import folded, own_words
from genesis_sft.synthesis.screening.quotes import LEAKED, QuoteIndex
from genesis_sft.synthesis.screening.side import check_side

_AT_ONCE = 256


def screen(
    conversations: Iterable[Candidate],
    section: ScreeningSection,
    framework: Framework,
    questions: Sequence[Question] = (),
) -> tuple[Verdict, ...]:
    """Return a verdict for each candidate.

    Args:
        conversations: In the order of the plan; read once.
        section: What they must pass.
        framework: What they must not quote, and the languages there are.
        questions: Items of evaluations, which none may hold.
    """
    one_by_one = Screens(section, framework, questions)
    passed = _Passed()
    verdicts: list[Verdict] = []
    for batch in _batches(conversations):
        found = one_by_one.check(batch)
        passed.add(batch, found, first=len(verdicts))
        verdicts += found
    for number, verdict in _compare(passed, section, len(verdicts)):
        verdicts[number] = verdict
    return tuple(verdicts)


class Screens:
    """The screens that look at a conversation by itself.

    Args: as `screen`.
    """

    def __init__(self, section: ScreeningSection, framework: Framework, questions: Sequence[Question]) -> None:
        self._section = section
        self._quotes = QuoteIndex(_own_texts(framework), section.quoted_words)
        self._ids = [principle.id for principle in framework.principles if "_" in principle.id]
        self._language = (
            LanguageScreen(language.code for language in framework.taxonomy.languages) if section.languages else None
        )
        self._questions = questions
        self._index = QuestionIndex(questions) if questions else None

    def check(self, batch: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each, whatever the others are."""
        found = [self._check_form(candidate) for candidate in batch]
        for check in (self._find_quotes, self._find_words, self._find_questions):
            open_ = [number for number, verdict in enumerate(found) if verdict is None]
            for number, verdict in zip(open_, check([batch[number] for number in open_]), strict=True):
                found[number] = verdict
        return [verdict or KEPT for verdict in found]

    def _find_quotes(self, batch: Sequence[Candidate]) -> list[Verdict | None]:
        return self._quotes.find([candidate.messages for candidate in batch])

    def _find_words(self, batch: Sequence[Candidate]) -> list[Verdict | None]:
        return [self._check_words(candidate) for candidate in batch]

    def _find_questions(self, batch: Sequence[Candidate]) -> list[Verdict | None]:
        found: list[Verdict | None] = [None] * len(batch)
        if self._index is not None:
            overlaps = self._index.overlaps([Conversation(candidate.messages) for candidate in batch])
            for number, item in reversed(overlaps):  # the first item is the one that is named
                question = self._questions[item]
                found[number] = Verdict("evaluation overlap", f"holds item {question.doc_id} of {question.task}")
        return found

    def _check_form(self, candidate: Candidate) -> Verdict | None:
        messages = candidate.messages
        return (
            check_format(messages)
            or check_control_text(messages)
            or check_cut_off(messages)
            or check_length(messages, self._section)
            or check_side(messages)
        )

    def _check_words(self, candidate: Candidate) -> Verdict | None:
        messages = candidate.messages
        return (
            self._speaks_of_prompts(messages)
            or (self._language.check(messages, candidate.scenario.language) if self._language else None)
            or (check_personal_data(messages) if self._section.personal_data else None)
        )

    def _speaks_of_prompts(self, messages: tuple[Message, ...]) -> Verdict | None:
        others = folded(" ".join(message.content for message in messages if message.role != "assistant"))
        for number, message in enumerate(messages):
            for text in (message.reasoning, message.content) if message.role == "assistant" else ():
                words = folded(own_words(text or ""))
                said = find_ai_phrase(words) or find_prompt_talk(words, others)
                said = said or next((id for id in self._ids if id in words and id not in others), None)
                if said:
                    return Verdict(LEAKED, f"{place(number, message)} says {said!r}")
        return None


class _Passed:
    """What the comparisons need of candidates that passed all screens before, in columns."""

    def __init__(self) -> None:
        self._signatures: list[np.ndarray] = []
        self.numbers: list[int] = []
        self.ids: list[str] = []
        self.openings: list[Openings] = []

    @property
    def signatures(self) -> np.ndarray:
        """MinHash signatures, a row each."""
        return np.concatenate([np.zeros((0, NUM_PERMUTATIONS), dtype=np.uint32), *self._signatures])

    def add(self, batch: Sequence[Candidate], verdicts: Sequence[Verdict], *, first: int) -> None:
        """Take those of a batch that passed; ``first`` is the number of its first candidate."""
        passed = [(number, candidate) for number, candidate in enumerate(batch) if verdicts[number].kept]
        self._signatures.append(signatures([Conversation(candidate.messages) for _, candidate in passed]))
        for number, candidate in passed:
            self.numbers.append(first + number)
            self.ids.append(candidate.scenario.id)
            self.openings.append(openings(candidate.messages))


def _compare(passed: _Passed, section: ScreeningSection, num_candidates: int) -> Iterator[tuple[int, Verdict]]:
    """Yield (number, verdict) of the candidates that are rejected because of earlier ones."""
    resembles = near_duplicates(passed.signatures, section.near_duplicates)
    screen_openings = OpeningScreen(section.same_opening, num_candidates)
    for row, earlier in enumerate(resembles.tolist()):
        if earlier >= 0:
            yield passed.numbers[row], Verdict("near duplicate", f"resembles {passed.ids[earlier]}")
        elif verdict := screen_openings.check(passed.openings[row]):
            yield passed.numbers[row], verdict


def _own_texts(framework: Framework) -> Iterator[str]:
    """Yield all texts that requests quote: principles with their examples, prompts, whole conversations."""
    yield from _strings(framework.principles_file.model_dump())
    yield from _strings(framework.prompts.model_dump())
    for messages in framework.examples.values():
        for message in messages:
            yield message.content
            yield message.reasoning or ""


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _batches(conversations: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    left = iter(conversations)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        yield batch
