"""A table of results is called what it is: the published one broken, a healthy one healthy, a silent one silent."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.errors import InputError
from genesis_sft.evals.tasks import TASKS
from genesis_sft.report.judge_chance import WHOLE_SETS, correct
from genesis_sft.report.judge_lambada import Yardstick
from genesis_sft.report.judge_table import VERIFY, TableVerdict, judge_table
from genesis_sft.report.read_table import read_table
from genesis_sft.report.scores import JudgedRow, ScoreRow

PUBLISHED = """\
| task | metric | value | chance |
| --- | --- | --- | --- |
| arc_challenge | acc_norm | 0.2594 | 0.25 |
| arc_easy | acc_norm | 0.2525 | 0.25 |
| hellaswag | acc_norm | 0.2604 | 0.25 |
| piqa | acc | 0.5359 | 0.50 |
| winogrande | acc | 0.4878 | 0.50 |
| lambada_openai | acc | 0.0000 | - |
| lambada_openai | perplexity | 3,360,048 | - |
| mmlu | acc | 0.2567 | 0.25 |
| mmlu humanities / stem / social sciences / other | acc | 0.2455 / 0.2750 / 0.2658 / 0.2459 | 0.25 |
"""
# SmolLM2-135M's neighbourhood: well above chance where it can be, at chance on WinoGrande, LAMBADA as it should be
HEALTHY = """\
task,metric,value
hellaswag,acc_norm,42.1 %
piqa,acc,68.4 %
winogrande,acc,51.3 %
lambada_openai,acc,0.32
lambada_openai,perplexity,57
"""
LAMBADA = "lambada_openai"


def judge(text: str, folder: Path, **known: float) -> TableVerdict:
    (folder / "table.md").write_text(text)
    return judge_table(read_table(folder / "table.md"), Yardstick(**known))  # type: ignore[arg-type]


def lambada(perplexity: float, accuracy: float | None = 0.0, **known: float) -> tuple[bool, JudgedRow]:
    rows = [ScoreRow(LAMBADA, "acc", accuracy)] if accuracy is not None else []
    verdict = judge_table([*rows, ScoreRow(LAMBADA, "perplexity", perplexity)], Yardstick(**known))  # type: ignore[arg-type]
    return verdict.broken, verdict.rows[-1]


def only(row: ScoreRow) -> JudgedRow:
    return judge_table([row]).rows[0]


# --- the published table --------------------------------------------------------------------------------------------


def test_the_published_table_is_called_what_it_is(tmp_path: Path) -> None:
    verdict = judge(PUBLISHED, tmp_path)
    assert verdict.broken
    assert verdict.verdict.startswith(
        "The export is most likely broken. lambada_openai: no better than guessing pieces"
    )
    assert verdict.advice == VERIFY
    assert "genesis-sft base verify MODEL" in VERIFY
    assert [(row.task, row.kind) for row in verdict.rows] == [
        ("arc_challenge", "chance"),
        ("arc_easy", "chance"),
        ("hellaswag", "open"),
        ("piqa", "above"),
        ("winogrande", "chance"),
        (LAMBADA, "note"),
        (LAMBADA, "broken"),
        ("mmlu", "chance"),
        ("mmlu humanities / stem / social sciences / other", "not judged"),
    ]
    words = [row.text for row in verdict.rows]
    # sqrt(0.4878 * 0.5122 / 1267) = 0.01404, 0.0122 / 0.01404 = 0.87
    assert words[4] == "not different from chance (0.9 standard errors below; 48.8 % of 1,267 against 50.0 %)"
    # sqrt(0.5359 * 0.4641 / 1838) = 0.01163, 0.0359 / 0.01163 = 3.09; p = 0.0020, the smallest of six: 0.0122
    assert words[3] == (
        "above chance (3.1 standard errors; 53.6 % of 1,838 against 50.0 %; p = 0.012 by Holm over 6 accuracies)"
    )
    # 0.0104 / 0.00438 = 2.37; p = 0.0176, the second of six: 0.088
    assert words[2].startswith("cannot be told from luck (2.4 standard errors above; 26.0 % of 10,042 against 25.0 %")
    assert words[2].endswith("p = 0.088 by Holm over 6 accuracies)")
    assert words[5].startswith("no word of 5,153 right")
    # ln 3360048 = 15.03, / 1.37 = 10.97, ln 49152 = 10.80
    assert words[6].endswith(
        "15.0 nats a word, at 1.37 pieces a word 11.0 nats a piece; guessing among 49,152 costs 10.8"
    )
    assert any("49,152 pieces (--vocab-size), and 1.37 pieces a word" in note for note in verdict.notes)
    assert any("--training-loss" in note for note in verdict.notes)
    # 1 - 0.9545^6 = 0.244
    assert any(note.startswith("Of 6 accuracies at chance") and "in 24% of" in note for note in verdict.notes)


def test_it_contradicts_the_training_loss_where_that_is_given(tmp_path: Path) -> None:
    verdict = judge(PUBLISHED, tmp_path, training_loss=1.93)
    assert verdict.broken
    assert "in contradiction to the training loss of 1.93 nats a token: the two can hardly both be right" in (
        verdict.verdict
    )
    assert not any("--training-loss" in note for note in verdict.notes)


def test_a_multilingual_tokenizer_changes_the_words_and_not_the_verdict(tmp_path: Path) -> None:
    verdict = judge(PUBLISHED, tmp_path, training_loss=1.93, pieces_per_word=2.0, vocab_size=256_000)
    assert verdict.broken
    # 15.03 / 2 = 7.51, ln 256000 = 12.45
    assert (
        "hardly better than guessing pieces: 15.0 nats a word, at 2 pieces a word 7.5 nats a piece" in verdict.verdict
    )
    assert "guessing among 256,000 costs 12.5" in verdict.verdict
    assert not any(note.startswith("Assumed") for note in verdict.notes)


# --- LAMBADA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("perplexity", "accuracy", "broken"),
    [
        (57, 0.32, False),  # right
        (51, 0.30, False),  # RoPE theta 10,000
        (78, 0.27, False),  # RoPE theta 500,000
        (80, 0.27, False),  # norm epsilon 1e-2
        (17_654, 0.0, True),  # the other RoPE layout
        (161_775, 0.0, True),  # ids off by one
        (601_383, 0.0, True),  # random head
        (1.5e12, 0.0, True),  # gate and up swapped
    ],
)
def test_faults_as_they_were_measured(perplexity: float, accuracy: float, broken: bool) -> None:
    for known in ({}, {"training_loss": 2.5}):
        refused, row = lambada(perplexity, accuracy, **known)
        assert refused == broken
        assert row.kind == ("broken" if broken else "plausible")


def test_the_training_loss_decides_where_it_is_known() -> None:
    # nearer to guessing (10.80) than to 1.93 is above 6.37 nats a piece, 8.72 a word, a perplexity of 6,136
    assert lambada(6_000, training_loss=1.93)[1].kind == "plausible"
    assert lambada(6_300, training_loss=1.93)[1].kind == "broken"
    assert lambada(6_300)[1].kind == "plausible"
    # 9 nats a word are 8,103
    assert lambada(8_000)[1].kind == "plausible"
    assert lambada(8_200)[1].kind == "broken"


def test_a_model_that_has_learned_little_is_not_called_broken() -> None:
    # 10.97 nats a piece are less than 2 above a training loss of 9, and more than 2 above one of 8.5
    broken, row = lambada(3_360_048, training_loss=9.0)
    assert (broken, row.kind) == (False, "weak")
    assert row.text.endswith("the training loss of 9 nats a token says the same")
    assert lambada(3_360_048, training_loss=8.5)[0]


def test_words_that_are_right_speak_against_a_perplexity() -> None:
    broken, row = lambada(3_360_048, 0.32)
    assert (broken, row.kind) == (False, "doubtful")
    assert "does not go together with 32.0 % of the words right" in row.text
    assert lambada(3_360_048, 0.04)[0]
    assert lambada(3_360_048, None)[0]


def test_lambada_without_line_breaks_is_lambada_and_in_german_is_not() -> None:
    assert only(ScoreRow("lambada_oneline", "perplexity", 1e6, n=60)).kind == "broken"
    assert only(ScoreRow("lambada_openai_mt_de", "perplexity", 1e6, n=60)).kind == "not judged"
    assert only(ScoreRow(LAMBADA, "perplexity", 1e6, n=9)).kind == "open"


@pytest.mark.parametrize(
    "known",
    [{"training_loss": 0.0}, {"training_loss": math.nan}, {"training_loss": 10.9}, {"training_loss": -1.0},
     {"vocab_size": 1}, {"vocab_size": 0}, {"pieces_per_word": 0.9}, {"pieces_per_word": math.inf}],
)  # fmt: skip
def test_a_yardstick_that_means_nothing_is_refused(known: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected"):
        Yardstick(**known)  # type: ignore[arg-type]


# --- chance ---------------------------------------------------------------------------------------------------------


def test_every_benchmark_has_its_whole_set() -> None:
    assert WHOLE_SETS.keys() == TASKS.keys()
    # by the harness's metric these are what the standard errors of whole sets are computed with
    assert {name: whole.num_items for name, whole in WHOLE_SETS.items()} == {
        "arc_challenge": 1172, "arc_easy": 2376, "hellaswag": 10042, "piqa": 1838, "winogrande": 1267,
        LAMBADA: 5153, "mmlu": 14042,
    }  # fmt: skip
    assert [name for name, whole in WHOLE_SETS.items() if whole.chance == 0.5] == ["piqa", "winogrande"]


def test_holm_by_hand() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it
    rows = [
        JudgedRow("t", "acc", 0.5, "open", "", chance=0.25, standard_errors_from_chance=3.0, p_value=p)
        for p in (0.01, 0.04, 0.03, 0.005)
    ]
    judged = correct(rows)
    assert [row.p_holm for row in judged] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [row.kind for row in judged] == ["above", "open", "open", "above"]


def test_two_sided_and_where_the_standard_error_comes_from() -> None:
    # 0.45 against 0.5 with an error of 0.0116: 4.3 below
    below = only(ScoreRow("piqa", "acc", 0.45, standard_error=0.0116))
    assert (below.kind, below.standard_error_from) == ("below", "file")
    assert below.text.startswith("below chance (4.3 standard errors; 45.0 % of 1,838 against 50.0 %)")
    # of 100 items: sqrt(0.25 / 100) = 0.05; 0.6 is two above, which is not more than two: 0.1 / 0.04899 = 2.04
    assert only(ScoreRow("piqa", "acc", 0.6, standard_error=0.05)).kind == "chance"
    few = only(ScoreRow("piqa", "acc", 0.6, n=100))
    assert (few.kind, few.standard_error_from) == ("above", "computed")
    assert few.standard_errors_from_chance == pytest.approx(2.0412, abs=1e-4)
    assert few.p_value == pytest.approx(0.0412, abs=1e-4)
    none = only(ScoreRow("winogrande", "acc", 0.0, n=100))
    assert (none.kind, none.standard_error_from) == ("below", "at chance")
    assert none.standard_errors_from_chance == pytest.approx(-10.0)
    assert only(ScoreRow("piqa", "acc", 1.0, n=9)).kind == "open"
    assert only(ScoreRow("piqa", "acc", 0.6, standard_error=1e-300)).standard_error_from == "computed"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ScoreRow("gsm8k", "exact_match", 0.01), "no rule for exact_match"),
        (ScoreRow("boolq", "acc", 0.6), "what guessing scores is not known"),
        (ScoreRow("boolq", "acc", 0.6, chance=0.5), "the number of items is not known"),
        (ScoreRow("piqa", "acc", None), "not a single number"),
        (ScoreRow("x", "acc", 1.0, n=10, chance=0.0), "neither value nor chance has a standard error"),
    ],
)
def test_what_is_not_known_is_shown_as_not_judged(row: ScoreRow, why: str) -> None:
    verdict = judge_table([row])
    assert verdict.rows[0].kind == "not judged"
    assert why in verdict.rows[0].text
    assert verdict.verdict == "Nothing in this table can be judged."
    assert row.task in verdict.table()


def test_a_task_of_another_kind_is_judged_by_what_the_file_says_of_it() -> None:
    assert only(ScoreRow("boolq", "acc", 0.6, n=3270, chance=0.5)).kind == "above"
    assert only(ScoreRow("boolq", "acc", 0.6, standard_error=0.1, chance=0.5)).kind == "chance"


def test_the_same_questions_are_tested_once() -> None:
    rows = [
        ScoreRow("arc_easy", "acc", 0.6),
        ScoreRow("arc_easy", "acc_norm", 0.5),
        ScoreRow("arc_easy", "acc_norm", 0.4),
        ScoreRow("mmlu_stem", "acc", 0.3, n=3153, chance=0.25),
        ScoreRow("mmlu", "acc", 0.3),
    ]
    judged = judge_table(rows).rows
    assert [row.kind for row in judged] == ["not judged", "above", "not judged", "not judged", "above"]
    assert "the same questions as acc_norm" in judged[0].text
    assert "another acc_norm of arc_easy" in judged[2].text
    assert "part of mmlu" in judged[3].text
    assert judge_table(rows[3:4]).rows[0].kind == "above"


# --- all together ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [{}, {"training_loss": 2.2}])
def test_a_healthy_table_is_not_cried_wolf_at(tmp_path: Path, known: dict[str, float]) -> None:
    verdict = judge(HEALTHY, tmp_path, **known)
    assert not verdict.broken
    assert verdict.advice is None
    # ln 57 = 4.04, / 1.37 = 2.95
    assert verdict.verdict == (
        "Nothing here speaks for a broken export. lambada_openai: 4.0 nats a word, at 1.37 pieces a word 3.0 nats a "
        "piece; guessing among 49,152 costs 10.8. 2 of 3 accuracies are above chance."
    )
    assert [row.kind for row in verdict.rows] == ["above", "above", "chance", "note", "plausible"]


def test_accuracies_at_chance_alone_say_nothing_either_way(tmp_path: Path) -> None:
    lines = [line for line in PUBLISHED.splitlines() if LAMBADA not in line and "piqa" not in line]
    verdict = judge("\n".join(lines), tmp_path, training_loss=1.93)
    assert not verdict.broken
    assert verdict.verdict.startswith("This table says nothing either way")
    assert verdict.advice == "Measure LAMBADA's perplexity too: genesis-sft eval MODEL --tasks lambada_openai"
    with_piqa = judge("\n".join(line for line in PUBLISHED.splitlines() if LAMBADA not in line), tmp_path)
    assert with_piqa.verdict.startswith("1 of 6 accuracies is above chance; whether the export is right cannot be told")


def test_json_holds_what_the_text_says(tmp_path: Path) -> None:
    verdict = judge(PUBLISHED, tmp_path)
    values = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert list(values) == ["verdict", "broken", "rows", "advice", "notes"]
    assert (values["verdict"], values["broken"], values["advice"]) == (verdict.verdict, True, VERIFY)
    piqa = values["rows"][3]
    assert (piqa["task"], piqa["metric"], piqa["value"], piqa["n"], piqa["chance"]) == (
        "piqa",
        "acc",
        0.5359,
        1838,
        0.5,
    )
    assert piqa["standard_error_from"] == "computed"
    assert piqa["standard_error"] == pytest.approx(0.01163, abs=1e-5)
    text = verdict.table()
    assert text.splitlines()[:2] == [verdict.verdict, VERIFY]
    assert all(row["task"] in text and row["text"] in text for row in values["rows"])


_SHARE = st.floats(0, 1)
_ROWS = st.builds(
    ScoreRow,
    task=st.sampled_from([*TASKS, "lambada_oneline", "mmlu_stem", "boolq", ""]),
    metric=st.sampled_from(["acc", "acc_norm", "exact_match"]),
    value=st.none() | _SHARE,
    standard_error=st.none() | st.floats(0, 1e6),
    n=st.none() | st.integers(1, 10**12),
    chance=st.none() | _SHARE,
)
_PERPLEXITIES = st.builds(ScoreRow, task=st.just(LAMBADA), metric=st.just("perplexity"), value=st.floats(1, 1e308))


@settings(deadline=None)
@given(rows=st.lists(_ROWS | _PERPLEXITIES, min_size=1, max_size=8), loss=st.none() | st.floats(0.01, 10.5))
def test_any_rows_get_a_verdict_and_none_is_dropped(rows: list[ScoreRow], loss: float | None) -> None:
    verdict = judge_table(rows, Yardstick(training_loss=loss))
    assert [(row.task, row.metric, row.value) for row in verdict.rows] == [(r.task, r.metric, r.value) for r in rows]
    assert all(row.text for row in verdict.rows)
    json.dumps(verdict.to_json(), allow_nan=False)
    assert verdict.broken == (verdict.advice == VERIFY)
    if not any(row.metric == "perplexity" for row in rows):
        assert not verdict.broken
