"""`genesis-sft data ledger`, `show` and `stats`, as a user calls them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner

from genesis_sft.cli.data import data_app
from genesis_sft.errors import DataError, InputError, ModelError


def call(*arguments):
    """Standard output of a command; errors are raised."""
    result = CliRunner().invoke(data_app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(prepared):
    return prepared.path.parent


def test_the_ledger_in_tables_and_as_it_is_stored(run):
    shown = call("ledger", run, "--verify")
    lines = [line.split("  ") for line in shown.splitlines()]
    assert [cell.strip() for cell in lines[0] if cell] == [
        "Source", "Rows read", "Rejected", "Duplicates", "Held out", "Kept",
    ]  # fmt: skip
    assert "Every row is accounted for: 51 rows read = 7 rejected + 8 duplicates + " in shown
    assert "talks   ends with user     6" in shown
    assert "examples = " in shown
    assert shown == call("ledger", run / "data")
    assert json.loads(call("ledger", run, "--json")) == json.loads((run / "data" / "ledger.json").read_text())


def test_a_folder_without_data_is_refused(tmp_path):
    for command in ("ledger", "stats", "show"):
        with pytest.raises(DataError, match="expected a mixture of tokens"):
            call(command, tmp_path)


def test_stats_in_a_table_with_a_histogram_and_a_plot(run, tmp_path):
    shown = call("stats", run, "--plot", tmp_path / "lengths.svg")
    assert shown.splitlines()[0].startswith("Source ")
    assert "At 110" in shown
    assert "lengths, 0 to 110 tokens" in shown
    bars = [line for line in shown.splitlines() if line.endswith("|")]
    assert [len(line) for line in bars] == [len("talks") + 2 + 40 + 1] * 2
    assert "█" in bars[0]
    svg = (tmp_path / "lengths.svg").read_text()
    assert "talks: " in svg
    assert "% of the tokens trained" in svg
    again = json.loads(call("stats", run, "--plot", tmp_path / "again.svg", "--json"))
    assert (tmp_path / "again.svg").read_text() == svg
    assert again["total"]["examples"] == sum(one["examples"] for one in again["sources"].values())
    call("stats", run, "--plot", tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"ends in \.svg or \.png"):
        call("stats", run, "--plot", tmp_path / "lengths.pdf")


def test_examples_are_shown_from_their_stored_ids_with_the_base_of_the_run(run, prepared):
    lines = [json.loads(line) for line in call("show", run, "--json").splitlines()]
    assert len(lines) == len(prepared.train)
    assert lines[0].keys() == {"source", "row", "input_ids", "trained", "text"}
    assert lines[0]["input_ids"] == prepared.train.input_ids(0).tolist()
    assert lines[0]["text"].startswith("<|im_start|>user\n0 and 0? <|im_end|><|im_end|>\n<|im_start|>assistant\n")
    (line,) = call("show", run, "--json", "--source", "more").splitlines()
    assert json.loads(line)["row"] == 9
    assert [json.loads(line)["row"] for line in call("show", run, "--json", "--row", 5).splitlines()][:1] == [5]
    shown = call("show", run / "data", "--limit", 2, "--tokenizer", run / "base" / "model")
    assert shown.count("talks, row ") == 2
    assert shown.startswith("[[ ]] around what is trained")


def test_a_tokenizer_of_another_model_is_refused(run, tiny_folder, prepared, tmp_path):
    (tmp_path / "data").symlink_to(run / "data")
    with pytest.raises(InputError, match="expected --tokenizer MODEL"):
        call("show", tmp_path)
    # without the control tokens of the base it numbers them anew
    file = json.loads((tiny_folder / "tokenizer.json").read_text())
    file["added_tokens"].append({**file["added_tokens"][0], "id": 400, "content": "<other>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(ModelError, match="the tokenizer that the data was prepared with, which has"):
        call("show", tmp_path, "--tokenizer", tmp_path / "tokenizer.json")


def test_options_that_do_not_go_together(run, files, tmp_path):
    for arguments, words in (
        (("show", run, "--format", "alpaca"), "without --format"),
        (("show", files["more"], "--source", "a", "--tokenizer", run), "--source with prepared data"),
        (("show", files["more"]), "expected --tokenizer"),
        (("show", run, "--json", "--html", tmp_path / "x.html"), "found both"),
    ):
        with pytest.raises(InputError, match=words):
            call(*arguments)


class Page(HTMLParser):
    """Collects tags, spans with their class and title, and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.spans, self.open = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "span":
            fields = dict(attrs)
            self.spans.append([fields.get("class", ""), fields.get("title", ""), ""])
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.spans[-1][2] += data


def test_a_page_of_prepared_data(run, prepared, tmp_path):
    shown = call("show", run, "--html", tmp_path / "page.html", "--limit", 3)
    assert shown == f"page: {tmp_path / 'page.html'}\n"
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.tags == {"html", "head", "meta", "title", "style", "body", "h1", "p", "h2", "pre", "span"}
    tokens = [span for span in page.spans if span[1]]
    ids = [int(id) for span in tokens for id in span[1].split()]
    table = prepared.train
    assert ids == [id for index in range(3) for id in table.input_ids(index).tolist()]
    trained = sum(len(span[1].split()) for span in tokens if "trained" in span[0])
    assert trained == sum(table.num_trained(index) for index in range(3))
    assert ["control", str(ids[0]), "<|im_start|>"] in tokens
    assert ["control trained", str(prepared.ledger.settings["im_end_id"]), "<|im_end|>"] in tokens
    # the parts of a character of several bytes come together
    assert any("😀" in span[2] and len(span[1].split()) >= 1 for span in tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in span[2] for span in tokens)


@pytest.mark.parametrize("name", ["rows.jsonl", "page.html", "picture.svg", "picture.png"])
def test_a_file_that_is_no_page_and_no_plot_is_not_overwritten(run, tmp_path, name):
    path = tmp_path / name
    path.write_text("<!DOCTYPE html>\nmine: genesis-sft data show, genesis-sft data stats")
    before = path.read_bytes()
    for arguments in (("show", run, "--html", path), ("stats", run, "--plot", path)):
        with pytest.raises(InputError, match="one that this command wrote; found another"):
            call(*arguments)
        assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pages_and_plots_of_the_program_are_written_anew(run, tmp_path):
    for arguments in (
        ("show", run, "--html", tmp_path / "page.html"),
        ("stats", run, "--plot", tmp_path / "plot.svg"),
        ("stats", run, "--plot", tmp_path / "plot.png"),
    ):
        call(*arguments)
        written = arguments[-1].read_bytes()
        arguments[-1].write_bytes(written[:1000])
        call(*arguments)
        assert arguments[-1].read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "plot.png", "plot.svg"]
    ElementTree.parse(tmp_path / "plot.svg")
    with Image.open(tmp_path / "plot.png") as picture:
        picture.load()
        assert picture.text["Comment"] == "genesis-sft data stats"
    for arguments in (("show", run, "--html", tmp_path), ("stats", run, "--plot", tmp_path)):
        with pytest.raises(InputError, match="found another"):
            call(*arguments)
    with pytest.raises(InputError, match="expected a folder"):
        call("show", run, "--html", tmp_path / "none" / "page.html")
