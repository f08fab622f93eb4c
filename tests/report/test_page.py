from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from genesis_sft.evals.error_bars import wilson
from genesis_sft.report.changes import RateChange
from genesis_sft.report.compare import compare
from genesis_sft.report.flips import Flip, TaskFlips
from genesis_sft.report.page import write_report
from genesis_sft.report.run_results import RunResults
from tests.report.records import chat_answer, eval_record, held_out_record, task_record
from tests.report.test_tables import LEDGER

HOSTILE = (
    "</p></details><script>alert(1)</script> <img src=x onerror=alert(2)> | cell | \x1b[31mred\n"
    "```\n</details>\n# heading\n| a | b |\n|---|---|\n[link](javascript:x) &amp; `code` $body ${title}\u202e"
)
SHOWN = HOSTILE.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩")

FOREIGN = {"script", "iframe", "object", "embed", "link", "base", "form", "img", "a"}
# a scale has as many ticks as its values ask for
SVG = Counter(dict.fromkeys(("line", "text"), 10_000))


class Page(HTMLParser):
    """Collects what a browser would see: tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def results(text: str = "plain\ntext", **changes: Any) -> RunResults:
    """A small run; ``text`` stands wherever text comes from outside."""
    items = [1.0, 0.0] * 10
    before = eval_record(
        tasks=(
            task_record(items, task=text),
            task_record([-3.0, -4.0], metric="perplexity"),
            task_record(items, task=text, surface="chat"),
        ),
        held_out=(held_out_record(text, [20.0, 60.0], [10, 30]),),
        plain_text=(held_out_record(text, [20.0, 60.0], [10, 30]),),
        chat=(
            chat_answer(text, messages=({"role": text, "content": text},), answer=text, ended=False, sample=True),
            chat_answer("second", answer=""),
        ),
    )
    after = eval_record(
        tasks=(
            task_record(items, task=text),
            task_record([-2.0, -4.0], metric="perplexity"),
            task_record(items, task=text, surface="chat"),
        ),
        held_out=(held_out_record(text, [10.0, 54.0], [10, 30]),),
        plain_text=(held_out_record(text, [21.0, 62.0], [10, 30]),),
        chat=(
            chat_answer(text, messages=({"role": text, "content": text},), answer=text, reasoning=text, sample=True),
            chat_answer("second"),
        ),
    )
    source = {**LEDGER["sources"][0], "name": text, "licence": text, "origin": text, "rejected": {text: 5}}
    rates = (RateChange("repeats itself", "less", wilson(2, 2), wilson(1, 2), 0, 1, p_value=1.0, p_holm=1.0),)
    flip = Flip(text, 3, text, (text, "other"), 0, 1, 0, (-1.0, -2.0), (-2.0, -1.0))
    run: dict[str, Any] = {
        "recipe_name": text,
        "base_name": text,
        "comparison": replace(compare(before, after), rates=rates),
        "flips": (TaskFlips(text, "acc", "raw", 0, 7, 0, (flip,), ()),),
        "before": before,
        "after": after,
        "ledger": {"sources": [source], "expected_total": None},
        "metrics": [
            {
                "step": step,
                "loss": 3 - step / 10,
                "grad_norm": 1.0,
                "health": {"rows": {text: {text: {"norm_ratio": 1}}}},
            }
            for step in range(1, 6)
        ],
        "events": [
            *({"step": step, "kind": "held_out", "loss": 3.0, "sources": {text: 3.5}} for step in (2, 4)),
            {"step": 3, "kind": "alarm", "name": "spike", "message": text},
        ],
        "check": {"verdict": text, "nats_per_token": 3.7, "uniform": 10.8, "unigram": 7.4, text: text},
        "provenance": {"seed": 1, "versions": {text: text, "torch": "2.13.0"}, "seconds": {"train": 65.0}},
    }
    return RunResults(**(run | changes))


def written(folder: Path, run: RunResults) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    write_report(folder, run)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("plain"), results())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("hostile"), results(HOSTILE))


def test_three_files_and_nothing_else(plain: dict[str, str]) -> None:
    assert sorted(plain) == ["report.html", "report.json", "report.md"]


def test_equal_input_gives_equal_files(plain: dict[str, str], tmp_path: Path) -> None:
    assert written(tmp_path / "again", results()) == plain


def test_the_verdict_comes_first_and_the_sections_in_order(plain: dict[str, str]) -> None:
    both = [
        "Benchmarks", "Benchmarks, asked in a chat", "Forgetting", "Held-out loss", "Does it end its turn?",
        "Checks of the chat answers", "Training",
    ]  # fmt: skip
    page = plain["report.html"]
    assert re.findall(r"<h2>(.*)</h2>", page) == [
        *both[:6], "Sample conversations", "Training", "Mixture", "Check of the base model", "How to read this",
        "Provenance",
    ]  # fmt: skip
    assert page.index('class="headline"') < page.index("<h2>")
    text = plain["report.md"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == both
    assert text.index(json.loads(plain["report.json"])["headline"]) < text.index("## ")


def test_raw_and_chat_scores_share_no_table_and_no_plot(tmp_path: Path) -> None:
    items = [1.0, 0.0] * 10
    tasks = (task_record(items, task="on_paper"), task_record(items, task="spoken", surface="chat"))
    record = eval_record(tasks=tasks)
    files = written(tmp_path, results(comparison=compare(record, record), before=record, after=record))
    for part in re.findall(r"<table.*?</table>|<svg class=.figure.*?</svg>", files["report.html"], re.DOTALL):
        assert not ("on_paper" in part and "spoken" in part)
    assert len(re.findall(r'<title id="tasks-(raw|chat)-title">', files["report.html"])) == 2
    for block in files["report.md"].split("\n\n"):
        assert not (block.startswith("|") and "on_paper" in block and "spoken" in block)


def test_benchmarks_that_mean_little_in_a_chat_are_named_there(tmp_path: Path) -> None:
    items = [1.0, 0.0] * 10
    names = (("winogrande", "raw"), ("piqa", "chat"), ("winogrande", "chat"))
    record = eval_record(tasks=tuple(task_record(items, task=task, surface=surface) for task, surface in names))
    run = results(comparison=compare(record, record), before=record, after=record)
    for text in (written(tmp_path, run)[name] for name in ("report.html", "report.md")):
        assert text.count("winogrande: to go on with a user") == 1


def test_the_page_needs_nothing_from_outside(plain: dict[str, str]) -> None:
    page = Page(plain["report.html"])
    assert page.open == []
    assert not FOREIGN & set(page.tags)
    # names of XML vocabularies are no addresses to fetch
    links = [value for name, value in page.attributes if value and "//" in value and not name.startswith("xmlns")]
    assert links == []
    assert "url(http" not in plain["report.html"]


def test_hostile_text_is_shown_and_never_markup_in_html(plain: dict[str, str], hostile: dict[str, str]) -> None:
    page, harmless = Page(hostile["report.html"]), Page(plain["report.html"])
    assert set(page.tags) == set(harmless.tags)
    assert Counter(page.tags) - SVG == Counter(harmless.tags) - SVG
    assert {name for name, _ in page.attributes} == {name for name, _ in harmless.attributes}
    # prompts, answers and reasoning: three in the sample, three among all answers; more in tables and beside plots
    assert sum(text == SHOWN for text in page.texts) >= 8
    assert "\x1b" not in hostile["report.html"]


def markdown_shape(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert not any(
        child.type in ("html_inline", "link_open", "image") for token in tokens for child in token.children or []
    )
    html = [line for token in tokens if token.type == "html_block" for line in token.content.splitlines()]
    assert {line.split(">")[0].lstrip("</") for line in html} == {"details", "summary"}
    return [token.type for token in tokens]


def test_hostile_text_is_shown_and_never_markup_in_markdown(plain: dict[str, str], hostile: dict[str, str]) -> None:
    assert markdown_shape(hostile["report.md"]) == markdown_shape(plain["report.md"])
    assert "\x1b" not in hostile["report.md"]


def test_markdown_tables_are_well_formed(plain: dict[str, str]) -> None:
    blocks = [block.splitlines() for block in plain["report.md"].split("\n\n") if block.startswith("|")]
    assert markdown_shape(plain["report.md"]).count("table_open") == len(blocks) > 10
    for lines in blocks:
        assert len({line.count("|") for line in lines}) == 1


def test_the_markdown_is_a_comment_and_not_a_book(tmp_path: Path) -> None:
    """Of a run with thirty prompts, long answers and a recipe of many lines."""
    answers = tuple(chat_answer(str(number), answer="word\n" * 50, sample=True) for number in range(30))
    record = eval_record(chat=answers)
    recipe = {"recipe": {"as it was run": "line\n" * 200}}
    run = results(comparison=compare(record, record), before=record, after=record, provenance=recipe)
    text = written(tmp_path, run)["report.md"]
    shown = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert len(shown.splitlines()) < 60
    assert len(text.splitlines()) < 120


def test_the_json_has_the_numbers(plain: dict[str, str]) -> None:
    values = json.loads(plain["report.json"])
    assert values["comparison"]["held_out_total"]["difference"] == pytest.approx(-0.4)
    assert values["comparison"]["stop"]["after"]["count"] == 2
    assert values["training_loss"][0] == {"step": 1, "loss": 2.9}
    assert values["held_out_during_training"][0]["sources"] == {"plain\ntext": 3.5}
    assert values["alarms"][0]["name"] == "spike"


def test_an_answer_without_text_says_so(plain: dict[str, str]) -> None:
    assert "(no text)" in plain["report.html"]


def test_an_instruction_stands_beside_its_answers_with_whether_they_obeyed(tmp_path: Path) -> None:
    rules = ({"kind": "most_words", "count": 3},)
    before = eval_record(chat=(chat_answer("short", answer="one two three four", rules=rules),))
    after = eval_record(chat=(chat_answer("short", answer="one two", rules=rules),))
    page = written(tmp_path, results(comparison=compare(before, after), before=before, after=after))["report.html"]
    assert "To be verified: most words: 3</p>" in page
    sides = re.findall(r"<h4>(Before|After).*?</h4>", page)
    assert sides == ["Before", "After"]
    assert re.search(r"<h4>Before [^\n]*did not obey", page)
    assert re.search(r"<h4>After [^\n]*, obeyed</span>", page)
    assert "<h3>Demands that a program can verify</h3>" in page


def test_text_of_several_lines_in_the_provenance_keeps_its_lines(tmp_path: Path) -> None:
    recipe = "name: quick\nseed: 0\n"
    files = written(tmp_path, results(provenance={"recipe": {"as it was run": recipe}}))
    assert f"<pre>{recipe}</pre>" in files["report.html"]


def test_a_run_that_measured_little_gives_a_short_report(tmp_path: Path) -> None:
    record = eval_record()
    nothing = compare(record, record)
    run = results(comparison=nothing, before=record, after=record, metrics=[], events=[], provenance={})
    files = written(tmp_path, run)
    assert "Nothing was measured before and after." in files["report.html"]
    assert "Benchmarks</h2>" not in files["report.html"]
    assert "Provenance" not in files["report.md"]
    assert "Training</h2>" not in files["report.html"]


def test_nothing_is_written_where_the_content_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_report(tmp_path, results(ledger={}))
    assert list(tmp_path.iterdir()) == []


def test_skipped_steps_stand_beside_the_loss(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 3.0, "skipped": False} for step in (1, 2)]
    skipped = [{"step": 3, "loss": float("nan"), "skipped": True}, {"step": 4, "loss": None, "skipped": True}]
    files = written(tmp_path, results(metrics=rows + skipped))
    sentence = "2 of 4 training steps were skipped (the first: step 3)"
    assert files["report.html"].index(sentence, files["report.html"].index("<h2>Training</h2>"))
    assert files["report.md"].split("## Training")[1].startswith("\n\n2 of 4 training steps were skipped")
    values = json.loads(files["report.json"], parse_constant=pytest.fail)
    assert values["training_loss"][2:] == [{"step": step, "loss": None, "skipped": True} for step in (3, 4)]
    assert values["findings"][0]["subject"] == "training"
