"""What is asked, in words: the templates of ``prompts.yaml`` with a scenario filled in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from genesis_sft.conversations.conversation import Message
from genesis_sft.recipe.synthesis import StepsSection
from genesis_sft.synthesis.planning.framework import Framework, Principle
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.planning.templates import fill


class Wording:
    """The texts of requests.

    Args:
        framework: Principles, taxonomy and templates.
        steps: Says whether the whole constitution is quoted, and whether there is reasoning.
    """

    def __init__(self, framework: Framework, steps: StepsSection) -> None:
        self._framework, self._prompts = framework, framework.prompts
        self._all_principles = steps.principles == "all"
        self._steps = steps
        self._by_id = {principle.id: principle for principle in framework.principles}
        self._languages = {language.code: language.name for language in framework.taxonomy.languages}
        self._difficulties = {
            difficulty.id: f"{difficulty.id}: {difficulty.meaning}" for difficulty in framework.taxonomy.difficulties
        }
        self.shared = self._shared()

    def wants_reasoning(self, scenario: Scenario) -> bool:
        """Say whether the answers of a scenario are to have reasoning."""
        return scenario.reasoning and self._steps.reasoning

    def question(self, scenario: Scenario) -> tuple[str, str]:
        """Return system and message that ask for the user's first turn."""
        prompt = self._prompts.question
        return self._system(scenario, prompt.system), fill(prompt.message, **self._scene(scenario))

    def follow_up(self, scenario: Scenario, messages: Sequence[Message], turn: int, turns: int) -> tuple[str, str]:
        """Return system and message that ask for the user's next turn.

        Args:
            scenario: The scenario.
            messages: What was said so far, the assistant last.
            turn: Number of the exchange that is asked for, from 0.
            turns: How many there will be.
        """
        prompt = self._prompts.follow_up
        values = self._scene(scenario) | {"turn": str(turn + 1), "turns": str(turns)}
        return self._system(scenario, prompt.system), fill(prompt.message, conversation=_spoken(messages), **values)

    def draft(self, scenario: Scenario) -> str:
        """Return the system prompt under which the conversation is answered."""
        return self._system(
            scenario,
            fill(
                self._prompts.draft.system,
                system_prompt=self._system_prompt(scenario),
                reasoning=self._reasoning(scenario),
                language=self._languages[scenario.language],
            ),
        )

    def critique(self, scenario: Scenario, messages: Sequence[Message], draft: Message) -> tuple[str, str]:
        """Return system and message that ask for a critique of a draft, which answers ``messages``."""
        prompt = self._prompts.critique
        return self._system(scenario, prompt.system), fill(prompt.message, **self._answered(scenario, messages, draft))

    def revision(
        self, scenario: Scenario, messages: Sequence[Message], draft: Message, critique: str
    ) -> tuple[str, str]:
        """Return system and message that ask for a better answer; ``critique`` may be empty."""
        prompt = self._prompts.revision
        return self._system(scenario, prompt.system), fill(
            prompt.message,
            critique=critique or self._prompts.pieces.no_critique.strip(),
            reasoning=self._reasoning(scenario),
            language=self._languages[scenario.language],
            **self._answered(scenario, messages, draft),
        )

    def conversation(self, scenario: Scenario, turns: int, opening: str | None) -> tuple[str, str]:
        """Return system and message that ask for all turns at once; ``opening`` is the user's first where given."""
        prompt = self._prompts.conversation
        return self._system(scenario, prompt.system), fill(
            prompt.message,
            turns=str(turns),
            form=(prompt.form_with_reasoning if self.wants_reasoning(scenario) else prompt.form).strip(),
            opening="" if opening is None else fill(prompt.opening, question=opening),
            **self._scene(scenario),
        )

    def _shared(self) -> str:
        shared, pieces = self._prompts.shared, self._prompts.pieces
        if not self._all_principles:
            return fill(shared.rules)
        areas = (fill(pieces.area, name=area.name, statement=area.statement) for area in self._framework.areas)
        examples = (
            fill(pieces.example, conversation=transcript(messages, reasoning=True))
            for messages in self._framework.examples.values()
        )
        constitution = fill(
            shared.constitution,
            areas="\n".join(areas),
            principles="\n\n".join(self._quote(pieces.principle, each) for each in self._framework.principles),
            examples="\n\n".join(examples),
        )
        return f"{fill(shared.rules)}\n\n{constitution}"

    def _system(self, scenario: Scenario, text: str) -> str:
        """Return what follows the shared part."""
        if self._all_principles:
            return text.strip()
        template = self._prompts.pieces.sampled_principle
        principles = [self._quote(template, self._by_id[name]) for name in scenario.principles]
        return f"{fill(self._prompts.shared.sampled, principles=chr(10).join(principles))}\n\n{text.strip()}"

    def _scene(self, scenario: Scenario) -> dict[str, str]:
        return {
            "topic": scenario.topic,
            "persona": scenario.persona,
            "tone": scenario.tone,
            "difficulty": self._difficulties[scenario.difficulty],
            "language": self._languages[scenario.language],
            "principles": self._focus(scenario),
            "system_prompt": self._system_prompt(scenario),
            "angle": self._angle(scenario),
            "number": str(scenario.number + 1),
        }

    def _answered(self, scenario: Scenario, messages: Sequence[Message], draft: Message) -> dict[str, str]:
        return {
            "conversation": _spoken(messages),
            "answer": with_reasoning(draft),
            "principles": self._focus(scenario),
            "system_prompt": self._system_prompt(scenario),
        }

    def _quote(self, template: str, principle: Principle) -> str:
        return fill(
            template,
            name=principle.name,
            statement=self._named(principle.statement),
            user=principle.follows.user,
            follows=principle.follows.assistant,
            breaks=principle.breaks.assistant,
        )

    def _named(self, statement: str) -> str:
        """Return a statement that speaks of other principles by their names: a model is never told their ids."""
        return re.sub(
            r"\b\w*_\w*\b",  # an id of one word may be a word of the statement
            lambda found: f'"{self._by_id[found[0]].name}"' if found[0] in self._by_id else found[0],
            statement,
        )

    def _focus(self, scenario: Scenario) -> str:
        return "\n".join(fill(self._prompts.pieces.focus, name=self._by_id[each].name) for each in scenario.principles)

    def _system_prompt(self, scenario: Scenario) -> str:
        pieces = self._prompts.pieces
        return (
            pieces.no_system_prompt.strip()
            if scenario.system is None
            else fill(pieces.system_prompt, text=scenario.system)
        )

    def _reasoning(self, scenario: Scenario) -> str:
        pieces = self._prompts.pieces
        return (pieces.reasoning if self.wants_reasoning(scenario) else pieces.no_reasoning).strip()

    def _angle(self, scenario: Scenario) -> str:
        """Return a hint that has nothing to do with the order in which the plan deals out everything else."""
        angles = self._framework.taxonomy.angles
        digest = hashlib.sha256(f"{scenario.area}/{scenario.number}".encode()).digest()
        return angles[int.from_bytes(digest[:8], "big") % len(angles)]


def transcript(messages: Sequence[Message], *, reasoning: bool = False) -> str:
    r"""Return what was said, for a reader; the assistant's reasoning, which a user does not see, only where wanted.

    Example:
        >>> transcript([Message("user", "7 times 8?"), Message("assistant", "56")])
        'User: 7 times 8?\n\nAssistant: 56'
    """
    return "\n\n".join(
        f"{message.role.capitalize()}: {with_reasoning(message) if reasoning else message.content}"
        for message in messages
    )


def with_reasoning(message: Message) -> str:
    """Return an answer with its reasoning in front of it, between ``<think>`` and ``</think>``."""
    return message.content if message.reasoning is None else f"<think>{message.reasoning}</think>\n{message.content}"


def _spoken(messages: Sequence[Message]) -> str:
    """Return what the two sides said; a system prompt has a place of its own in the templates."""
    return transcript([message for message in messages if message.role != "system"])
