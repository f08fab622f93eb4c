"""Phrases by which a model gives away what it is, or what it was told."""

from __future__ import annotations

import re

# each is followed by what a speaker says of itself: "GPT-2 as a language model" and "als Sprachmodell gilt" are none
_AI_PHRASES = re.compile(
    r"\bas an? (?:large |helpful )?(?:ai|artificial intelligence|ai[- ](?:powered )?(?:assistant|model|chatbot|system)"
    r"|(?:large )?language model)(?:,| i(?:'m|'d|'ve)?\b| (?:developed|trained|created|made|built|designed) by\b)"
    r"|\bas an? (?:ai|artificial intelligence) (?:language )?model\b"
    r"|\bi(?:'m| am) (?:just|only|merely|simply) an? (?:large |ai )?language model\b"
    r"|\bi(?:'m| am) (?:just|only|merely) an (?:ai|artificial intelligence)\b(?! [a-z]*(?:er|ist|ant)\b)"
    r"|\bals (?:ein(?:e)? )?(?:großes )?(?:ki-sprachmodell|ai-sprachmodell)\b"
    r"|\bals (?:ein(?:e)? )?(?:großes )?(?:sprachmodell|ki-assistent(?:in)?|ki|künstliche intelligenz)"
    r"(?:,| (?:kann|habe|bin|darf|verfüge|besitze|weiß) ich| ist es mir)"
    r"|\ben tant qu(?:e |')(?:une? )?(?:assistant )?(?:ia|intelligence artificielle"
    r"|(?:grand )?modèle (?:de langage|linguistique))(?:,| (?:entraîné|développé|créé)| je\b)"
    r"|\bcomo (?:una? )?(?:gran )?(?:modelo de lenguaje|ia|inteligencia artificial|asistente de ia)"
    r"(?:,| (?:no|de ia|entrenado|desarrollado|basado)\b)"
    r"|\b(?:come|in quanto) (?:una? )?(?:grande )?(?:modello linguistico|modello di linguaggio|ia"
    r"|intelligenza artificiale|assistente ia)(?:,| (?:non|addestrato|sviluppato)\b)"
    r"|\bcomo (?:uma? )?(?:grande )?(?:modelo de linguagem|ia|inteligência artificial|assistente de ia)"
    r"(?:,| (?:não|eu|treinado|desenvolvido)\b)"
    r"|\bals (?:een )?(?:groot )?(?:ai-taalmodel\b|(?:taalmodel|ai-assistent|ai|kunstmatige intelligentie)"
    r"(?:,| (?:kan|heb|ben|mag|weet) ik))"
    r"|\bjako (?:duży )?model językowy\b|\bsom (?:en )?ai-språkmodell?\b|\bкак (?:большая )?языковая модель\b"
    r"|作为(?:一个|一款|一名)?(?:大型)?(?:人工智能|ai)?(?:大?语言模型|人工智能|ai助手)|言語モデルとして|언어 ?모델로서"
)
_PARTS = (" ai", " ki", " ia", "'ia", "model", "intelligen", "модель", "作为", "言語モデル", "모델")
"""Each of the phrases has one of them: most texts have none, and are not searched any further."""

_STEPS = "answer|response|reply"
_OF_PROMPTS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), stems)
    for pattern, stems in (
        (
            r"\b(?:constitution|principles?|guidelines?) (?:asks?|tells?|requires?|wants?|obliges?|expects?|instructs?)"
            r" (?:me|the assistant)\b",
            ("constitution", "principle", "guideline"),
        ),
        (
            r"\b(?:according to|in (?:line|accordance|keeping) with|following|as per|guided by|consistent with|under) "
            r"my (?:[a-z]{1,20} )?(?:constitution|principles|guidelines)\b",
            ("constitution", "principle", "guideline"),
        ),
        (r"\b(?:the|these|those) (?:sampled|given|listed|stated) principles?\b", ("principle",)),
        (r"\b(?:based on|addressing|following|after|per|in light of) the critique\b", ("critique", "critici")),
        (r"\bthe critique (?:says|said|asks|asked|points|pointed|is right)\b", ("critique", "critici")),
        (rf"^\W{{0,4}}(?:critique|(?:revised|draft|improved) (?:{_STEPS}))\W{{0,3}}:", ("critique", "revis", "draft")),
        (
            rf"\bhere(?:'s| is) (?:the|a|my) (?:revised|improved|rewritten) (?:{_STEPS})\b",
            ("revis", "improv", "rewrit", *_STEPS.split("|")),
        ),
        (r"\b(?:the|this) (?:user persona|persona of the user)\b", ("persona",)),
    )
)


def find_ai_phrase(words: str) -> str | None:
    """Return how a model speaks of itself in front of an excuse, in folded text."""
    found = _AI_PHRASES.search(words) if any(part in words for part in _PARTS) else None
    return found[0] if found else None


def find_prompt_talk(answer: str, others: str) -> str | None:
    """Return words of an answer that speak of how it was written; nobody else may have brought the matter up.

    Args:
        answer: The answer or its reasoning, folded.
        others: What system and user said, folded: where they speak of a constitution, so may the answer.
    """
    for pattern, stems in _OF_PROMPTS:
        if (found := pattern.search(answer)) and not any(stem in others for stem in stems):
            return found[0].strip()
    return None
