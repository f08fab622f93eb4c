"""What the report says, in order, as plain text and tables; how it looks is for ``html_page`` and ``markdown_page``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.evals.record import ChatAnswer, EvalRecord
from genesis_sft.report import mixture_tables, plots, tables
from genesis_sft.report.clean_subset import CleanChange, clean_subset_table
from genesis_sft.report.compare import Comparison
from genesis_sft.report.tables import Table
from genesis_sft.report.verdict import Finding, headline, judge, say_skipped

HOW_TO_READ = (
    (
        "± is one standard error",
        "A difference is claimed when it is more than twice as large, from at least 10 items; where items are right or "
        "wrong, an exact test of the items that flipped (McNemar, 5 %) has to agree.",
    ),
    (
        "Differences are paired",
        "Both models answered the same items, so how hard an item is drops out. That is why the error of the "
        "difference is often smaller than the error bars of the two scores suggest.",
    ),
    (
        "Cannot be told",
        "is not the same as unchanged. Visible from: the true difference that so many items would have shown four "
        "times out of five; anything smaller may be there unseen.",
    ),
    (
        "Not above chance",
        "The score is less than two standard errors above what guessing gives. If that holds before and after, "
        "the benchmark is too hard for this model and says nothing about the run, whichever way it moved.",
    ),
    (
        "Benchmarks are the harness's standard tasks",
        "0-shot and without a chat template, before and after alike: they show what fine-tuning did to the knowledge "
        "of the base, not how well it chats. With a limit on documents they are not comparable to published scores.",
    ),
    (
        "Held-out loss",
        "is measured on conversations kept back from each source of the mixture, on the tokens that training would "
        "have trained. It shows that the model took on this kind of conversation and this format; it does not show "
        "that its answers are true. The total weighs every token the same.",
    ),
    (
        "Perplexity",
        "is shown per word; it is compared as its logarithm, nats per word, because an average of perplexities is "
        "ruled by a few items.",
    ),
    (
        "Ended with an answer",
        "The model wrote some text and closed its turn before the token limit; an empty answer does not count. The "
        "intervals are Wilson's, 95 %.",
    ),
)

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
class Content:
    """The report, section by section, in the order in which it is read."""

    recipe_name: str
    base_name: str
    headline: str
    findings: tuple[Finding, ...]
    tasks: Table
    untouched: Table
    held_out: Table
    stop: Table | None
    samples: tuple[AnswerPair, ...]
    answers: tuple[AnswerPair, ...]
    rows: Table
    rows_check: str
    rejects: Table
    sources: Table
    tokens: Table
    tokens_check: str
    base_verdict: str
    base: Table
    provenance: tuple[ProvenancePart, ...]
    tasks_plot: str
    mixture_plot: str
    loss_plot: str
    skipped: str


def build_content(
    *,
    recipe_name: str,
    base_name: str,
    comparison: Comparison,
    before: EvalRecord,
    after: EvalRecord,
    ledger: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    check: Mapping[str, Any],
    provenance: Mapping[str, Any],
    untouched: Sequence[CleanChange] = (),
) -> Content:
    """Return the report's content; the arguments are those of :func:`genesis_sft.report.page.write_report`."""
    skipped = say_skipped(metrics)
    findings = judge(comparison, skipped)
    after_by_id = {answer.id: answer for answer in after.chat}
    answers = tuple(AnswerPair(answer, after_by_id[answer.id]) for answer in before.chat)
    shares = [(entry["name"], int(entry["examples"]), int(entry["trained_tokens"])) for entry in ledger["sources"]]
    return Content(
        recipe_name=recipe_name,
        base_name=base_name,
        headline=headline(findings),
        findings=findings,
        tasks=tables.task_table(comparison.tasks),
        untouched=clean_subset_table(untouched),
        held_out=tables.held_out_table(comparison),
        stop=tables.stop_table(comparison.stop) if comparison.stop else None,
        samples=tuple(pair for pair in answers if pair.before.sample),
        answers=answers,
        rows=mixture_tables.rows_table(ledger),
        rows_check=mixture_tables.rows_check(ledger),
        rejects=mixture_tables.rejects_table(ledger),
        sources=mixture_tables.sources_table(ledger),
        tokens=mixture_tables.tokens_table(ledger),
        tokens_check=mixture_tables.tokens_check(ledger),
        base_verdict=f"Verdict: {check['verdict']}." if check.get("verdict") else "",
        base=tables.base_table(check),
        provenance=tuple(_provenance_part(title, values) for title, values in _grouped(provenance).items()),
        tasks_plot=plots.plot_tasks(comparison.tasks),
        mixture_plot=plots.plot_mixture(shares),
        loss_plot=plots.plot_loss(metrics),
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
