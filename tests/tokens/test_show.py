"""`data show`: every token and whether it is trained on, for people and as JSON lines."""

import json

import pytest

from genesis_sft.errors import DataError, InputError, ModelError
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.show import load_tokenizer, show_file
from tests.tokens.helpers import talk, with_control_tokens

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
