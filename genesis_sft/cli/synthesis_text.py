"""What `genesis-sft synthesize` shows in the terminal: a forecast, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.synthesis.planning.plan import coverage
from genesis_sft.synthesis.store.ledger import format_usd

if TYPE_CHECKING:
    from genesis_sft.synthesis.price.forecast_numbers import Example, Forecast
    from genesis_sft.synthesis.project import Project
    from genesis_sft.synthesis.status import Status


def forecast_lines(project: Project, forecast: Forecast, status: Status) -> Iterator[str]:
    """Yield what will be asked and what it will cost, the plan's coverage first."""
    section, framework = project.section, project.framework
    yield f"plan: {forecast.conversations:,} conversations, seed {project.recipe.seed}, framework {framework.hash[:12]}"
    yield from (f"  {line}" for line in coverage(framework, project.scenarios).lines())
    yield ""
    if status.totals.answered:
        yield from _conversation_lines(status)
        yield ""
    yield from _table(forecast, with_cost=not project.price.is_free)
    yield ""
    yield from _price_lines(project, forecast)
    yield from _budget_lines(project, forecast, status)
    yield from (f"warning: {line}" for line in forecast.warnings)
    yield f"nothing was sent. Answers will be kept in {project.store_path}"
    if section.provider.base_url is not None:
        yield f"requests will go to {section.provider.base_url}"


def prompt_lines(examples: Sequence[Example]) -> Iterator[str]:
    """Yield requests in full."""
    shared: set[str] = set()
    for example in examples:
        request = example.request
        yield ""
        yield (
            f"===== {request.step}: scenario {request.scenario}, exchange {request.turn + 1}, {request.model}, "
            f"at most {request.max_tokens:,} tokens"
        )
        if example.has_stand_ins:
            yield "      other text, of the expected length, stands in for answers within it that have not come yet"
        if request.shared and request.shared in shared:
            yield "----- system, shared by all requests: as above"
        elif request.shared:
            shared.add(request.shared)
            yield "----- system, shared by all requests"
            yield request.shared
        if request.system:
            yield "----- system"
            yield request.system
        for role, text in request.messages:
            yield f"----- {role}"
            yield text


def status_lines(status: Status) -> Iterator[str]:
    """Yield how far it is."""
    totals = status.totals
    yield from _conversation_lines(status)
    open_requests = totals.requests - totals.answered - totals.unanswerable
    yield (
        f"requests: {totals.answered:,} answered, {open_requests:,} open"
        + (f", {totals.unanswerable:,} that cannot be answered" if totals.unanswerable else "")
        + (f"; {status.stale:,} answers are out of use: prompts, model or steps are others now" if status.stale else "")
    )
    faults = ", ".join(f"{kind} {count:,}" for kind, count in totals.faults.items())
    yield f"sent: {totals.attempts:,} times, {totals.under_way:,} under way; without an answer: {faults or 'none'}"
    usage = totals.usage
    yield (
        f"tokens: sent {usage.input:,}, written to the cache {usage.cache_write:,}, read from it "
        f"{usage.cache_read:,}; answered {usage.output:,}"
    )
    for batch in status.batches:
        yield (
            f"batch {batch.server_id or 'without a name yet'}: {batch.count:,} requests, sent {batch.created_at}, not "
            "collected"
        )
    yield money_line(status)


def rest_line(forecast: Forecast) -> str:
    """Return what is left of a plan, and what it is likely to cost."""
    left = forecast.conversations - forecast.finished - forecast.ended
    return (
        f"What is left of the plan, {left:,} of {forecast.conversations:,} conversations, is likely to cost "
        f"{format_usd(forecast.expected)} more, between {format_usd(forecast.low)} and {format_usd(forecast.high)}"
    )


def money_line(status: Status) -> str:
    """Return where the money is."""
    totals = status.totals
    parts = [f"spent: {format_usd(totals.spent)}"]
    if totals.maybe_spent:
        parts.append(f"may have been spent: {format_usd(totals.maybe_spent)}")
    if totals.reserved:
        parts.append(f"reserved for what is under way: {format_usd(totals.reserved)}")
    parts.append("no budget" if status.budget is None else f"budget: {format_usd(status.budget)}")
    return "; ".join(parts)


def source_lines(path: Path) -> Iterator[str]:
    """Yield what makes the result a source of a recipe."""
    yield "as a source of a recipe:"
    yield "  data:"
    yield "    sources:"
    yield f"      - {{name: constitutional, path: {path}}}"


def _conversation_lines(status: Status) -> Iterator[str]:
    ended = sum(status.ended.values())
    yield (
        f"conversations: {status.planned:,} planned: {status.finished:,} finished, {status.under_way:,} under way, "
        f"{status.to_begin:,} not begun, {ended:,} that cannot go on"
    )
    for reason, count in sorted(status.ended.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {reason}: {count:,}"


def _table(forecast: Forecast, *, with_cost: bool) -> Iterator[str]:
    """Yield the steps as a table; without a price tokens are all that there is to say."""
    rows: list[tuple[str, ...]] = [
        ("to ask", "requests", "tokens sent", "cache written", "cache read", "answered", "cost")
    ]
    for name, step in forecast.steps.items():
        numbers = (step.requests, step.input, step.cache_write, step.cache_read, step.output)
        rows.append((name, *(f"{number:,.0f}" for number in numbers), format_usd(round(step.cost))))
    steps = list(forecast.steps.values())
    sums = [sum(getattr(step, name) for step in steps) for name in _COLUMNS]
    rows.append(("all", *(f"{number:,.0f}" for number in sums), format_usd(forecast.expected)))
    if not with_cost:
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


_COLUMNS = ("requests", "input", "cache_write", "cache_read", "output")


def _price_lines(project: Project, forecast: Forecast) -> Iterator[str]:
    provider, free = project.section.provider, project.price.is_free
    if free:
        yield f"price: none: {provider.model} is taken to run on a server of yours (see synthesis.provider.price)"
    else:
        yield (
            f"price: {format_usd(forecast.expected)}, likely between {format_usd(forecast.low)} and "
            f"{format_usd(forecast.high)} ({provider.model}, by {project.price.source}, "
            f"{'in batches' if provider.batches else 'without batches'})"
        )
    if forecast.assumed:
        steps = ", ".join(forecast.assumed)
        yield f"  answers' lengths are assumed for {steps}; after a pilot (--limit 20) they are known"
    if forecast.assumed and not free:
        cached = any(step.cache_read for step in forecast.steps.values())
        batches = ", and how often a batch finds the constitution in the prompt cache" if provider.batches else ""
        yield f"  the range is for lengths from terse to talkative{batches if cached else ''}"
    if not free and provider.batches and project.section.steps.principles == "all":
        yield "  --set synthesis.steps.principles=sampled sends less, often cheaper in batches: compare"
    if forecast.sampled:
        error = "" if free else f"; standard error {format_usd(forecast.standard_error)}"
        yield f"  by {forecast.sampled:,} conversations of the plan{error}"


def _budget_lines(project: Project, forecast: Forecast, status: Status) -> Iterator[str]:
    if project.price.is_free:
        return
    if project.budget is None:
        yield "warning: no budget: synthesis.budget_usd is needed before anything is asked"
        return
    totals = status.totals
    left = project.budget - totals.spent - totals.maybe_spent - totals.reserved
    yield money_line(status)
    if left < 0:
        yield f"warning: the budget is exceeded by {format_usd(-left)}: nothing more will be asked"
    elif left < forecast.most_at_once <= left + forecast.expected:
        yield (
            f"warning: the budget does not cover one more request: {format_usd(left)} are left, and one may "
            f"cost {format_usd(forecast.most_at_once)}"
        )
    elif left < forecast.expected:
        yield f"warning: the budget is likely too small, by {format_usd(forecast.expected - left)}"
    elif left < forecast.high:
        yield f"warning: the budget may be too small, by up to {format_usd(forecast.high - left)}"
