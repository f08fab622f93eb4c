"""The report as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

All text that comes from outside passes through ``for_html``; the only markup that is inserted as such is written here,
in ``html_parts`` or drawn by the plots.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from string import Template

from genesis_sft.report.check_tables import total_alone
from genesis_sft.report.content import UNTOUCHED, Content, Training
from genesis_sft.report.flip_parts import html_flips
from genesis_sft.report.foreign_text import for_html
from genesis_sft.report.health_plots import Panel
from genesis_sft.report.how_to_read import HOW_TO_READ
from genesis_sft.report.html_parts import (
    definitions,
    fold,
    html_answers,
    html_finding,
    html_table,
    legend,
    paragraph,
    plot,
    prose,
)

_SCORES_LEGEND = (("before", "before"), ("after", "after"), ("interval", "95 % interval of each score"))
_CHANCE = ("chance", "chance")
_ARROWS = ("", "↑ more is better, ↓ less is better")
_LOSS_LEGEND = (("raw", "each step"), ("curve", "mean of neighbouring steps"))
_HELD_OUT = ("held-out", "held-out")
_MIXTURE_LEGEND = (("examples", "share of examples"), ("tokens", "share of trained tokens"))


def render_html(content: Content) -> str:
    """Return the whole page."""
    template = Template(files("genesis_sft.report").joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=for_html(f"{content.recipe_name}: before and after"),
        recipe_name=for_html(content.recipe_name),
        base_name=for_html(content.base_name),
        body="\n".join(part for part in _sections(content) if part),
    )


def _sections(content: Content) -> list[str]:
    """Return the sections in reading order; a section without content is left out."""
    return [
        f'<p class="headline">{prose(content.headline)}</p>',
        '<ul class="findings">\n' + "\n".join(map(html_finding, content.findings)) + "\n</ul>",
        *_benchmarks(content),
        *_losses(content),
        *_chat(content),
        *_training(content.training),
        *_mixture(content),
        "<h2>Check of the base model</h2>",
        paragraph(content.base_verdict),
        fold("What it measured", html_table(content.base, "narrow")),
        "<h2>How to read this</h2>",
        definitions(HOW_TO_READ),
        *_provenance(content),
    ]


def _benchmarks(content: Content) -> Iterable[str]:
    for scores in content.surfaces:
        yield f"<h2>{scores.heading}</h2>"
        yield paragraph(scores.explained)
        if scores.plot:
            yield plot(scores.plot, legend((*_SCORES_LEGEND, _CHANCE)))
        yield html_table(scores.table)
        yield '<p class="soft">Differences in percentage points unless they say nats.</p>'
        if scores.groups.rows:
            yield "<h3>Groups of subjects</h3>"
            yield html_table(scores.groups)
    if content.flips:
        yield "<h3>Items that flipped</h3>"
        yield f'<div class="flips">\n{html_flips(content.flips)}\n</div>'
    if content.untouched.rows:
        yield "<h3>Without items that stand in the sources</h3>"
        yield paragraph(UNTOUCHED)
        yield html_table(content.untouched)


def _losses(content: Content) -> Iterable[str]:
    if content.plain_text.rows:
        yield "<h2>Forgetting</h2>"
        yield paragraph("Loss on passages of plain text, nats per token; a rise means that something was forgotten.")
        yield html_table(total_alone(content.plain_text))
        yield fold("Each passage", html_table(content.plain_text))
    if content.held_out.rows:
        yield "<h2>Held-out loss</h2>"
        yield paragraph("Nats per trained token; less is better.")
        yield html_table(content.held_out)


def _chat(content: Content) -> Iterable[str]:
    if content.stop:
        yield "<h2>Does it end its turn?</h2>"
        yield html_table(content.stop)
    if content.rates.rows:
        yield "<h2>Checks of the chat answers</h2>"
        yield plot(content.rates_plot, legend((*_SCORES_LEGEND, _ARROWS)))
        yield html_table(content.rates)
        yield fold("What each check looks for", definitions(content.rules))
    if content.instructions.rows:
        yield "<h3>Demands that a program can verify</h3>"
        yield html_table(content.instructions)
    if content.samples:
        yield "<h2>Sample conversations</h2>"
        yield html_answers(content.samples)
    if content.answers:
        yield fold(f"All {len(content.answers)} answers", html_answers(content.answers))


def _training(training: Training) -> Iterable[str]:
    if training.loss_plot or training.skipped or training.alarms:
        yield "<h2>Training</h2>"
        yield paragraph(training.skipped)
    if training.alarms:
        yield '<ul class="alarms">' + "".join(f"<li>{prose(alarm)}</li>" for alarm in training.alarms) + "</ul>"
    if training.loss_plot:
        yield "<h3>Loss, nats per trained token</h3>"
        yield plot(training.loss_plot, legend((*_LOSS_LEGEND, _HELD_OUT) if training.has_held_out else _LOSS_LEGEND))
    if training.source_plots:
        yield "<h3>Held-out loss of each source, nats per trained token</h3>"
        yield _grid((name, svg) for name, svg in training.source_plots)
    if training.health:
        yield "<h3>Watched beside the loss</h3>"
        yield _panels(panel for panel in training.health if not panel.about_rows)
        about_rows = [panel for panel in training.health if panel.about_rows]
        if about_rows:
            yield fold("Rows of the control tokens", _panels(about_rows))


def _panels(panels: Iterable[Panel]) -> str:
    return _grid((panel.heading, panel.svg) for panel in panels)


def _grid(plots: Iterable[tuple[str, str]]) -> str:
    inside = "\n".join(
        f'<figure class="small"><figcaption>{for_html(heading)}</figcaption>\n{svg}</figure>' for heading, svg in plots
    )
    return f'<div class="panels">\n{inside}\n</div>'


def _mixture(content: Content) -> Iterable[str]:
    if not content.rows.rows:
        return
    yield "<h2>Mixture</h2>"
    if content.mixture_plot:
        yield plot(content.mixture_plot, legend(_MIXTURE_LEGEND))
    yield "<h3>As trained on</h3>"
    yield html_table(content.tokens)
    yield paragraph(content.tokens_check)
    yield "<h3>Where every row went</h3>"
    yield html_table(content.rows)
    yield paragraph(content.rows_check)
    if content.rejects.rows:
        yield fold("Why rows were rejected", html_table(content.rejects))
    yield fold("Where the sources come from", html_table(content.sources, "names"))


def _provenance(content: Content) -> Iterable[str]:
    if content.provenance:
        yield "<h2>Provenance</h2>"
    for part in content.provenance:
        yield f"<h3>{for_html(part.title.replace('_', ' ').capitalize())}</h3>"
        yield html_table(part.table, "names")
        for name, text in part.texts:
            yield fold(name, f"<pre>{for_html(text)}</pre>")
