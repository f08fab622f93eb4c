"""What the report says, in order, as plain text and tables; how it looks is for ``html_page`` and ``markdown_page``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genesis_sft.evals.answer_checks import CHECKS
from genesis_sft.evals.record import ChatAnswer
from genesis_sft.evals.task_record import DOUBTFUL_AS_CHAT
from genesis_sft.report import check_tables, curves, mixture_tables, plots, tables
from genesis_sft.report.alarms import say_skipped
from genesis_sft.report.clean_subset import clean_subset_table
from genesis_sft.report.findings import Finding, headline
from genesis_sft.report.flips import TaskFlips
from genesis_sft.report.health_plots import Panel, plot_health
from genesis_sft.report.run_results import RunResults
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import judge

UNTOUCHED = (
    "Some items of these benchmarks stand in the sources, in whatever row; the score on the others cannot come from "
    "having seen them."
)


@dataclass(frozen=True)
class AnswerPair:
    """The answers to one prompt, before and after."""

    before: ChatAnswer
    after: ChatAnswer


@dataclass(frozen=True)
class ProvenancePart:
    """One part of the provenance: short values in a table, texts of several lines (name, text) below it."""

    title: str
    table: Table
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SurfaceScores:
    """The benchmarks as they were put in one way; those of two ways are never in one table or plot."""

    heading: str
    explained: str
    table: Table
    plot: str
    groups: Table


@dataclass(frozen=True)
class Training:
    """How the training went: plots of the losses and of what was watched beside them, alarms, skipped steps."""

    loss_plot: str
    has_held_out: bool
    source_plots: tuple[tuple[str, str], ...]
    health: tuple[Panel, ...]
    alarms: tuple[str, ...]
    skipped: str


@dataclass(frozen=True)
class Content:
    """The report, section by section, in the order in which it is read."""

    recipe_name: str
    base_name: str
    headline: str
    findings: tuple[Finding, ...]
    surfaces: tuple[SurfaceScores, ...]
    flips: tuple[TaskFlips, ...]
    untouched: Table
    plain_text: Table
    held_out: Table
    stop: Table | None
    rates: Table
    rates_plot: str
    rules: tuple[tuple[str, str], ...]
    instructions: Table
    samples: tuple[AnswerPair, ...]
    answers: tuple[AnswerPair, ...]
    training: Training
    rows: Table
    rows_check: str
    rejects: Table
    sources: Table
    tokens: Table
    tokens_check: str
    mixture_plot: str
    base_verdict: str
    base: Table
    provenance: tuple[ProvenancePart, ...]


_SURFACES = {
    "raw": ("Benchmarks", "Each question as plain text, without a chat template."),
    "chat": (
        "Benchmarks, asked in a chat",
        "Each question as a user's turn, and what follows the beginning of the assistant's is scored. These scores are "
        "not comparable to those above, nor to published ones.",
    ),
}


_DOUBTFUL = "to go on with a user's text is not what an assistant does, so a change of the score says little."


def build_content(results: RunResults) -> Content:
    """Return the report's content."""
    comparison, ledger, check = results.comparison, results.ledger, results.check
    skipped = say_skipped(results.metrics)
    findings = judge(comparison, skipped)
    after_by_id = {answer.id: answer for answer in results.after.chat}
    answers = tuple(AnswerPair(answer, after_by_id[answer.id]) for answer in results.before.chat)
    shares = [(entry["name"], int(entry["examples"]), int(entry["trained_tokens"])) for entry in ledger["sources"]]
    return Content(
        recipe_name=results.recipe_name,
        base_name=results.base_name,
        headline=headline(findings),
        findings=findings,
        surfaces=_surfaces(results),
        flips=tuple(results.flips),
        untouched=clean_subset_table(results.untouched),
        plain_text=check_tables.plain_text_table(comparison),
        held_out=tables.held_out_table(comparison),
        stop=tables.stop_table(comparison.stop) if comparison.stop else None,
        rates=check_tables.rates_table(comparison.rates),
        rates_plot=plots.plot_rates(comparison.rates),
        rules=tuple((rate.name, CHECKS[rate.name].text) for rate in comparison.rates if rate.name in CHECKS),
        instructions=check_tables.instructions_table(results.before.chat, results.after.chat),
        samples=tuple(pair for pair in answers if pair.before.sample),
        answers=answers,
        training=_training(results, skipped),
        rows=mixture_tables.rows_table(ledger),
        rows_check=mixture_tables.rows_check(ledger),
        rejects=mixture_tables.rejects_table(ledger),
        sources=mixture_tables.sources_table(ledger),
        tokens=mixture_tables.tokens_table(ledger),
        tokens_check=mixture_tables.tokens_check(ledger),
        mixture_plot=plots.plot_mixture(shares),
        base_verdict=f"Verdict: {check['verdict']}." if check.get("verdict") else "",
        base=tables.base_table(check),
        provenance=tuple(_provenance_part(title, values) for title, values in _grouped(results.provenance).items()),
    )


def _surfaces(results: RunResults) -> tuple[SurfaceScores, ...]:
    found = []
    for surface, (heading, explained) in _SURFACES.items():
        changes = [task for task in results.comparison.tasks if task.surface == surface]
        if changes:
            plot = plots.plot_tasks(f"tasks-{surface}", changes)
            doubtful = sorted({task.task for task in changes} & {*DOUBTFUL_AS_CHAT}) if surface == "chat" else []
            if doubtful:
                explained += f" {' and '.join(doubtful)}: {_DOUBTFUL}"
            groups = check_tables.groups_table(changes)
            found.append(SurfaceScores(heading, explained, tables.task_table(changes), plot, groups))
    return tuple(found)


def _training(results: RunResults, skipped: str) -> Training:
    return Training(
        loss_plot=curves.plot_loss(results.metrics, results.events),
        has_held_out=any(event.get("kind") == "held_out" for event in results.events),
        source_plots=curves.plot_source_losses(results.events),
        health=plot_health(results.metrics),
        alarms=tuple(
            f"Step {event['step']:,}: {event.get('message') or event.get('name')}"
            for event in results.events
            if event.get("kind") == "alarm"
        ),
        skipped=skipped,
    )


def _grouped(provenance: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parts of the provenance; values that stand alone come first, as a part of their own."""
    alone = {name: value for name, value in provenance.items() if not isinstance(value, Mapping)}
    parts = {name: value for name, value in provenance.items() if isinstance(value, Mapping)}
    return {"run": alone, **parts} if alone else parts


def _provenance_part(title: str, values: Mapping[str, Any]) -> ProvenancePart:
    texts = {name: value for name, value in values.items() if isinstance(value, str) and "\n" in value.strip()}
    short = {name: value for name, value in values.items() if name not in texts}
    return ProvenancePart(title, tables.provenance_table(title, short), tuple(texts.items()))
