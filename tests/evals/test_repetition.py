"""Loops of language models are found; what people write is not, nor does a long text take long."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.evals.repetition import repeats_itself

CONVERSATIONS = Path(__file__).parents[2] / "constitution" / "conversations"

LOOPS = {
    "a sentence": "I'm not sure what you're asking. " * 6,
    "three times a long sentence": "The old mill by the river had not turned for eleven years or more. " * 3,
    "after a good beginning": "Barnacles eat plankton, which they comb from the water with their legs. "
    + "They wait. " * 12,
    "a list": "\n".join(f"{number}. A piece of fabric" for number in range(1, 9)),
    "one word": "very " * 24,
    "letters without spaces": "It is so funny, " + "ha" * 60,
    "signs": "." * 120,
    "a decimal": "It is 1." + "0" * 200,
    "Chinese": "这是一个很好的问题，" * 4,
    "two sentences with changes": "\n\n".join(
        f'The original sentence was: "I want to buy a {thing}." The revised sentence is: "I want to buy a {thing}."'
        for thing in ("boat", "coat", "goat", "moat", "note")
    ),
}

SONG = "\n\n".join(
    verse + "\nAnd the river runs on, and the river runs deep,\nand nobody knows what the river will keep;\n"
    "it carries our letters and carries our shoes\nand tells all the villages yesterday's news."
    for verse in (
        "I threw in a penny, I threw in a ring,\nI asked it to teach my old kettle to sing;\n"
        "it took what I gave it and gave me no sign\nbut a boot with no laces that might have been mine.",
        "My uncle once swam it from here to the mill\nwith a clock on his shoulder that's telling time still;\n"
        "he came out in April as thin as a rake\nand swore he had only been testing the lake.",
        "So bury me under the willow, my friend,\nwhere everything starts and where most of it ends;\n"
        "and when you pass over the bridge with your load\njust whistle a bar of that song from the road.",
    )
)
NO_LOOPS = {
    "nothing": "",
    "a song with a chorus": SONG,
    "entries that begin alike": "\n".join(
        f"- I am grateful for the {thing}." for thing in ["sun", "rain", "bread", "tea", "cat", "roof", "bus"]
    ),
    "a times table": "\n".join(f"7 x {number} = {7 * number}" for number in range(1, 21)),
    "a Markdown table": "| name | legs |\n| --- | --- |\n"
    + "\n".join(f"| {name} | {legs} |" for name, legs in (("ant", 6), ("spider", 8), ("crab", 10), ("cat", 4)) * 2),
    "a matrix of zeros": "\n".join(["0, 0, 0, 0, 0, 0, 0, 0"] * 6),
    "a ruled line": "Title\n" + "=" * 79 + "\nText",
    "code": "if a:\n    if b:\n        return {1: {2: {3: [[[]]]}}}\n" + "}\n" * 10,
    "a cheer": "No, no, no, no, no! Never, never, never!",
    "the same sentence twice": "The gate is shut, and it stays shut until the tide goes out again on Sunday. " * 2,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_is_found(text):
    assert repeats_itself(text)


@pytest.mark.parametrize("text", NO_LOOPS.values(), ids=NO_LOOPS.keys())
def test_what_only_looks_like_one_is_not(text):
    assert not repeats_itself(text)


def test_no_shipped_answer_repeats_itself():
    answers = [
        (message.get("reasoning") or "") + "\n\n" + message["content"]
        for file in sorted(CONVERSATIONS.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        for message in json.loads(line)["messages"]
        if message["role"] == "assistant"
    ]
    assert len(answers) > 400
    assert [answer for answer in answers if repeats_itself(answer)] == []


def test_the_limits_are_the_stated_ones():
    assert repeats_itself("one two three four " * 6)  # 24 words
    assert not repeats_itself("one two three four " * 5 + "one two three")
    assert repeats_itself("." * 120)
    assert not repeats_itself("." * 119)
    words = [f"word{number}" for number in range(100)]  # 93 runs of eight; those of 40 and 47 words are 33 and 40
    assert not repeats_itself(" ".join(words + words[:80]))
    assert repeats_itself(" ".join(words + words[:95]))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(1, 40))
def test_any_text_gives_an_answer_and_many_copies_of_words_a_loop(text, copies):
    assert repeats_itself(text) in (True, False)
    assert repeats_itself(f"{text}\nword number twelve " * (copies + 24))


@pytest.mark.parametrize("piece", ["a", "ab ", "! ? ", "1. ", "漢字", "x y z w v ! ", "\u0301", "🎉 "])
def test_a_megabyte_is_read_to_its_end(piece):
    assert repeats_itself(piece * (1_000_000 // len(piece)) + " end")


def test_a_megabyte_without_a_loop():
    assert not repeats_itself("\n" * 1_000_000)
    assert not repeats_itself(" ".join(map(str, range(150_000))))
