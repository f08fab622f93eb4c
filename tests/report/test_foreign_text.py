from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from genesis_sft.console import visible
from genesis_sft.report.foreign_text import for_html, for_markdown_block, for_markdown_line

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("a\x00b\x7f", "a␀b␡"),
        ("\u202etxt.exe", "⟨U+202E⟩txt.exe"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("Grüße, 你好, 😀", "Grüße, 你好, 😀"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_html_is_escaped() -> None:
    assert for_html("<script>\"x\" & 'y'</script>") == "&lt;script&gt;&quot;x&quot; &amp; &#x27;y&#x27;&lt;/script&gt;"


def test_a_name_stays_readable_in_markdown() -> None:
    assert for_markdown_line("arc_challenge (acc_norm), smol-magpie-ultra") == (
        "arc_challenge (acc_norm), smol-magpie-ultra"
    )


def test_a_line_cannot_leave_its_table_cell() -> None:
    assert for_markdown_line("a | b\nc") == r"a \| b c"


def test_a_fence_is_longer_than_any_run_of_backticks() -> None:
    assert for_markdown_block("x\n````\ny") == "`````text\nx\n````\ny\n`````"


@given(st.text(alphabet=st.sampled_from(list("`~<>[]()!*_#&;\\| \nab:/.$w@-+=\"'")), max_size=60))
def test_no_text_becomes_markup_in_a_line(text: str) -> None:
    # as in a cell or sentence: never at the beginning of a line
    tokens = MARKDOWN.parse(f"x {for_markdown_line(text)}")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or []} <= {"text"}


@given(st.text(alphabet=st.sampled_from(list("`~<> \nab")), max_size=60))
def test_no_text_ends_its_block(text: str) -> None:
    [fence] = MARKDOWN.parse(for_markdown_block(text))
    assert (fence.type, fence.content) == ("fence", f"{visible(text)}\n")
