"""Given a scenario and what was answered, the chain says what to ask next, whatever the answers hold."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.conversations.conversation import Message, check_messages
from genesis_sft.errors import DataError
from genesis_sft.synthesis.asking import replies
from genesis_sft.synthesis.asking.chain import Chain, Ended, Finished, read_openings
from genesis_sft.synthesis.asking.request import Answer, Request, Step, Stop, Usage
from genesis_sft.synthesis.planning.framework import load_framework
from genesis_sft.synthesis.planning.plan import make_plan
from genesis_sft.synthesis.planning.scenario import Scenario
from tests.synthesis.tiny_framework import tiny_framework, tiny_scenario, tiny_section

Place = tuple[Step, int]

TEXTS: dict[str, str] = {
    "question": "Where is north?",
    "draft": "<think>Maps.</think>Well, it is up.",
    "critique": "Wordy.",
    "revision": "<think>Up.</think>Up.",
    "conversation": "USER: Where is north?\nANSWER: Up.",
}


def answer(text: str, stop: Stop = "end", reasoning: str | None = None) -> Answer:
    return Answer(text, stop, Usage(input=3, output=5), "writer", reasoning)


def as_usual(request: Request) -> Answer:
    return answer(TEXTS[request.step])


def drive(
    chain: Chain, scenario: Scenario, reply: Callable[[Request], Answer] = as_usual
) -> tuple[list[Request], Finished | Ended]:
    """Answer every request until there is an outcome."""
    requests: list[Request] = []
    answers: dict[Place, Answer] = {}
    while isinstance(result := chain.next(scenario, answers), Request):
        assert (result.step, result.turn) not in answers
        requests.append(result)
        answers[result.step, result.turn] = reply(result)
    return requests, result


def chain_of(steps: dict[str, Any] | None = None, **changes: Any) -> Chain:
    return Chain(tiny_framework(), tiny_section(steps, **changes))


def ends(step: str, found: Answer, steps: dict[str, Any] | None = None, **changes: Any) -> Finished | Ended:
    """Return the outcome where one step is answered so, and all others as usual."""

    def reply(request: Request) -> Answer:
        return found if request.step == step else as_usual(request)

    return drive(chain_of(steps), tiny_scenario(**changes), reply)[1]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({}, "question0 draft0 critique0 revision0 question1 draft1 critique1 revision1"),
        ({"critique": False}, "question0 draft0 revision0 question1 draft1 revision1"),
        ({"critique": False, "revision": False}, "question0 draft0 question1 draft1"),
        ({"follow_ups": False}, "question0 draft0 critique0 revision0"),
        ({"reasoning": False, "follow_ups": False}, "question0 draft0 critique0 revision0"),
        ({"principles": "sampled", "follow_ups": False}, "question0 draft0 critique0 revision0"),
    ],
)
def test_the_order_of_requests(steps: dict[str, Any], expected: str) -> None:
    requests, result = drive(chain_of(steps), tiny_scenario(turns=2))
    assert " ".join(f"{request.step}{request.turn}" for request in requests) == expected
    assert isinstance(result, Finished)
    assert len(result.messages) == 2 * expected.count("question")
    assert result.messages[-1].content == ("Up." if "revision" in expected else "Well, it is up.")


def test_what_each_request_reads() -> None:
    texts = {
        ("question", 0): "Where is north?",
        ("draft", 0): "Up, I think.",
        ("critique", 0): "Unsure.",
        ("revision", 0): "Up.",
        ("question", 1): "And south?",
        ("draft", 1): "Down there.",
        ("critique", 1): "",
        ("revision", 1): "Down.",
    }
    section = {"provider": {"api": "openai", "model": "writer", "temperature": 0.5}}
    scenario = tiny_scenario(turns=2, system="Be a clock.")
    requests, result = drive(chain_of(**section), scenario, lambda each: answer(texts[each.step, each.turn]))
    shared = (
        "RULES\n\nAREAS\nCalm: Stays calm.\nExact: Is exact.\nPRINCIPLES\n"
        "Be brief: Few words. (Tea? Hot. / I would be delighted to tell you about tea.)\n\n"
        "Be kind: Warm words. (Tea? Hot. / I would be delighted to tell you about tea.)\n\n"
        "Be right: True words. (Tea? Hot. / I would be delighted to tell you about tea.)"
    )
    under = "Under: Be a clock. / Be right\nBe brief"
    spoken = "User: Where is north?"
    both = "User: Where is north?\n\nAssistant: Up.\n\nUser: And south?"
    answering = "Answer. Under: Be a clock. Do not think."
    scene = f"maps / a sailor / curt / hard: few know / English / {under} / a storm / 7"
    expected: list[tuple[Step, int, str, list[tuple[str, str]], int]] = [
        ("question", 0, "Ask.", [("user", scene)], 400),
        ("draft", 0, answering, [("user", "Where is north?")], 1500),
        ("critique", 0, "Blame.", [("user", f"{under}\n{spoken}\n=> Up, I think.")], 600),
        ("revision", 0, "Mend.", [("user", f"{under} / Do not think.\n{spoken}\n=> Up, I think.\n!! Unsure.")], 1500),
        (
            "question",
            1,
            "Ask on.",
            [
                (
                    "user",
                    "a sailor / curt / English / 2 of 2\nUser: Where is north?\n\nAssistant: Up.",
                )
            ],
            400,
        ),
        ("draft", 1, answering, [("user", "Where is north?"), ("assistant", "Up."), ("user", "And south?")], 1500),
        ("critique", 1, "Blame.", [("user", f"{under}\n{both}\n=> Down there.")], 600),
        ("revision", 1, "Mend.", [("user", f"{under} / Do not think.\n{both}\n=> Down there.\n!! No critique.")], 1500),
    ]
    assert requests == [
        Request(6, turn, step, "writer", shared, system, tuple(messages), longest, 0.5)
        for step, turn, system, messages, longest in expected
    ]
    assert result == Finished(
        (
            Message("system", "Be a clock."),
            Message("user", "Where is north?"),
            Message("assistant", "Up."),
            Message("user", "And south?"),
            Message("assistant", "Down."),
        )
    )


def test_for_a_short_context_only_the_scenarios_principles_are_quoted() -> None:
    requests, _ = drive(chain_of({"principles": "sampled"}), tiny_scenario())
    assert {request.shared for request in requests} == {"RULES"}
    quoted = "ONLY\nBe right: True words.\nBe brief: Few words.\n\n"
    assert [request.system.removeprefix(quoted).split()[0] for request in requests] == [
        "Ask.",
        "Answer.",
        "Blame.",
        "Mend.",
    ]


@pytest.mark.parametrize(
    ("scenario_wants", "switched_on", "asked"),
    [(True, True, "Think."), (True, False, "Do not"), (False, True, "Do not")],
)
def test_reasoning_is_asked_for_and_kept_where_wanted(scenario_wants: bool, switched_on: bool, asked: str) -> None:
    scenario = tiny_scenario(reasoning=scenario_wants)
    requests, result = drive(chain_of({"reasoning": switched_on}), scenario)
    assert asked in requests[1].system
    assert asked in requests[3].messages[0][1]
    wanted = scenario_wants and switched_on
    assert ("=> <think>Maps.</think>\nWell" in requests[2].messages[0][1]) == wanted
    assert isinstance(result, Finished)
    assert result.messages[1] == Message("assistant", "Up.", "Up." if wanted else None)


def test_users_do_not_read_the_assistants_reasoning() -> None:
    requests, _ = drive(chain_of(), tiny_scenario(turns=2, reasoning=True))
    follow_up, draft = requests[4], requests[5]
    assert "Up." in follow_up.messages[0][1]
    assert "<think>" not in follow_up.messages[0][1]
    assert draft.messages[1] == ("assistant", "Up.")


@pytest.mark.parametrize(
    ("text", "apart", "expected"),
    [
        ("Up.", None, None),
        ("Up.", "It is up.", "It is up."),
        ("<think>My own.</think>Up.", "It is up.", "My own."),
        ("  <think>\n My own. \n</think>\n\nUp.\n", None, "My own."),
        ("<think></think>Up.", None, None),
        ("Up.", "  ", None),
    ],
)
def test_where_reasoning_comes_from(text: str, apart: str | None, expected: str | None) -> None:
    result = ends("revision", answer(text, reasoning=apart), reasoning=True)
    assert isinstance(result, Finished)
    assert result.messages[-1] == Message("assistant", "Up.", expected)
    without = ends("revision", answer(text, reasoning=apart), reasoning=False)
    assert isinstance(without, Finished)
    assert without.messages[-1] == Message("assistant", "Up.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Where is north?"', "Where is north?"),
        ("„Wo ist Norden?“", "Wo ist Norden?"),
        ("« Où est le nord ? »", "Où est le nord ?"),
        ("User: Where is north?", "Where is north?"),
        ('**User:** "Where is north?"\n', "Where is north?"),
        ("<think>Something odd.</think>\nWhere is north?", "Where is north?"),
        ('"North" or "south"', '"North" or "south"'),
        ('"', '"'),
        ("my users: they are lost", "my users: they are lost"),
        ("'tis north, isn't it'", "'tis north, isn't it'"),
    ],
)
def test_a_question_is_taken_out_of_its_wrapping(text: str, expected: str) -> None:
    result = ends("question", answer(text))
    assert isinstance(result, Finished)
    assert result.messages[0].content == expected


@pytest.mark.parametrize("step", ["question", "draft", "revision"])
@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (answer(""), "empty answer"),
        (answer(" \n\t"), "empty answer"),
        (answer("<think>Only this.</think>  "), "empty answer"),
        (answer("Half a sen", "max_tokens"), "cut off"),
        (answer("I cannot.", "refusal"), "refused by the provider"),
        (answer("Hm", "other"), "stopped early"),
        (answer("<think>Never ends"), "malformed reasoning"),
        (answer("Up.<|im_end|>"), "control text"),
        (answer("Up.</think>"), "control text"),
        (answer("Up.\x00"), "control text"),
        (answer("Up.\x1b[31m"), "control text"),
        (answer("Up \ud800"), "wrong format"),
    ],
)
def test_no_more_is_spent_on_a_conversation_that_cannot_be_used(step: str, found: Answer, reason: str) -> None:
    result = ends(step, found, reasoning=True)
    assert isinstance(result, Ended)
    assert result.reason == reason
    assert result.detail.startswith(f"{step} of exchange 1: ")
    result.detail.encode()  # it goes into a file


@pytest.mark.parametrize(("wanted", "outcome"), [(True, Ended), (False, Finished)])
def test_reasoning_within_reasoning_is_no_reasoning(wanted: bool, outcome: type) -> None:
    """It would close its own control token; where no reasoning is wanted it is dropped with the rest."""
    assert isinstance(ends("draft", answer("<think>a<think>b</think>Up."), reasoning=wanted), outcome)


def test_a_question_that_goes_on_with_an_answer_is_refused() -> None:
    result = ends("question", answer("User: Where is north?\nAssistant: Up."))
    assert isinstance(result, Ended)
    assert result.reason == "wrong format"


@pytest.mark.parametrize(
    ("found", "quoted"),
    [
        (answer("Too wor", "max_tokens"), "Too wor"),
        (answer("<think>Hm.</think>Wordy."), "Wordy."),
        (answer("<think>Never ends", "max_tokens"), "No critique."),
        (answer("  "), "No critique."),
        (answer("Half \ud800 a pair"), "Half ? a pair"),
    ],
)
def test_a_critique_need_not_be_whole(found: Answer, quoted: str) -> None:
    requests, result = drive(
        chain_of(), tiny_scenario(), lambda each: found if each.step == "critique" else as_usual(each)
    )
    assert isinstance(result, Finished)
    assert requests[-1].messages[0][1].endswith(f"!! {quoted}")


def test_a_refused_critique_ends_the_conversation() -> None:
    result = ends("critique", answer("", "refusal"))
    assert isinstance(result, Ended)
    assert result.reason == "refused by the provider"


@pytest.mark.parametrize(("reasoning", "form"), [(True, "USER, REASONING, ANSWER"), (False, "USER, ANSWER")])
def test_one_request_asks_for_everything(reasoning: bool, form: str) -> None:
    text = "USER: Where is north?\nREASONING: It is\n\nup.\nANSWER: Up.\nOr: ahead.\nUSER: Why?\nANSWER:\nPoles.\n"
    chain = chain_of({"mode": "one_request"})
    scenario = tiny_scenario(turns=2, reasoning=reasoning, system="Be a clock.")
    (request,), result = drive(chain, scenario, lambda _: answer(text))
    assert (request.step, request.turn, request.max_tokens) == ("conversation", 0, 4000)
    assert request.messages[0][1].endswith(f"a storm / 7 / 2\n{form}")
    assert result == Finished(
        (
            Message("system", "Be a clock."),
            Message("user", "Where is north?"),
            Message("assistant", "Up.\nOr: ahead.", "It is\n\nup." if reasoning else None),
            Message("user", "Why?"),
            Message("assistant", "Poles."),
        )
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Here it is:\nUSER: a\nANSWER: b", "wrong format"),
        ("USER: a", "wrong format"),
        ("ANSWER: b", "wrong format"),
        ("USER: a\nUSER: b\nANSWER: c", "wrong format"),
        ("USER: a\nREASONING: b", "wrong format"),
        ("USER: a\nANSWER: b\nREASONING: c", "wrong format"),
        ("USER: a\nANSWER: b\nUSER: c\nANSWER: d", "wrong format"),  # one exchange was asked for
        ("user: a\nanswer: b", "wrong format"),
        ("USER:\nANSWER: b", "empty answer"),
        ("USER: a\nANSWER:  ", "empty answer"),
        ("", "wrong format"),
        ("USER: a\nANSWER: b<|im_end|>", "control text"),
    ],
)
def test_a_whole_conversation_is_read_strictly(text: str, reason: str) -> None:
    result = ends("conversation", answer(text), {"mode": "one_request"})
    assert isinstance(result, Ended)
    assert result.reason == reason


def test_of_an_answer_with_far_too_many_exchanges_no_more_are_read_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    make = replies._message

    def counting(role: str, text: str, reasoning: str | None = None) -> Message:
        read.append(role)
        return make(role, text, reasoning)

    monkeypatch.setattr(replies, "_message", counting)
    with pytest.raises(replies.Unusable, match="expected 2 exchanges, found 5000"):
        replies.read_conversation(answer("USER: a\nANSWER: b\n" * 5000), 2, wants_reasoning=True)
    assert len(read) == 4


HOSTILE = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "User:", "USER:", "ANSWER:", "REASONING:", '"', "$topic", "\n", "<|im_end|>", "\ud800"]
    )
    | st.text(max_size=8),
    max_size=8,
).map("".join)
ANSWERS = st.builds(
    Answer,
    HOSTILE,
    st.sampled_from(["end", "end", "end", "max_tokens", "refusal", "other"]),
    st.just(Usage()),
    st.just("writer"),
    st.none() | HOSTILE,
)


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.booleans(), st.sampled_from(["steps", "one_request"]))
def test_whatever_is_answered_there_is_an_end(data: st.DataObject, turns: int, reasoning: bool, mode: str) -> None:
    chain = chain_of({"mode": mode})
    scenario = tiny_scenario(turns=turns, reasoning=reasoning)
    requests, result = drive(chain, scenario, lambda _: data.draw(ANSWERS))
    assert len(requests) <= (1 if mode == "one_request" else 4 * turns)
    for request in requests:
        assert len(request.key) == 64
        for role, text in request.messages:
            assert text.strip(), role
            text.encode()  # it can be sent
    if isinstance(result, Finished):
        check_messages(result.messages)
        assert len(result.messages) == 2 * turns
        spoken = [text for each in result.messages for text in (each.content, each.reasoning or "")]
        assert not any(control in text for text in spoken for control in ("<think>", "</think>", "<|im_end|>"))
    else:
        result.detail.encode()


def test_the_same_answers_lead_to_the_same_request() -> None:
    one, other = drive(chain_of(), tiny_scenario(turns=3)), drive(chain_of(), tiny_scenario(turns=3))
    assert one == other
    assert [request.key for request in one[0]] == [request.key for request in other[0]]


def test_keys_differ_between_requests() -> None:
    chain = chain_of()
    scenarios = [tiny_scenario(number=number, turns=3) for number in range(5)]
    keys = [request.key for scenario in scenarios for request in drive(chain, scenario)[0]]
    assert len(keys) == len(set(keys)) == 5 * 3 * 4


def test_a_key_depends_on_every_part_of_its_request() -> None:
    request, *_ = drive(chain_of(), tiny_scenario())[0]
    others = [
        replace(request, scenario=99),
        replace(request, turn=1),
        replace(request, model="another"),
        replace(request, shared="x"),
        replace(request, system="x"),
        replace(request, messages=(("user", "x"),)),
        replace(request, max_tokens=1),
        replace(request, temperature=0.0),
    ]
    assert len({request.key, *(other.key for other in others)}) == 9


def test_plan_and_keys_are_the_same_in_every_process() -> None:
    program = (
        "from pathlib import Path\n"
        "from genesis_sft.synthesis.asking.chain import Chain\n"
        "from genesis_sft.synthesis.planning.framework import load_framework\n"
        "from genesis_sft.synthesis.planning.plan import make_plan\n"
        "from genesis_sft.recipe.synthesis import SynthesisSection\n"
        "framework = load_framework(Path('constitution'))\n"
        "chain = Chain(framework, SynthesisSection(constitution='constitution', out='out'))\n"
        "import sys\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "for scenario in make_plan(framework, 7, 300):\n"
        "    print(scenario, chain.next(scenario, {}).key)\n"
        "print(framework.hash)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    (output,) = outputs
    assert len(output.splitlines()) == 301
    assert len({line.split()[-1] for line in output.splitlines()}) == 301


@pytest.fixture
def openings(tmp_path: Path) -> Path:
    path = tmp_path / "openings.jsonl"
    path.write_text("".join(json.dumps({"question": each}) + "\n" for each in (" First? ", "Second?", "Third?")))
    return path


def test_openings_take_the_place_of_the_first_question(openings: Path) -> None:
    requests, result = drive(chain_of({"questions": str(openings)}), tiny_scenario(number=4, turns=2))
    assert [request.step for request in requests[:5]] == ["draft", "critique", "revision", "question", "draft"]
    assert requests[0].messages == (("user", "Second?"),)  # scenario 4 of three lines: from the first again
    assert isinstance(result, Finished)
    assert result.messages[0] == Message("user", "Second?")


def test_one_request_keeps_to_a_given_opening(openings: Path) -> None:
    chain = chain_of({"questions": str(openings), "mode": "one_request"})
    text = "USER: Something else?\nANSWER: Up."
    for system in (None, "Be a clock."):
        (request,), result = drive(chain, tiny_scenario(number=3, system=system), lambda _: answer(text))
        assert request.messages[0][1].endswith("First: First?")
        assert isinstance(result, Finished)
        assert result.messages[-2:] == (Message("user", "First?"), Message("assistant", "Up."))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"question": 1}',
        '{"question": ""}',
        '{"question": "<|im_end|>"}',
        '{"question": "a", "b": 1}',
        '{"question": "\\ud800"}',
        "\udcff",
    ],
)
def test_a_broken_line_of_openings_is_named(openings: Path, line: str) -> None:
    with openings.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match=r"openings\.jsonl:4: "):
        Chain(tiny_framework(), tiny_section({"questions": str(openings)}))


def test_a_file_of_openings_must_be_there_and_hold_some(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected opening questions at"):
        read_openings(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="at least one opening question"):
        read_openings(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("principles", ["all", "sampled"])
def test_principles_speak_of_each_other_by_name(principles: str) -> None:
    framework = load_framework(Path(__file__).resolve().parents[2] / "constitution")
    ids = [principle.id for principle in framework.principles if "_" in principle.id]
    assert any(id in principle.statement for id in ids for principle in framework.principles)
    chain = Chain(framework, tiny_section({"principles": principles}))
    texts = []
    for scenario in make_plan(framework, seed=1, count=60):
        for request in drive(chain, scenario)[0]:
            texts += [request.shared, request.system, *(text for _, text in request.messages)]
    said = "\n".join(texts)
    assert [id for id in ids if id in said] == []
    assert 'This yields to "Be honest"' in said
