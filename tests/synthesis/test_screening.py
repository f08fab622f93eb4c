"""Each screen: what it is for is caught, and what looks like it passes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS
from genesis_sft.conversations.contamination import Question
from genesis_sft.conversations.conversation import Message, make_message
from genesis_sft.recipe.synthesis import ScreeningSection
from genesis_sft.synthesis.screening.candidate import Candidate, Verdict
from genesis_sft.synthesis.screening.screen import screen
from tests.synthesis.screened import FRAMEWORK, candidate, talk

SECTION = ScreeningSection()


def verdict_of(messages: tuple[Message, ...], language: str = "en", section: ScreeningSection = SECTION) -> Verdict:
    (verdict,) = screen([candidate(0, messages, language)], section, FRAMEWORK)
    return verdict


def reason_of(*contents: str, language: str = "en") -> str | None:
    return verdict_of(talk(*contents), language).reason


QUESTION = "How do I stop my bread from going stale?"
ANSWER = "Keep it whole, cut side down, in a cloth; freeze in slices what you will not eat in two days."


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((), "wrong format"),
        (talk(QUESTION), "wrong format"),
        ((Message("assistant", ANSWER), Message("user", QUESTION), Message("assistant", ANSWER)), "wrong format"),
        ((Message("user", QUESTION), Message("assistant", "lone \ud800 surrogate")), "wrong format"),
        (talk(QUESTION, ""), "empty"),
        (talk(" \n", ANSWER), "empty"),
        (talk(QUESTION, ANSWER), None),
        ((Message("system", "Be brief."), *talk(QUESTION, ANSWER)), None),
    ],
)
def test_what_is_no_conversation_is_rejected(messages: tuple[Message, ...], reason: str | None) -> None:
    assert verdict_of(messages).reason == reason


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, "<|endoftext|>", "[INST]", "<|eot_id|>"])
def test_a_control_token_in_any_text_is_rejected_with_its_place(token: str) -> None:
    assert verdict_of(talk(f"What does {token} mean?", ANSWER)).reason == "control text"
    assert verdict_of((Message("system", token), *talk(QUESTION, ANSWER))).reason == "control text"
    in_reasoning = (Message("user", QUESTION), Message("assistant", ANSWER, reasoning=f"so {token} it is"))
    detail = verdict_of(in_reasoning).detail
    assert detail is not None
    assert detail.startswith("the reasoning of message 1 (assistant)")
    assert token in detail


@pytest.mark.parametrize("text", ["a <| b |> c in Elm", "I think > you think", "x = [inst]", "the <thinker> tag"])
def test_brackets_of_other_kinds_are_no_control_text(text: str) -> None:
    assert reason_of(QUESTION, f"{text} is what you wrote") is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Use this:\n```python\nprint(1)", "cut off"),
        ("There are three ways to do it:", "cut off"),
        ("The list is as follows **:**", "cut off"),
        ("Call it with two arguments (", "cut off"),
        ("Use this:\n```python\nprint(1)\n```", None),
        ("Sorry to hear that :-(", None),
        ("Fences are written ``` in the text, in one line.", None),
        ("Bread\nButter\nHalf a pound of plums", None),
    ],
)
def test_an_answer_that_breaks_off_is_rejected(answer: str, reason: str | None) -> None:
    assert reason_of(QUESTION, answer) == reason


def test_lengths_are_bounded_on_both_sides_and_reasoning_does_not_count() -> None:
    section = ScreeningSection(min_answer_words=3, max_answer_words=5, max_question_words=4)

    def reason(question: str, answer: str, reasoning: str | None = None) -> str | None:
        messages = (Message("user", question), Message("assistant", answer, reasoning=reasoning))
        return verdict_of(messages, section=section).reason

    assert reason("one two three four", "one two") == "too short"
    assert reason("one two three four", "one two three") is None
    assert reason("one two three four", "one two three four five") is None
    assert reason("one two three four", "one two three four five six") == "too long"
    assert reason("one two three four five", "one two three") == "too long"
    assert reason("one two", "one two three", "a thought of very many words, more than five") is None
    assert reason("one two", "三个字") is None  # of scripts without spaces, characters count


@pytest.mark.parametrize(
    "question",
    [
        "Hello! How can I help you today?",
        "Sure, I'd be happy to help you with that. What is it about?",
        "Guten Tag! Wie kann ich Ihnen helfen?",
        "Bonjour ! Comment puis-je vous aider ?",
        "¡Hola! ¿En qué puedo ayudarte?",
        "Thanks. Is there anything else I can help you with?",
        "User: how do I bake bread",
        "Here is a message from the user: how do I bake bread",
        "Sure! Here's the user's opening message: how do I bake",
        "As an AI language model, I cannot bake bread, can I?",
    ],
)
def test_a_user_who_speaks_as_an_assistant_is_rejected(question: str) -> None:
    verdict = verdict_of(talk(question, ANSWER))
    assert verdict.reason == "wrong side"
    assert "message 0 (user)" in str(verdict.detail)


@pytest.mark.parametrize(
    "question",
    [
        "My neighbour lost her husband. How can I help her?",
        "Meine Eltern sind einsam. Was kann ich tun, und wie kann ich ihnen im Alltag am besten zur Hand gehen?",
        'My shop\'s chat window says "How can I help you today?" and people hate it. Ideas?',
        "Write the reply of a clerk: a customer asks for a refund, and he says how can I help you in a cold way, "
        "so that the next customer sees why nobody in this shop ever gets any help from anybody, please, thanks",
        "Sure, here's the recipe you asked for: flour, water, salt.",
        "Why do chatbots say `As an AI language model, I`?",
        "Users: how many can this server take?",
    ],
)
def test_a_user_who_speaks_of_helping_passes(question: str) -> None:
    assert verdict_of(talk(question, ANSWER), section=ScreeningSection(languages=False)).reason is None


@pytest.mark.parametrize(
    "answer",
    [
        "Assistant: Keep it in a cloth.",
        "**Assistant:** Keep it in a cloth.",
        "Keep it in a cloth.\n\nUser: And in the summer, what then?\n\nAssistant: Freeze it.",
        "Keep it in a cloth.\nHuman: What about the summer months?",
        "Keep it in a cloth.\n\n### User:\nWhat about the summer?",
        "Lass es im Tuch.\nBenutzer: Und was mache ich im Sommer?",
        QUESTION,
    ],
)
def test_an_assistant_that_writes_the_users_lines_is_rejected(answer: str) -> None:
    verdict = verdict_of(talk(QUESTION, answer))
    assert verdict.reason == "wrong side"
    assert "message 1 (assistant)" in str(verdict.detail)


def test_an_answer_that_begins_with_its_own_label_is_rejected_whatever_was_asked() -> None:
    assert reason_of("Which assistant do you like best?", "Assistant: the one that listens.") == "wrong side"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What do I put in the settings?", "Put these two lines in:\n\nUser: admin\nHost: localhost"),
        ("What would a log look like?", "Like this:\n```\nUser: what is it about, then?\n```\nSo it goes."),
        ("Write a chat between a user and a bot.", "User: hello there, my friend\nBot: hello to you as well"),
        ("Who wrote it?", "The user: a person, after all, as ever."),
        ("Hi!", "Hi!"),
    ],
)
def test_labels_with_a_reason_pass(question: str, answer: str) -> None:
    assert verdict_of(talk(question, answer), section=ScreeningSection(min_answer_words=1)).reason is None


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I do not eat bread.",
        "I’d say a cloth. As an AI, I can't taste it.",
        "As a large language model trained by a company, I cannot.",
        "I'm just an AI and cannot eat.",
        "Als KI-Sprachmodell esse ich kein Brot.",
        "Als KI kann ich kein Brot essen.",
        "En tant qu'intelligence artificielle, je ne mange pas.",
        "Como modelo de lenguaje, no puedo comer.",
        "Come modello linguistico, non mangio.",
        "Como uma IA, eu não como pão.",
        "Als AI-taalmodel eet ik geen brood.",
        "My constitution tells me to be honest, so: a cloth.",
        "The constitution asks me to keep it short: a cloth.",
        "In line with my principles, I say: a cloth.",
        "Addressing the critique, I would use a cloth.",
        "Revised answer: keep it in a cloth.",
        "Here is the revised response: keep it in a cloth.",
        "I follow dont_be_boring here: a cloth!",
    ],
)
def test_an_answer_that_tells_what_it_was_told_is_rejected(answer: str) -> None:
    assert reason_of(QUESTION, answer) == "leaked instructions"
    reasoned = (Message("user", QUESTION), Message("assistant", ANSWER, reasoning=answer))
    assert verdict_of(reasoned).reason == "leaked instructions"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Are you a person?", "No, I'm an AI. I have no kitchen, but I know how bread goes stale."),
        ("What is GPT-2?", "It was trained as a language model; it predicts the next word of a text."),
        ("What do you do?", "As an AI researcher, she works on bread."),
        ("Was ist GPT-2?", "Es gilt als Sprachmodell und sagt das nächste Wort voraus."),
        ("What does congress need?", "The constitution requires that both houses agree, in the end."),
        ("Explain why ice floats.", "According to the principles of physics, what is lighter floats."),
        ("What does your constitution tell you?", "The constitution tells me to be honest, and I like it."),
        ("Please revise this reply to my landlord: no!", "Here is the revised reply: I would rather not, thank you."),
        ("Which phrase do you hate?", 'I hate "as an AI language model, I" most of all.'),
    ],
)
def test_answers_that_have_such_words_for_a_reason_pass(question: str, answer: str) -> None:
    assert verdict_of(talk(question, answer), language="de" if "Was ist" in question else "en").reason is None


def test_words_in_a_row_of_the_constitution_or_the_prompts_are_quoted() -> None:
    statement = FRAMEWORK.principles[0].statement.split()
    assert len(statement) > 13  # else the test has nothing to cut from
    quoted = " ".join(statement[:12]).upper().replace(",", " -")
    verdict = verdict_of(talk(QUESTION, f"Well: {quoted}. So it is."))
    assert verdict.reason == "leaked instructions"
    assert "message 1 (assistant) quotes" in str(verdict.detail)
    assert verdict_of(talk(f"{quoted}?", ANSWER)).reason == "leaked instructions"
    assert verdict_of(talk(QUESTION, " ".join(statement[:11]))).reason is None
    apart = [*statement[:6], "indeed", *statement[6:12]]
    assert verdict_of(talk(QUESTION, " ".join(apart))).reason is None


GERMAN = "Leg das Brot in ein Tuch und friere ein, was du in den nächsten zwei Tagen nicht essen wirst."


def test_a_side_in_another_language_is_rejected() -> None:
    verdict = verdict_of(talk(QUESTION, GERMAN))
    assert (verdict.reason, verdict.detail) == ("language", "the answers: expected en, found de")
    long_question = "I bought far too much bread at the weekend and would like to keep it from going stale. Ideas?"
    assert verdict_of(talk(long_question, GERMAN), language="de").detail == "the user's turns: expected de, found en"
    assert verdict_of(talk(QUESTION, GERMAN), section=ScreeningSection(languages=False)).kept


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("Wie bleibt mein Brot frisch?", GERMAN, "de"),
        ("How do I say this in German: put the bread in a cloth and freeze the rest?", GERMAN, "en"),
        ("What is on the sign?", f'It says: "{GERMAN}" and that is good advice for anybody who bakes.', "en"),
        (
            "Was fehlt?",
            "```python\nfor line in open(path):\n    print(line.strip().lower())\n```\nDer Rest passt.",
            "de",
        ),
        ("Which leaves?", "Kale, chard, orache, sorrel, pak choi, komatsuna.", "en"),
        (QUESTION, GERMAN, "xx"),  # a language that nobody can tell
    ],
)
def test_code_quotations_short_texts_and_translations_are_no_other_language(
    question: str, answer: str, language: str
) -> None:
    assert verdict_of(talk(question, answer), language).reason is None


def test_an_item_of_an_evaluation_is_named() -> None:
    item = Question("piqa", 7, "How do I open a tight jar? Turn the lid firmly to the left with a towel.")
    messages = talk("how do I open a tight jar", "Turn the lid firmly to the left, with a towel.")
    (verdict,) = screen([candidate(0, messages)], SECTION, FRAMEWORK, [item])
    assert (verdict.reason, verdict.detail) == ("evaluation overlap", "holds item 7 of piqa")
    (verdict,) = screen([candidate(0, talk(QUESTION, ANSWER))], SECTION, FRAMEWORK, [item])
    assert verdict.kept


def test_of_those_that_resemble_each_other_the_first_stays() -> None:
    long = "Keep it whole and cut side down in a cloth, and freeze in slices what you will not eat in two days or so."
    found = screen(
        [candidate(0, talk(QUESTION, long)), candidate(1, talk("Is tea a drink?", "It is, and a good one at that.")),
         candidate(2, talk(QUESTION, long + " Really."))],
        SECTION, FRAMEWORK,
    )  # fmt: skip
    assert [verdict.reason for verdict in found] == [None, None, "near duplicate"]
    assert found[2].detail == "resembles area-00000"


def test_the_first_reason_counts_and_rejects_are_no_models_for_later_ones() -> None:
    leaking = talk(QUESTION, "As an AI language model, I would keep it in a cloth and freeze what is left of it.")
    again = talk(QUESTION, "I would keep it in a cloth and freeze what is left of it.")
    found = screen([candidate(0, leaking), candidate(1, leaking), candidate(2, again)], SECTION, FRAMEWORK)
    assert [verdict.reason for verdict in found] == ["leaked instructions", "leaked instructions", None]


def test_so_many_may_begin_alike_and_no_more() -> None:
    words = [f"w{number}" for number in range(4000)]

    def unlike(number: int, opening: str, question: str) -> Candidate:
        rest = words[number * 40 : number * 40 + 20], words[number * 40 + 20 : number * 40 + 40]
        answer = f"{opening} {' '.join(rest[1])}"
        return candidate(number, talk(f"{question} {' '.join(rest[0])}?", answer))

    section = ScreeningSection(same_opening=0.1, languages=False)
    alike = [unlike(number, "Sure, here is a", f"q{number} a b c") for number in range(20)]
    others = [unlike(number, f"a{number} b c d", f"q{number} a b c") for number in range(20, 100)]
    reasons = [verdict.reason for verdict in screen(alike + others, section, FRAMEWORK)]
    assert reasons == [None] * 10 + ["repeated opening"] * 10 + [None] * 80  # a tenth of a hundred
    asked = [unlike(number, f"a{number} b c d", "Can you tell me") for number in range(20)]
    found = [verdict.reason for verdict in screen(asked, section, FRAMEWORK)]
    assert found == [None] * 5 + ["repeated opening"] * 15  # five are always allowed


def test_shipped_conversations_pass_but_for_answers_of_one_word() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(CONSTITUTION.glob("*.jsonl"))]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    rows = [row for row in rows if row["id"] not in FRAMEWORK.examples]  # which the prompts quote
    candidates = [_of_row(number, row) for number, row in enumerate(rows)]
    section = ScreeningSection(min_answer_words=1, languages=False)  # the rows do not say their language
    rejected = [
        (row["id"], verdict) for row, verdict in zip(rows, screen(candidates, section, FRAMEWORK), strict=True)
        if not verdict.kept
    ]  # fmt: skip
    assert len(rows) >= 300
    assert rejected == []


@pytest.mark.slow
def test_few_of_other_peoples_conversations_are_rejected_for_what_they_say() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "sft"
    if not folder.is_dir():
        pytest.skip("the shared data is not here")
    with gzip.open(folder / "gsm8k.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = screen(
        [candidate(number, talk(row["query"], row["response"])) for number, row in enumerate(rows)],
        ScreeningSection(same_opening=1.0), FRAMEWORK,
    )  # fmt: skip
    assert [verdict for verdict in found if not verdict.kept] == []


HOSTILE = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            ["as an ", "ai ", "```\n", "`", '"', "“", "user:", "\n", "Assistant: ", "+", "1-", "(555) ", "@a.", "4242 ",
             "sk-", "<|", "|>", "DE89 ", "the revised ", "principles ", "=", "\u202e", "語", "é", " ", "\t", "$x", "\\"]
        ),
        max_size=60,
    ).map("".join),
)  # fmt: skip


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=4), HOSTILE)
@settings(max_examples=150, deadline=None)
def test_any_text_gets_a_verdict_and_the_same_one_again(turns: list[tuple[str, str]], system: str) -> None:
    contents = [content for turn in turns for content in turn]
    candidates = [candidate(0, (Message("system", system), *talk(*contents))), candidate(1, talk(*contents))]
    found = screen(candidates, SECTION, FRAMEWORK)
    assert len(found) == 2
    assert all((verdict.reason is None) == (verdict.detail is None) for verdict in found)
    assert found == screen(candidates, SECTION, FRAMEWORK)


@pytest.mark.parametrize(
    "piece",
    ["a", " ", "\n", "`", '"', "1", "1 ", "1-", "+1", "a@", "a.", "a@a.", "A1", "as an ai ", "user:\n", "- ", "ü", "“",
     "DE89 3704 ", "sk-aa", "<|a", "phone ", "hello! ", "4", "(", "the the ", ":", "*", "**User", "x" * 63 + "@"],
)  # fmt: skip
def test_long_texts_of_one_piece_take_no_more_than_their_length(piece: str) -> None:
    # quadratic patterns would need hours for these 200,000 characters
    text = piece * (200_000 // len(piece))
    section = ScreeningSection(max_answer_words=10**6, max_question_words=10**6)
    for contents in ((f"so {text} end", ANSWER), (QUESTION, f"so {text} end")):
        assert len(screen([candidate(0, talk(*contents))], section, FRAMEWORK)) == 1


CONSTITUTION = Path(__file__).resolve().parents[2] / "constitution" / "conversations"


def _of_row(number: int, row: dict[str, object]) -> Candidate:
    messages = row["messages"]
    assert isinstance(messages, list)
    return candidate(
        number,
        tuple(
            make_message(one["role"], one["content"], one.get("reasoning"), turn=turn)
            for turn, one in enumerate(messages)
        ),
    )
