"""The data card: numbers, settings and no more than may be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genesis_sft.recipe import SynthesisRecipe
from genesis_sft.report.synthesis_plots import plot_card
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Answer, Request
from genesis_sft.synthesis.output.card import MARKDOWN_HEAD
from genesis_sft.synthesis.output.files import write_output
from genesis_sft.synthesis.output.own_output import require_own_output
from genesis_sft.synthesis.store.job_store import JobStore
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
    assert page.startswith(MARKDOWN_HEAD)
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
        return Answer(found.text, found.stop, found.usage, "a|b\n# <script>")

    page = make(tmp_path, reply=named)[1]
    assert "| a\\|b # &lt;script> | 10 |" in page


def test_a_plot_of_the_card_is_known_as_ones_own(tmp_path: Path) -> None:
    card, _ = make(tmp_path)
    plot_card(card, tmp_path / "card.svg")
    require_own_output(tmp_path)
