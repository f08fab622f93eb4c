"""From a scenario to a conversation, request by request.

::

    question ──> draft ──> critique ──> revision ──┬──> finished
       ^                                           │
       └────────────── next turn ──────────────────┘

The chain sends nothing and keeps nothing: given a scenario and what was answered so far, it says what to ask next. So a
run that was killed goes on from the answers in its store, and comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import show_value
from genesis_sft.errors import DataError
from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.asking.replies import (
    Unusable,
    plain_question,
    read_answer,
    read_conversation,
    read_critique,
    read_question,
)
from genesis_sft.synthesis.asking.request import Answer, Request, Step
from genesis_sft.synthesis.asking.wording import Wording
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.planning.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Finished:
    """A conversation that is complete: an optional system message, then user and assistant in turn."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A conversation that cannot go on; no more requests are spent on it.

    Attributes:
        reason: ``"cut off"``, ``"refused by the provider"``, ``"stopped early"``, ``"empty answer"``, ``"malformed
            reasoning"``, ``"control text"`` or ``"wrong format"``.
        detail: Which request, and what was found.
    """

    reason: str
    detail: str


Writing: TypeAlias = Generator[Request, Answer, tuple[Message, ...]]


class Chain:
    """The order of requests that writes one conversation.

    Args:
        framework: Principles, taxonomy and templates.
        section: Steps, model and lengths.

    Raises:
        DataError: The file of opening questions is missing, empty or holds something else; names the line.
    """

    def __init__(self, framework: Framework, section: SynthesisSection) -> None:
        self._steps = section.steps
        self._model, self._temperature = section.provider.model, section.provider.temperature
        self._wording = Wording(framework, section.steps)
        self._openings = None if section.steps.questions is None else read_openings(Path(section.steps.questions))

    def next(self, scenario: Scenario, answers: Mapping[tuple[Step, int], Answer]) -> Request | Finished | Ended:
        """Return what comes next for a scenario.

        Example:
            Without answers it is the request for the user's first turn; with an answer under ``("question", 0)`` that
            says ``"7 times 8?"``, a request for a draft whose messages are ``(("user", "7 times 8?"),)``.

        Args:
            scenario: What the conversation is to be.
            answers: Answers to this scenario's requests, by step and exchange.
        """
        return self.follow(scenario, lambda request: answers.get((request.step, request.turn)))

    def follow(self, scenario: Scenario, answer_to: Callable[[Request], Answer | None]) -> Request | Finished | Ended:
        """Return what comes next for a scenario, given who knows the answers to requests; as `next`, in one walk."""
        one_request = self._steps.mode == "one_request"
        writing = self._write_at_once(scenario) if one_request else self._write(scenario)
        request = None
        try:
            request = next(writing)
            while (answer := answer_to(request)) is not None:
                request = writing.send(answer)
            return request
        except StopIteration as done:
            return Finished(done.value)
        except Unusable as unusable:
            assert request is not None  # what is unusable is an answer
            return Ended(unusable.reason, f"{request.step} of exchange {request.turn + 1}: {unusable.detail}")

    def _write(self, scenario: Scenario) -> Writing:
        """Yield requests and take their answers, until the conversation is complete."""
        messages = _system_message(scenario)
        for turn in range(self._num_turns(scenario)):
            messages.append((yield from self._question(scenario, messages, turn)))
            messages.append((yield from self._answer(scenario, messages, turn)))
        return tuple(messages)

    def _question(self, scenario: Scenario, messages: list[Message], turn: int) -> Generator[Request, Answer, Message]:
        if turn == 0:
            if (opening := self._opening(scenario)) is not None:
                return Message("user", opening)
            system, text = self._wording.question(scenario)
        else:
            system, text = self._wording.follow_up(scenario, messages, turn, self._num_turns(scenario))
        answer = yield self._request(scenario, turn, "question", system, [("user", text)])
        return read_question(answer)

    def _answer(self, scenario: Scenario, messages: list[Message], turn: int) -> Generator[Request, Answer, Message]:
        wants_reasoning = self._wording.wants_reasoning(scenario)
        spoken = [(message.role, message.content) for message in messages if message.role != "system"]
        answer = yield self._request(scenario, turn, "draft", self._wording.draft(scenario), spoken)
        draft = read_answer(answer, wants_reasoning=wants_reasoning)
        critique = ""
        if self._steps.critique:
            system, text = self._wording.critique(scenario, messages, draft)
            critique = read_critique((yield self._request(scenario, turn, "critique", system, [("user", text)])))
        if not self._steps.revision:
            return draft
        system, text = self._wording.revision(scenario, messages, draft, critique)
        answer = yield self._request(scenario, turn, "revision", system, [("user", text)])
        return read_answer(answer, wants_reasoning=wants_reasoning)

    def _write_at_once(self, scenario: Scenario) -> Writing:
        """Yield the one request for all turns, and take its answer."""
        turns, opening = self._num_turns(scenario), self._opening(scenario)
        system, text = self._wording.conversation(scenario, turns, opening)
        answer = yield self._request(scenario, 0, "conversation", system, [("user", text)])
        exchanges = read_conversation(answer, turns, wants_reasoning=self._wording.wants_reasoning(scenario))
        messages = _system_message(scenario) + [message for exchange in exchanges for message in exchange]
        if opening is not None:  # as it stands in its file, whatever the model made of it
            messages[scenario.system is not None] = Message("user", opening)
        return tuple(messages)

    def _num_turns(self, scenario: Scenario) -> int:
        return scenario.turns if self._steps.follow_ups else 1

    def _opening(self, scenario: Scenario) -> str | None:
        return None if self._openings is None else self._openings[scenario.number % len(self._openings)]

    def _request(
        self, scenario: Scenario, turn: int, step: Step, system: str, messages: Sequence[tuple[str, str]]
    ) -> Request:
        longest = {
            "question": self._steps.max_tokens_question,
            "draft": self._steps.max_tokens_answer,
            "critique": self._steps.max_tokens_critique,
            "revision": self._steps.max_tokens_answer,
            "conversation": self._steps.max_tokens_conversation,
        }
        return Request(
            scenario=scenario.number,
            turn=turn,
            step=step,
            model=self._model,
            shared=self._wording.shared,
            system=system,
            messages=tuple(messages),
            max_tokens=longest[step],
            temperature=self._temperature,
        )


def read_openings(path: Path) -> tuple[str, ...]:
    """Return the opening questions of a file with an object on each line: ``{"question": "What is a moraine?"}``.

    Raises:
        DataError: The file is missing or empty, or a line holds something else; names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"expected opening questions at {path}: {problem}") from None
    openings = tuple(_read_opening(line, f"{path}:{number}") for number, line in enumerate(lines, start=1))
    if not openings:
        raise DataError(f"expected at least one opening question in {path}, found none")
    return openings


def _read_opening(line: bytes, place: str) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    if not isinstance(row, dict) or set(row) != {"question"} or not isinstance(row["question"], str):
        found = show_value(line.decode(errors="replace"))
        raise DataError(f'{place}: expected {{"question": "..."}} on each line, found {found}')
    try:
        return plain_question(row["question"])
    except Unusable as unusable:
        raise DataError(f"{place}: a question cannot be used ({unusable.reason}): {unusable.detail}") from None


def _system_message(scenario: Scenario) -> list[Message]:
    return [] if scenario.system is None else [Message("system", scenario.system)]
