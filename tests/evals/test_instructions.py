"""The shipped prompts with verifiable demands, and how answers to them are counted."""

import re
from collections import Counter
from pathlib import Path

import pytest

from genesis_sft.conversations.conversation import check_prompt
from genesis_sft.errors import InputError, RecipeError
from genesis_sft.evals.chat_prompts import read_entries, read_prompts
from genesis_sft.evals.instruction_kinds import KINDS
from genesis_sft.evals.instructions import PROMPTS_FILE, fulfils, obeys, rates_by_kind, read_instruction_prompts
from genesis_sft.evals.record import ChatAnswer

ENTRIES = read_entries(PROMPTS_FILE)
CONVERSATIONS = Path(__file__).parents[2] / "constitution" / "conversations"
NOT_A_SENTENCE = "I am just a Language Model, sorry, and cannot say"


def answered(text: str, *rules: dict[str, object]) -> ChatAnswer:
    return ChatAnswer("p", (), text, None, ended=True, num_tokens=3, sample=False, written=text, rules=rules)


def test_the_shipped_prompts_are_many_of_all_kinds_and_none_is_a_chat_prompt():
    prompts = read_instruction_prompts()
    assert len(prompts) == len(ENTRIES) >= 60
    assert len({prompt.id for prompt in (*prompts, *read_prompts())}) == len(prompts) + len(read_prompts())
    for prompt in prompts:
        check_prompt(prompt.messages)
        assert 1 <= len(prompt.rules) <= 3
    counts = Counter(rule["kind"] for prompt in prompts for rule in prompt.rules)
    assert counts.keys() == KINDS.keys()
    assert min(counts.values()) >= 2
    assert {rule["kind"] for prompt in prompts[:20] for rule in prompt.rules} == KINDS.keys()
    assert read_instruction_prompts(5) == prompts[:5]


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(RecipeError, match=rf"evals.instructions to be at most {len(ENTRIES)}, found 1000"):
        read_instruction_prompts(1000)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"])
def test_each_prompt_can_be_obeyed_shortly_and_is_not_by_chance(entry):
    """Its own example fulfils all rules; a text that ignores the prompt does not, nor does nothing at all."""
    assert [rule for rule in entry["rules"] if not fulfils(entry["obeys"], rule)] == []
    assert len(entry["obeys"].split()) < 80
    assert obeys(answered("", *entry["rules"])) is False
    others = [other["obeys"] for other in ENTRIES if other is not entry] + [NOT_A_SENTENCE, entry["prompt"] * 5]
    for rule in entry["rules"]:
        assert not all(fulfils(other, rule) for other in others), rule


def test_no_prompt_stands_in_the_shipped_conversations_or_chat_prompts():
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    trained = set().union(*(runs(file.read_text(encoding="utf-8")) for file in CONVERSATIONS.glob("*.jsonl")))
    chat = set().union(*(runs(message.content) for prompt in read_prompts() for message in prompt.messages))
    assert len(trained) > 10_000
    for entry in ENTRIES:
        assert not runs(entry["prompt"]) & (trained | chat), entry["id"]


def test_an_answer_obeys_when_it_fulfils_every_rule_and_says_something():
    short, lower = {"kind": "most_words", "count": 3}, {"kind": "lower_case"}
    assert obeys(answered("aye, captain", short, lower)) is True
    assert obeys(answered("Aye, captain", short, lower)) is False
    assert obeys(answered("aye aye, dear captain", short, lower)) is False
    assert obeys(answered(" \n", short)) is False
    assert obeys(answered("aye")) is None


def test_reasoning_is_not_judged():
    answer = ChatAnswer("p", (), "no", "Hm. LONG thoughts.", True, 9, False, "", ({"kind": "lower_case"},))
    assert obeys(answer) is True


def test_rates_by_kind_by_hand():
    short, lower = {"kind": "most_words", "count": 2}, {"kind": "lower_case"}
    answers = [
        answered("aye aye", short, lower),
        answered("Aye", short),
        answered("no more of this", short),
        answered("x"),
    ]
    most, lower_rate = rates_by_kind(answers)
    assert (most.kind, most.fulfilled, most.n) == ("most_words", 2, 3)
    assert (lower_rate.kind, lower_rate.fulfilled, lower_rate.n) == ("lower_case", 1, 1)
    assert (most.low, most.high) == pytest.approx((0.2077, 0.9385), abs=1e-3)  # Wilson 1927, by hand: 2 of 3
    assert rates_by_kind([answered("x")]) == ()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "rhymes"}, "found 'rhymes'"),
        ({"count": 3}, "found None"),
        ({"kind": ["most_words"]}, r"found \['most_words'\]"),
        ({"kind": "most_words"}, "most_words in order; count"),
        ({"kind": "most_words", "count": "3"}, "most_words in order; count"),
        ({"kind": "lower_case", "text": "x"}, "lower_case in order; text"),
    ],
)
def test_a_rule_of_a_damaged_record_is_refused(rule, message):
    with pytest.raises(InputError, match=message):
        obeys(answered("text", {"kind": "most_words", "count": 1}, rule))
    with pytest.raises(InputError, match=message):
        rates_by_kind([answered("text", rule)])
