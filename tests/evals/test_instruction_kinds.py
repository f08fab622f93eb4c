"""Every kind of demand: what fulfils it, what does not, and the cases between."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from genesis_sft.evals.instruction_kinds import KINDS

CASES = {
    "most_words": (
        {"count": 3},
        [
            "Three words here",
            "well-known, isn't it?",
            "- one two\n- three",
            "1. one\n2. two\n3. three",
            "a * b = c",
            "été ö",
        ],
        ["Now there are four", "one—two—three—four", "a\u00a0b\u2003c\nd"],
    ),
    "fewest_words": (
        {"count": 3},
        ["one two three", "one – two – three", "a b c d"],
        ["one two", "- - - one ... two", ""],
    ),
    "exact_words": (
        {"count": 2},
        ["Good night.", "  Good\n\nnight  ", "**Good** *night*", "42 owls"],
        ["Goodnight", "a b c"],
    ),
    "exact_sentences": (
        {"count": 2},
        [
            "One. Two.",
            "Really?! Yes",
            'She said "Stop." He did.',
            "We met Dr. Brown at 3.15 p.m. and left. It rained.",
            "Use tools, e.g. a saw. Or not.",
            "First\n\nsecond",
            "all lower case. even here.",
            "这是一句。这是另一句。",
            "It cost 3.5 euros. J. Smith paid.",
        ],
        ["One.", "One. Two. Three.", "", "...", "He shouted 'Stop!' and ran.", "Version 1.2.3 is out.", "Wait… what?"],
    ),
    "exact_paragraphs": (
        {"count": 2},
        ["a\n\nb", "a\nb\n \t\nc\n", "\n\n\na\n\n\n\nb", "a\r\n\r\nb"],
        ["a\nb", "a\n\nb\n\nc", ""],
    ),
    "exact_lines": (
        {"count": 2},
        ["a\nb", "\na\n\n  b  \n", "a\r\n\r\nb", "a\rb", "a\u2028c\nb\x0cd"],
        ["a", "a\nb\nc", "a\x85b"],
    ),
    "exact_bullets": (
        {"count": 2},
        ["- a\n- b", "* a\n\n* b\n", "• eins\n• zwei", "  + a\n  + b"],
        ["- a", "Here:\n- a\n- b", "- a\n- b\n- c", "-a\n-b", "- \n- b", "1. a\n2. b", "**a**\n**b**"],
    ),
    "numbered_list": (
        {"count": 3},
        ["1. a\n2. b\n3. c", "1) a\n\n2) b\n3) c  "],
        [
            "1. a\n2. b",
            "1. a\n3. b\n2. c",
            "List:\n1. a\n2. b\n3. c",
            "1. a\n1. b\n1. c",
            "1.a\n2.b\n3.c",
            "0. a\n1. b\n2. c",
        ],
    ),
    "comma_separated": (
        {"count": 3},
        ["a, b, c", "a,b,c.", " rote Bete, Kohl, Öl \n"],
        ["a, b", "a, b,", "a, b, c, d", "a,\nb,\nc", "a and b"],
    ),
    "lower_case": ({}, ["hello, 3 owls!", "straße", "ὀδυσσεύς"], ["Hello", "iPhone", "3!", "", "ǅ a"]),
    "upper_case": ({}, ["HELLO, 3 OWLS!", "ÄRGER"], ["HELLo", "123", "", "STRAßE", "漢字"]),
    "includes": (
        {"phrases": ["cat", "trust me"]},
        ["Trust me, the CAT knows.", "a cat; trust\nme", "**cat**, trust  me"],
        ["trust me, cats", "concatenate, trust me", "cat"],
    ),
    "forbids": (
        {"phrases": ["fish", "the sea"]},
        ["fishing by the seaside", "", "the  ocean"],
        ["Fish!", "by the\nsea"],
    ),
    "exactly_times": (
        {"phrase": "bell", "count": 2},
        ["bell Bell", "The bell's a bell, no bells"],
        ["bell", "bell bell bell", ""],
    ),
    "forbids_characters": ({"characters": ",é"}, ["no comma", "e; f", ""], ["a, b", "É", "e\u0301"]),
    "starts_with": ({"phrase": "Ahoy"}, ["Ahoy", "  Ahoy, cook", "Ahoy—there"], ["ahoy", "Ahoyhoy", "Well, Ahoy", ""]),
    "ends_with": ({"phrase": "the end"}, ["And so the end", "the end \n"], ["the end.", "bathe end", "The End", ""]),
    "quoted": (
        {},
        ['"Hello."', " “Hello.”\n", "„Hallo“", "«Salut»", '"a\n\nb"'],
        ['"Hello.', 'He said "Hello."', '"A" and "B"', '""', "'Hello'", ""],
    ),
    "one_of": ({"options": ["Yes", "no"]}, ["yes", "No.", " NO \n"], ["no, never", "yes!", "**yes**", ""]),
    "json_object": (
        {"keys": ["name", "legs"]},
        [
            '{"name": "a", "legs": 8}',
            '{"legs": {"x": [1]}, "name": null}\n',
            '```json\n{"name": 1, "legs": 2}\n```',
            '```\n{"name": 1, "legs": 2}\n```',
            '```json\r\n{"name": 1,\r\n"legs": 2}\r\n```',
        ],
        [
            '{"name": 1}',
            '{"name": 1, "legs": 2, "eyes": 8}',
            '{"name": 1, "legs": 2, "legs": 3}',
            '[["name", 1], ["legs", 2]]',
            "{'name': 1, 'legs': 2}",
            '{"name": NaN, "legs": 2}',
            'Here: {"name": 1, "legs": 2}',
            '["name", "legs"]',
            "[" * 100_000,
            "",
        ],
    ),
    "script": ({"name": "GREEK"}, ["Ευχαριστώ!", "α 1, β 2"], ["Efcharistó", "Ευχαριστώ (thanks)", "1 2 3", ""]),
}


def test_every_kind_has_cases():
    assert CASES.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "demand", "text", "fulfilled"),
    [
        (kind, demand, text, fulfilled)
        for kind, (demand, yes, no) in CASES.items()
        for fulfilled, texts in ((True, yes), (False, no))
        for text in texts
    ],
)
def test_kind(kind, demand, text, fulfilled):
    assert KINDS[kind](text, **demand) is fulfilled


def test_an_empty_json_object_is_told_from_an_empty_list():
    assert not KINDS["json_object"]("[]", keys=["a"])
    assert not KINDS["json_object"]("{}", keys=["a"])


@pytest.mark.parametrize(
    ("kind", "demand"),
    [
        ("most_words", {}),
        ("most_words", {"count": "ten"}),
        ("most_words", {"count": True}),
        ("most_words", {"count": -1}),
        ("most_words", {"count": 3, "unit": "words"}),
        ("lower_case", {"count": 3}),
        ("forbids", {"phrases": []}),
        ("forbids", {"phrases": [""]}),
        ("script", {"name": "TENGWAR"}),
    ],
)
def test_a_demand_that_is_none_is_refused(kind, demand):
    with pytest.raises(ValidationError):
        KINDS[kind]("text", **demand)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_every_kind_answers_on_any_text(text):
    for kind, (demand, _, _) in CASES.items():
        assert KINDS[kind](text, **demand) in (True, False)


@pytest.mark.parametrize(
    "piece", ["a", "a ", ".", ". ", ".)", " ", "\n", "\n ", "\n\n", "- ", "1. ", "`", '"', "{", "e\u0301", "bell "]
)
def test_every_kind_reads_a_megabyte(piece):
    text = piece * (1_000_000 // len(piece)) + "x"
    outcomes = {kind: KINDS[kind](text, **demand) for kind, (demand, _, _) in CASES.items()}
    assert not outcomes["json_object"]
    assert not outcomes["starts_with"]
