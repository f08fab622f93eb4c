from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from genesis_sft.report.compare import compare
from genesis_sft.report.page import write_report
from tests.report.records import chat_answer, eval_record, held_out_record, task_record
from tests.report.test_tables import LEDGER

HOSTILE = (
    "</p></details><script>alert(1)</script> <img src=x onerror=alert(2)> | cell | \x1b[31mred\n"
    "```\n</details>\n# heading\n| a | b |\n|---|---|\n[link](javascript:x) &amp; `code` $body ${title}\u202e"
)
SHOWN = HOSTILE.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩")

FOREIGN = {"script", "iframe", "object", "embed", "link", "base", "form", "img", "a"}
# a plot has as many ticks and lines as its names leave room for
SVG = Counter(dict.fromkeys(("g", "use", "text", "path", "rect"), 10_000))


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


def arguments(text: str = "plain\ntext", **changes: Any) -> dict[str, Any]:
    """A small run; ``text`` stands wherever text comes from outside."""
    items = [1.0, 0.0] * 10
    before = eval_record(
        tasks=(task_record(items, task=text), task_record([-3.0, -4.0], metric="perplexity")),
        held_out=(held_out_record(text, [20.0, 60.0], [10, 30]),),
        chat=(
            chat_answer(text, messages=({"role": text, "content": text},), answer=text, ended=False, sample=True),
            chat_answer("second", answer=""),
        ),
    )
    after = eval_record(
        tasks=(task_record(items, task=text), task_record([-2.0, -4.0], metric="perplexity")),
        held_out=(held_out_record(text, [10.0, 54.0], [10, 30]),),
        chat=(
            chat_answer(text, messages=({"role": text, "content": text},), answer=text, reasoning=text, sample=True),
            chat_answer("second"),
        ),
    )
    source = {**LEDGER["sources"][0], "name": text, "licence": text, "origin": text, "rejected": {text: 5}}
    run: dict[str, Any] = {
        "recipe_name": text,
        "base_name": text,
        "comparison": compare(before, after),
        "before": before,
        "after": after,
        "ledger": {"sources": [source], "expected_total": None},
        "metrics": [{"step": step, "loss": 3 - step / 10} for step in range(1, 6)],
        "check": {"verdict": text, "nats_per_token": 3.7, "uniform": 10.8, "unigram": 7.4, text: text},
        "provenance": {"seed": 1, "versions": {text: text, "torch": "2.13.0"}, "seconds": {"train": 65.0}},
    }
    return run | changes


def written(folder: Path, **run: Any) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    write_report(folder, **run)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("plain"), **arguments())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("hostile"), **arguments(HOSTILE))


def test_three_files_and_nothing_else(plain: dict[str, str]) -> None:
    assert sorted(plain) == ["report.html", "report.json", "report.md"]


def test_equal_input_gives_equal_files(plain: dict[str, str], tmp_path: Path) -> None:
    assert written(tmp_path / "again", **arguments()) == plain


def test_the_verdict_comes_first_and_the_sections_in_order(plain: dict[str, str]) -> None:
    sections = [
        "Benchmarks", "Held-out loss", "Does it end its turn?", "Sample conversations", "Mixture",
        "Check of the base model", "How to read this", "Provenance",
    ]  # fmt: skip
    for name, before, after in (("report.html", "<h2>", "</h2>"), ("report.md", "\n## ", "\n")):
        text = plain[name]
        places = [text.index("Of 4 measurements:"), *(text.index(before + title + after) for title in sections)]
        assert places == sorted(places), name


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
    # prompts, answers and reasoning: three in the sample, three among all answers; more in tables
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
    blocks = [token.content for token in MarkdownIt().parse(hostile["report.md"]) if token.type == "fence"]
    assert blocks.count(f"{SHOWN}\n") == 9  # twice prompt, both answers and reasoning; provenance
    assert "\x1b" not in hostile["report.md"]


def test_markdown_tables_are_well_formed(plain: dict[str, str]) -> None:
    assert markdown_shape(plain["report.md"]).count("table_open") == 11
    blocks = [block.splitlines() for block in plain["report.md"].split("\n\n") if block.startswith("|")]
    assert len(blocks) == 11
    for lines in blocks:
        assert len({line.count("|") for line in lines}) == 1


def test_the_json_has_the_numbers(plain: dict[str, str]) -> None:
    values = json.loads(plain["report.json"])
    assert values["comparison"]["held_out_total"]["difference"] == pytest.approx(-0.4)
    assert values["comparison"]["stop"]["after"]["count"] == 2
    assert values["training_loss"][0] == {"step": 1, "loss": 2.9}
    assert [finding["kind"] for finding in values["findings"]].count("note") == 1


def test_an_answer_without_text_says_so(plain: dict[str, str]) -> None:
    assert "(no text)" in plain["report.html"]
    assert "(no text)" in plain["report.md"]


def test_text_of_several_lines_in_the_provenance_keeps_its_lines(tmp_path: Path) -> None:
    recipe = "name: quick\nseed: 0\n"
    files = written(tmp_path, **arguments(provenance={"recipe": {"as it was run": recipe}}))
    assert f"<pre>{recipe}</pre>" in files["report.html"]
    assert f"```text\n{recipe.rstrip()}" in files["report.md"]


def test_a_run_that_measured_little_gives_a_short_report(tmp_path: Path) -> None:
    record = eval_record()
    files = written(
        tmp_path,
        **arguments(comparison=compare(record, record), before=record, after=record, metrics=[], provenance={}),
    )
    assert "Nothing was measured before and after." in files["report.html"]
    assert "Benchmarks</h2>" not in files["report.html"]
    assert "Provenance" not in files["report.md"]


def test_nothing_is_written_where_the_content_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_report(tmp_path, **arguments(ledger={}))
    assert list(tmp_path.iterdir()) == []


def test_skipped_steps_stand_beside_the_loss(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 3.0, "skipped": False} for step in (1, 2)]
    skipped = [{"step": 3, "loss": float("nan"), "skipped": True}, {"step": 4, "loss": None, "skipped": True}]
    files = written(tmp_path, **arguments(metrics=rows + skipped))
    sentence = "2 of 4 training steps were skipped (the first: step 3)"
    assert files["report.html"].index(sentence, files["report.html"].index("<h2>Training loss</h2>"))
    assert files["report.md"].split("## Training loss")[1].startswith("\n\n2 of 4 training steps were skipped")
    values = json.loads(files["report.json"], parse_constant=pytest.fail)
    assert values["training_loss"][2:] == [{"step": step, "loss": None, "skipped": True} for step in (3, 4)]
    assert values["findings"][0]["subject"] == "training"
