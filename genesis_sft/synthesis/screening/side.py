"""Screen: one side speaks for the other. The user answers or offers help; the assistant writes the user's lines.

Patterns look at a side's own words, not at code or quotations, and are narrow: a chat log that the user asked for is
none. Each runs in time proportional to the text.
"""

from __future__ import annotations

import re

from genesis_sft.conversations.conversation import Message
from genesis_sft.synthesis.screening.candidate import Verdict, place
from genesis_sft.synthesis.screening.phrases import find_ai_phrase
from genesis_sft.synthesis.screening.prose import folded, own_words, without_code

WRONG_SIDE = "wrong side"

_GREETING = r"^(?:[^.!?]{1,30}[.!?,] ?){0,2}?[¿¡]?"
_OFFERS = re.compile(
    _GREETING + r"(?:how (?:can|may) i (?:help|assist) you|what can i (?:help you with|do for you)"
    r"|(?:i'd|i would) be (?:happy|glad) to (?:help|assist)(?: you)?\b|i(?:'m| am) here to help you"
    r"|wie kann ich (?:ihnen|dir|euch) (?:heute )?(?:weiter)?helfen|(?:ich helfe|gerne? helfe ich) (?:ihnen|dir|euch)"
    r"|(?:comment|en quoi) puis-je (?:vous |t')aider|que puis-je faire pour (?:vous|toi)"
    r"|(?:cómo|en qué) puedo ayudar(?:te|le|los|les)|(?:come|in cosa) posso (?:aiutar(?:ti|la|vi)|esserti utile)"
    r"|(?:como|em que) (?:posso (?:te |lhe |o |a )?ajudar|te posso ajudar)"
    r"|(?:waarmee|hoe) kan ik (?:je|u|jou|jullie) (?:vandaag )?(?:helpen|van dienst zijn))"
)
_ANYTHING_ELSE = re.compile(
    r"(?:anything else i can (?:help|assist|do for) you|sonst noch etwas für (?:dich|sie) tun"
    r"|autre chose que je puisse faire pour (?:vous|toi)|algo más en (?:lo )?que pueda ayudar"
    r"|altro in cui posso aiutar|mais alguma coisa em que (?:eu )?possa ajudar|nog iets anders waarmee ik (?:je|u))"
    r"[^.!?]{0,30}[.!?]?$"
)
_STAGE_DIRECTION = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)[!,.]? )?here(?:'s| is) (?:[a-z-]{1,20} ){0,3}"
    r"(?:(?:user's |user |opening ){1,2}(?:message|turn|question|prompt|request)"
    r"|(?:message|turn|question|prompt|request) (?:from|of|by) the user)\b"
)
_MOST_OFFERED = 200  # characters: who writes more has a matter of his own, and the phrase is part of it

_USER_NAMES = "user|human|benutzer|nutzer|utilisateur|usuario|usuário|utente|gebruiker"
_ASSISTANT_NAMES = "assistant|ai assistant|assistent|assistente|asistente|ki-assistent"
_OWN_NAMES = frozenset(_ASSISTANT_NAMES.split("|"))
_LABEL = re.compile(
    rf"^[ \t]{{0,8}}[*_#>\[( ]{{0,5}}({_USER_NAMES}|{_ASSISTANT_NAMES})[*_\])]{{0,3}}[ \t]?:[*_]{{0,2}}(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_FEWEST_WORDS = 3  # "User: admin" is a setting, "User: can you say more?" somebody's line


def check_side(messages: tuple[Message, ...]) -> Verdict | None:
    """Reject a conversation in which a side speaks for the other one."""
    asked: list[str] = []
    for number, message in enumerate(messages):
        found = None
        if message.role == "user":
            found = _of_user(message.content)
            asked.append(message.content)
        elif message.role == "assistant":
            found = _of_assistant(message.content, asked)
        if found:
            return Verdict(WRONG_SIDE, f"{place(number, message)} {found}")
    return None


def _of_user(content: str) -> str | None:
    """Return what a user says that only an assistant would."""
    if (label := _LABEL.match(content.lstrip())) and label[2].strip():
        return f"begins with the label {label[1] + ':'!r}"
    words = folded(own_words(content))
    offer = _OFFERS.match(words) if len(words) <= _MOST_OFFERED else None
    if offer or (offer := _ANYTHING_ELSE.search(words[-_MOST_OFFERED:])):
        return f"offers help: {offer[0].strip()!r}"
    if found := _STAGE_DIRECTION.match(words):
        return f"speaks about the user: {found[0]!r}"
    if phrase := find_ai_phrase(words):
        return f"speaks as a model: {phrase!r}"
    return None


def _of_assistant(content: str, asked: list[str]) -> str | None:
    """Return what an assistant says that is not its own."""
    answer = content.strip()
    if len(answer.split()) >= _FEWEST_WORDS and any(answer == question.strip() for question in asked):
        return "repeats the user's turn"
    prose = without_code(answer)
    for label in _LABEL.finditer(prose):
        name = label[1].lower()
        is_own = name in _OWN_NAMES and not prose[: label.start()].strip()
        if not is_own and any(name in question.lower() for question in asked):
            continue  # the user brought the roles up, and may have asked for a dialogue
        spoken = label[2] if label[2].strip(" \t*_") else prose[label.end() :].lstrip("\n").partition("\n")[0]
        if is_own or len(spoken.split(None, _FEWEST_WORDS)) >= _FEWEST_WORDS:
            return f"has a line of {label[1] + ':'!r}: {label[0].strip()[:60]!r}"
    return None
