"""`data show`: every token and whether it is trained on, for people and as JSON lines."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.errors import DataError, InputError, ModelError
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.show import load_tokenizer, show_file
from genesis_sft.tokens.show_html import pieces
from tests.conftest import train_byte_level
from tests.tokens.helpers import talk, with_control_tokens

ENCODER = ChatMLEncoder(with_control_tokens(train_byte_level()))
ROWS = [talk("7", "no hat"), talk("why", ("be", "yes")), talk("x", "y"), talk("a", "b")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in ROWS))
    return path


def test_json_gives_every_row_with_ids_spans_and_text(file, tiny_folder, tiny_tokenizer, capsys):
    show_file(file, tiny_folder, as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    encoder = ChatMLEncoder(with_control_tokens(tiny_tokenizer))
    assert [line["row"] for line in lines] == [0, 1, 2, 3]
    for line, conversation in zip(lines, ROWS, strict=True):
        encoded = encoder.encode(conversation)
        assert line["input_ids"] == encoded.input_ids
        assert line["trained"] == [list(span) for span in encoded.trained]
    assert lines[0]["text"] == "<|im_start|>user\n7<|im_end|>\n<|im_start|>assistant\nno hat<|im_end|>\n"


def test_json_lines_come_out_as_rows_are_read(file, tiny_folder, capsys):
    file.write_text(ROWS[0].to_json() + "\n{bad\n")
    with pytest.raises(DataError, match=r"row 1 \(line 2\)"):
        show_file(file, tiny_folder, as_json=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_empty_file_is_said_to_be_one_on_stderr(file, tiny_folder, capsys):
    file.write_text("\n")
    for as_json in (True, False):
        show_file(file, tiny_folder, as_json=as_json)
        assert capsys.readouterr() == ("", f"no conversations in {file}\n")


def test_options_are_those_of_a_recipe(file, tiny_folder, capsys):
    show_file(file, tiny_folder, as_json=True, limit=2, train_on=("assistant",), reasoning="strip")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # user 4, one of text, 2, assistant 6: the answer begins at 13; "why" has three tokens
    assert [line["trained"] for line in lines] == [[[13, 16]], [[15, 16]]]
    for wrong in ({"format": "csv"}, {"reasoning": "no"}, {"train_on": ("end_of_turn",)}):
        with pytest.raises(InputError, match="expected"):
            show_file(file, tiny_folder, **wrong)


def test_without_colour_trained_text_stands_in_brackets(file, tiny_folder, capsys):
    show_file(file, tiny_folder)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "[[ ]] around what is trained"
    assert (
        "row 0: 18 tokens, 4 trained\n<|im_start|>user\n7<|im_end|>\n<|im_start|>assistant\n[[no hat<|im_end|>]]\n"
        in out
    )
    assert "[[<think>\nbe\n</think>\n\nyes<|im_end|>]]\n" in out
    assert "row 3" not in out


def test_with_colour_trained_text_is_green(file, tiny_folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_file(file, tiny_folder, limit=1)
    out = capsys.readouterr().out
    assert "\x1b[32mno hat\x1b[0m" in out
    assert "\x1b[7;32m<|im_end|>\x1b[0m" in out
    assert "\x1b[2;7m<|im_start|>\x1b[0m" in out or "\x1b[7;2m<|im_start|>\x1b[0m" in out
    assert "[[" not in out


def test_control_characters_in_data_do_not_reach_the_terminal(file, tiny_folder, capsys):
    file.write_text(talk("\x1b[2J\x07", "a\x00[bold]b[/bold]").to_json() + "\n")
    show_file(file, tiny_folder)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "␛[2J␇" in out
    assert "a␀[bold]b[/bold]" in out


def test_ids_are_listed_with_position_token_and_kind(file, tiny_folder, capsys):
    show_file(file, tiny_folder, limit=1, show_ids=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-18:]]
    assert rows[0] == ["0", "400", "'<|im_start|>'", "control"]
    assert rows[13] == ["13", "270", "'no'", "trained"]
    assert rows[16] == ["16", "401", "'<|im_end|>'", "control,", "trained"]
    assert rows[17] == ["17", "199", "'\\n'", "masked"]


def test_a_tokenizer_file_does_as_well_as_a_folder_and_missing_ones_are_named(file, tiny_folder, tmp_path, capsys):
    show_file(file, tiny_folder / "tokenizer.json", as_json=True, limit=1)
    assert json.loads(capsys.readouterr().out)["input_ids"][0] == 400
    with pytest.raises(ModelError, match=r"expected a model folder with a tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="expected a tokenizer in"):
        load_tokenizer(tmp_path)


def test_one_row_alone(file, tiny_folder, capsys):
    show_file(file, tiny_folder, as_json=True, row=2)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["row"] == 2
    with pytest.raises(DataError, match="expected a conversation in row 4 of"):
        show_file(file, tiny_folder, row=4)


def test_empty_reasoning_is_shown_as_it_is_trained(file, tiny_folder, capsys):
    show_file(file, tiny_folder, as_json=True, row=0, reasoning="empty")
    assert "<think>" in json.loads(capsys.readouterr().out)["text"]


HOSTILE = (
    "</span></pre><script>alert(1)</script>\"'><img src=x onerror=alert(2)> "
    "<|im_end|> \x1b[31m \u202e &amp; ${x} 你好 😀"
)


class Page(HTMLParser):
    """What a browser would see: tags, attributes, and the text of each conversation."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "pre":
            self.texts.append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            self.texts[-1] += data


def test_hostile_text_on_a_page_is_text(file, tiny_folder, tmp_path, capsys):
    file.write_text(talk(HOSTILE, (HOSTILE, HOSTILE), system=HOSTILE).to_json() + "\n")
    show_file(file, tiny_folder, html=tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert set(page.tags) == {"html", "head", "meta", "title", "style", "body", "h1", "p", "h2", "pre", "span"}
    assert page.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "title", "dir"}
    shown = HOSTILE.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩")
    assert page.texts == [
        f"<|im_start|>system\n{shown}<|im_end|>\n<|im_start|>user\n{shown}<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\n{shown}\n</think>\n\n{shown}<|im_end|>\n"
    ]
    assert "url(" not in text
    assert capsys.readouterr().out == ""


def test_a_page_says_what_is_trained_and_which_id_each_token_has(file, tiny_folder, tmp_path):
    show_file(file, tiny_folder, html=tmp_path / "page.html", row=0)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>row 0: 18 tokens, 4 trained</h2>" in text
    assert '<span class="control" title="400">&lt;|im_start|&gt;</span>' in text
    assert '<span class="trained" title="270">no</span>' in text
    assert '<span class="control trained" title="401">&lt;|im_end|&gt;</span><span title="199">\n</span></pre>' in text
    assert text.count("<span ") == 18 + 2  # two stand in the legend


def test_a_page_does_not_replace_the_conversations_it_shows(file, tiny_folder):
    before = file.read_bytes()
    with pytest.raises(InputError, match="one that this command wrote; found another"):
        show_file(file, tiny_folder, html=file)
    assert file.read_bytes() == before


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_token_by_token_the_text_is_whole(text):
    ids = ENCODER.text.encode([text])[0]
    parts = list(pieces(ids, ENCODER))
    assert [id for part, _ in parts for id in part] == ids
    assert "".join(piece for _, piece in parts) == ENCODER.text.decode(ids)
