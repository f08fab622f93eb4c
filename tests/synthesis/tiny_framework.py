"""A constitution of three principles and short templates, so that tests can say what a request reads."""

from typing import Any

from genesis_sft.recipe.synthesis import SynthesisSection
from genesis_sft.synthesis.planning.framework import Framework, PrinciplesFile
from genesis_sft.synthesis.planning.scenario import Scenario
from genesis_sft.synthesis.planning.taxonomy import Taxonomy
from genesis_sft.synthesis.planning.templates import Prompts

EXCHANGES = {
    "follows": {"user": "Tea?", "assistant": "Hot."},
    "breaks": {"user": "Tea?", "assistant": "I would be delighted to tell you about tea."},
}
PRINCIPLES = {
    "version": 1,
    "areas": [
        {"id": "calm", "name": "Calm", "statement": "Stays calm."},
        {"id": "exact", "name": "Exact", "statement": "Is exact."},
    ],
    "principles": [
        {"id": "brief", "name": "Be brief", "statement": "Few words.", "areas": ["calm", "exact"], **EXCHANGES},
        {"id": "kind", "name": "Be kind", "statement": "Warm words.", "areas": ["calm"], **EXCHANGES},
        {"id": "right", "name": "Be right", "statement": "True words.", "areas": ["calm", "exact"], **EXCHANGES},
    ],
}
TAXONOMY = {
    "version": 1,
    "areas": [
        {"id": "calm", "reasoning": 0, "topics": ["rain", {"text": "rivers", "weight": 3}]},
        {"id": "exact", "weight": 2, "reasoning": 0.5, "topics": ["sums", "dates", "maps"]},
    ],
    "personas": ["a clerk", "a sailor"],
    "tones": ["curt"],
    "difficulties": [{"id": "easy", "meaning": "anyone knows"}, {"id": "hard", "meaning": "few know"}],
    "turns": [{"count": 1, "weight": 3}, {"count": 2}],
    "languages": [{"code": "en", "name": "English", "weight": 4}, {"code": "de", "name": "German"}],
    "system_share": 0.25,
    "systems": ["Be a clock.", {"text": "Be a ruler.", "areas": ["exact"]}],
    "angles": ["a storm"],
}
PROMPTS = {
    "version": 1,
    "pieces": {
        "area": "$name: $statement",
        "principle": "$name: $statement ($user $follows / $breaks)",
        "sampled_principle": "$name: $statement",
        "focus": "$name",
        "example": "$conversation",
        "system_prompt": "Under: $text",
        "no_system_prompt": "Under nothing.",
        "reasoning": "Think.",
        "no_reasoning": "Do not think.",
        "no_critique": "No critique.",
    },
    "shared": {
        "rules": "RULES",
        "constitution": "AREAS\n$areas\nPRINCIPLES\n$principles",
        "sampled": "ONLY\n$principles",
    },
    "question": {
        "system": "Ask.",
        "message": "$topic / $persona / $tone / $difficulty / $language / $system_prompt / $principles / $angle / "
        "$number",
    },
    "follow_up": {"system": "Ask on.", "message": "$persona / $tone / $language / $turn of $turns\n$conversation"},
    "draft": {"system": "Answer. $system_prompt $reasoning"},
    "critique": {"system": "Blame.", "message": "$system_prompt / $principles\n$conversation\n=> $answer"},
    "revision": {
        "system": "Mend.",
        "message": "$system_prompt / $principles / $reasoning\n$conversation\n=> $answer\n!! $critique",
    },
    "conversation": {
        "system": "Write all.",
        "message": "$topic / $persona / $tone / $difficulty / $language / $system_prompt / $principles / $angle / "
        "$number / $turns\n$form\n$opening",
        "form": "USER, ANSWER",
        "form_with_reasoning": "USER, REASONING, ANSWER",
        "opening": "First: $question",
    },
}


def tiny_framework(**taxonomy: Any) -> Framework:
    """Return it; keyword arguments replace parts of its taxonomy."""
    return Framework(
        PrinciplesFile.model_validate(PRINCIPLES, strict=False),
        Taxonomy.model_validate(TAXONOMY | taxonomy, strict=False),
        Prompts.model_validate(PROMPTS, strict=False),
        {},
    )


def tiny_scenario(**changes: Any) -> Scenario:
    """Return a scenario of the tiny framework, one exchange without reasoning or system prompt where not changed."""
    fields: dict[str, Any] = {
        "number": 6,
        "area": "exact",
        "principles": ("right", "brief"),
        "topic": "maps",
        "persona": "a sailor",
        "tone": "curt",
        "difficulty": "hard",
        "turns": 1,
        "system": None,
        "language": "en",
        "reasoning": False,
    }
    return Scenario(**fields | changes)


def tiny_section(steps: dict[str, Any] | None = None, **changes: Any) -> SynthesisSection:
    """Return a section with these steps."""
    values = {"constitution": "constitution", "out": "out", "steps": steps or {}, **changes}
    return SynthesisSection.model_validate(values)
