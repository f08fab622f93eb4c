"""What a recipe's reader gets: conversations, rejects and a data card, written from the store.

::

    plan, store ──> replay ──> rows on disk ──> screen ──> conversations.jsonl, rejected.jsonl ──> card.json, card.md

The files depend on recipe, framework and stored answers alone, never on the clock or on the order in which answers
came: a run that was killed and resumed writes the same bytes as one that was not. The card has one number that tells
what happened, ``maybe_spent_usd``: where requests were lost on the way, it differs.

They always show the whole plan of the recipe. A run of its first 20 conversations leaves the other finished ones where
they are.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from genesis_sft.conversations.contamination import Question
from genesis_sft.recipe import SynthesisRecipe
from genesis_sft.run_dir import write_json, write_text
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.asking.request import Usage
from genesis_sft.synthesis.output.card import Counts, card_markdown, make_card
from genesis_sft.synthesis.output.card_parts import diversity_lines
from genesis_sft.synthesis.output.own_output import (
    CARD,
    CARD_PAGE,
    CARD_PLOT,
    CONVERSATIONS,
    REJECTED,
    OwnOutput,
    require_own_output,
    require_own_steps,
)
from genesis_sft.synthesis.output.rows import Kept, Rows
from genesis_sft.synthesis.planning.coverage import coverage
from genesis_sft.synthesis.planning.framework import Framework
from genesis_sft.synthesis.planning.plan import make_plan
from genesis_sft.synthesis.price.prices import NANO, Price
from genesis_sft.synthesis.screening.diversity import Diversity, diversity
from genesis_sft.synthesis.screening.screen import screen
from genesis_sft.synthesis.store.job_store import ReadStore
from genesis_sft.synthesis.store.replay import replay


@dataclass(frozen=True, slots=True)
class OutputSummary:
    """What was written.

    Attributes:
        conversations: The file of kept conversations, a source of a mixture.
        counts: What became of the plan.
        diversity: Of the kept conversations.
        card: The data card, as in ``card.json``.
    """

    conversations: Path
    counts: Counts
    diversity: Diversity
    card: Mapping[str, Any]

    def lines(self) -> tuple[str, ...]:
        """Return it for the terminal."""
        counts = self.counts
        left_out = sorted([*counts.rejected.items(), *counts.ended.items()], key=lambda item: (-item[1], item[0]))
        return (
            f"{self.conversations}: {counts.kept:,} kept of {counts.finished:,} finished, {counts.planned:,} planned",
            *(f"  left out: {reason} {number:,}" for reason, number in left_out),
            *diversity_lines(self.diversity),
        )


def write_output(
    folder: Path,
    chain: Chain,
    store: ReadStore,
    recipe: SynthesisRecipe,
    framework: Framework,
    price: Price,
    questions: Sequence[Question] = (),
    *,
    draw: Callable[[Mapping[str, Any], Path], None] | None = None,
) -> OutputSummary:
    """Screen all finished conversations of the recipe's plan and write them, with rejects and card.

    Each file is replaced whole or not at all. Another process that writes the same files is waited for. Memory holds
    the plan and, of each finished conversation, half a kilobyte and its opening; texts wait in a file without a name.

    Args:
        folder: Where to; made when it is absent.
        chain: Says what the stored answers make.
        store: The answers; another process may write to it meanwhile.
        recipe: What was wanted.
        framework: What it was written from.
        price: For the card.
        questions: Items of evaluations, which no conversation may hold.
        draw: Draws the card, given as plain values, into a file; without it there is no picture.

    Raises:
        InputError: A file of one of the names is not one that this command wrote, or was changed since.
        RunDirError: One cannot be written, e.g. for a full disk.
    """
    require_own_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with OwnOutput.hold(folder) as own:
        scenarios = make_plan(framework, recipe.seed, recipe.synthesis.conversations)
        with tempfile.TemporaryFile(dir=folder) as rows:
            written = Rows(rows, scenarios, framework.prompts_hash)
            verdicts = screen(written.collect(chain, store), recipe.synthesis.screening, framework, questions)
            kept = Kept(scenarios)
            with _file(own, folder / REJECTED) as rejected, _file(own, folder / CONVERSATIONS) as conversations:
                measured = diversity(kept.count(written.divide(verdicts, conversations, rejected)))
        rejects = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
        counts = Counts(
            planned=len(scenarios),
            finished=len(verdicts),
            kept=len(verdicts) - rejects.total(),
            rejected=dict(sorted(rejects.items())),
            ended=dict(sorted(written.ended.items())),
        )
        covered = coverage(framework, kept.scenarios)
        card = make_card(
            counts,
            covered,
            measured,
            by_area=kept.by_area(framework),
            models=dict(sorted(kept.models.items())),
            usage_of_kept=Usage(**kept.usage),
            cost_of_kept=kept.cost,
            totals=store.totals(),
            recipe=recipe,
            framework=framework,
            price=price,
        )
        with own.replacing(folder / CARD) as file:
            write_json(file, card)
        with own.replacing(folder / CARD_PAGE) as file:
            write_text(file, card_markdown(card, measured, covered))
        if draw is not None:
            with own.replacing(folder / CARD_PLOT) as file:
                draw(card, file)
        return OutputSummary(folder / CONVERSATIONS, counts, measured, card)


def write_steps(
    folder: Path, path: Path, chain: Chain, store: ReadStore, recipe: SynthesisRecipe, framework: Framework
) -> int:
    """Write every step's text of the recipe's plan, a row a step in the order it was asked; return how many.

    One row::

        {"id": "safety-00042", "turn": 0, "step": "critique", "model": "claude-haiku-4-5-20251001", "text": "...",
         "stop": "end", "usage": {"input": 310, ...}, "cost_usd": 0.00042}

    Args:
        folder: Of the result, where the digests of what was written are kept.
        path: Where to, in any folder.
        chain: As for `write_output`.
        store: As for `write_output`.
        recipe: As for `write_output`.
        framework: As for `write_output`.

    Raises:
        InputError: There is no folder for the file, or a file lies there that this command did not write, or that was
            changed since.
        RunDirError: It cannot be written, e.g. for a full disk.
    """
    require_own_steps(folder, path)
    asked = set(store.scenarios())
    count = 0
    with OwnOutput.hold(folder, path) as own, _file(own, path) as file:
        for scenario in make_plan(framework, recipe.seed, recipe.synthesis.conversations):
            answers = replay(chain, scenario, store).answers if scenario.number in asked else {}
            for (step, turn), stored in answers.items():
                answer = stored.answer
                row = {"id": scenario.id, "turn": turn, "step": step, "model": answer.model, "text": answer.text}
                row |= {} if answer.reasoning is None else {"reasoning": answer.reasoning}
                row |= {"stop": answer.stop, "usage": asdict(answer.usage), "cost_usd": stored.cost / NANO}
                file.write(orjson.dumps(row) + b"\n")
                count += 1
    return count


@contextmanager
def _file(own: OwnOutput, path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place when the block ends well."""
    with own.replacing(path) as temporary, open(temporary, "wb") as file:
        yield file
