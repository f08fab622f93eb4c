"""The data card: numbers, settings and no more than may be told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from genesis_sft.recipe import SynthesisRecipe
from genesis_sft.report.synthesis_plots import plot_card
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Answer, Request
from genesis_sft.synthesis.output.card_parts import FEWEST, diversity_page
from genesis_sft.synthesis.output.files import write_output
from genesis_sft.synthesis.screening.diversity import diversity
from genesis_sft.synthesis.store.job_store import JobStore
from tests.synthesis.screened import candidate, talk
from tests.synthesis.test_output import FRAMEWORK, PRICE, fill, recipe_of, refusing


def make(folder: Path, recipe: SynthesisRecipe | None = None, reply: Any = refusing) -> tuple[dict[str, Any], str]:
    recipe = recipe or recipe_of()
    with JobStore.open(folder / "requests.sqlite", budget=None) as store:
        fill(store, range(12), reply)
        write_output(folder, Chain(FRAMEWORK, recipe.synthesis), store, recipe, FRAMEWORK, PRICE)
    return json.loads((folder / "card.json").read_text()), (folder / "card.md").read_text(encoding="utf-8")


def test_counts_add_up_and_stand_on_the_page(tmp_path: Path) -> None:
    card, page = make(tmp_path)
    counts = card["conversations"]
    assert counts["kept"] + sum(counts["rejected"].values()) == counts["finished"]
    assert counts["finished"] + sum(counts["ended"].values()) + counts["unfinished"] == counts["planned"] == 12
    assert card["models"] == {"writer-1": counts["kept"]}
    assert sum(sum(area.values()) for area in card["main_principles"].values()) == counts["kept"]
    assert card["coverage"]["num_scenarios"] == counts["kept"]
    assert card["diversity"]["conversations"] == counts["kept"]
    assert page.startswith("# Data card")
    for text in ("10 conversations", "| writer-1 | 10 |", "rejected: leaked instructions | 1", FRAMEWORK.hash[:16],
                 "came to no conversation: refused by the provider | 1", "input $1, output $5"):  # fmt: skip
        assert text in page


def test_what_was_not_kept_was_paid_for_as_well(tmp_path: Path) -> None:
    cost = make(tmp_path)[0]["cost"]
    assert 0 < cost["kept_usd"] < cost["spent_usd"]
    assert cost["maybe_spent_usd"] == 0


def test_folders_addresses_and_names_of_keys_stay_out(tmp_path: Path) -> None:
    recipe = recipe_of()
    provider = recipe.synthesis.provider.model_copy(
        update={"base_url": "http://10.9.8.7:1234/v1", "key_from": "MY_SECRET_NAME", "api": "openai"}
    )
    section = recipe.synthesis.model_copy(update={"provider": provider, "out": str(tmp_path)})
    make(tmp_path, recipe.model_copy(update={"synthesis": section}))
    for name in ("card.json", "card.md", "conversations.jsonl", "rejected.jsonl"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert not [told for told in ("10.9.8.7", "MY_SECRET_NAME", str(tmp_path)) if told in text]


def test_a_models_name_cannot_break_the_page(tmp_path: Path) -> None:
    def named(request: Request) -> Answer:
        found = refusing(request)
        return Answer(found.text, found.stop, found.usage, "a|b\n# <script>\x1b[31m")

    page = make(tmp_path, reply=named)[1]
    assert "| a\\|b # &lt;script>␛[31m | 10 |" in page


def test_the_page_tells_shares_only_of_enough_conversations() -> None:
    """Of 49 conversations lengths alone; of 50 all."""
    few, enough = (
        "\n".join(diversity_page(diversity(candidate(n, talk(f"why {n}?", f"so it is {n}")) for n in range(count))))
        for count in (FEWEST - 1, FEWEST)
    )
    for word in ("distinct-1", "5 %", "opening", "Jaccard"):
        assert (word in few, word in enough) == (False, True)
    assert "| words of a message, median | 2 | 4 |" in few
    assert "| words of a message: 5 % are below - median - 5 % are above | 2 - 2 - 2 | 4 - 4 - 4 |" in enough
    assert "told of 50 conversations and more" in few


def test_the_page_speaks_of_batches_only_where_there_were_some(tmp_path: Path) -> None:
    recipe, pages = recipe_of(), []
    for batches in (False, True):
        provider = recipe.synthesis.provider.model_copy(update={"api": "anthropic", "batches": batches})
        section = recipe.synthesis.model_copy(update={"provider": provider})
        pages.append(make(tmp_path / str(batches), recipe.model_copy(update={"synthesis": section}))[1])
    without, with_batches = pages
    assert "in batches" not in without
    assert "batches no" in without
    assert "in batches 100% of these prices" in with_batches
    assert "batches yes" in with_batches
    assert not re.search(r"\b(True|False)\b", without)


def test_nothing_of_the_picture_lies_outside_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels as long as those of a real set; matplotlib cuts off what does not fit without saying so."""
    drawn: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(FigureCanvasSVG, "print_svg", lambda canvas, *_, **__: drawn.append(canvas.figure))
        plot_card(make(tmp_path)[0], tmp_path / "card.svg")
    (figure,) = drawn
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in (axes.xaxis.label, axes.title, axes._left_title)]  # type: ignore[attr-defined]
    assert figure._suptitle is not None  # type: ignore[attr-defined]
    edge = 0.08 * figure.dpi
    for text in [*texts, figure._suptitle]:  # type: ignore[attr-defined]
        box = text.get_window_extent()
        assert not text.get_text() or (
            edge < box.x0 and box.x1 < figure.bbox.width and edge < box.y0 and box.y1 < figure.bbox.height - edge
        ), text.get_text()
