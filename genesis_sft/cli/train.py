"""``genesis-sft train``: train as a recipe says, or watch a run."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genesis_sft.cli.first_word import FirstWordGroup
from genesis_sft.cli.output import AllowCodeOption, JsonOption, folder_name, print_json
from genesis_sft.cli.run_recipe import RecipeArgument, RunDirOption, SetOption, run_until
from genesis_sft.errors import InputError

if TYPE_CHECKING:
    from genesis_sft.training.watching.watch import WatchedRun

_FOLLOW_SECONDS = 2.0
_COLUMNS_WITHOUT_TERMINAL = 100


class _RecipeOrCommand(FirstWordGroup):
    main_command = "RECIPE"


train_app = typer.Typer(cls=_RecipeOrCommand, rich_markup_mode=None)


@train_app.command(
    _RecipeOrCommand.main_command,
    hidden=True,  # its options stand in the help of the group
    epilog="Example: genesis-sft train recipes/quickstart.yaml",
)
def train_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do what training needs, and train: base, data, tokens, train."""
    run_until("train", recipe, set_, run_dir, as_json, allow_code)


@train_app.command("watch", epilog="Example: genesis-sft train watch runs/quickstart --follow")
def watch_command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", parser=folder_name, help="A run's folder, or a copy of it; live or finished."),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Draw anew until the run is finished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how a run goes: losses, learning rate, gradient norm, speed, and the alarms it raised."""
    from genesis_sft.training.watching.watch import WatchedRun

    if sys.stdout is None:
        raise InputError("expected standard output to show the run on; it is closed")
    if follow and as_json:
        raise InputError("expected --follow or --json, found both")
    try:
        if as_json:
            print_json(WatchedRun.open(run).to_json())
        elif not follow:
            print("\n".join(_picture(WatchedRun.open(run))))
        else:
            (_follow_on_terminal if sys.stdout.isatty() else _follow_as_lines)(run)
    except KeyboardInterrupt:  # how one stops to look
        if not follow:
            raise
    except (KeyError, TypeError) as error:
        raise InputError(
            f"expected the metrics of a run in {run}; found rows of another form ({error})",
            hint="Were they written by another version, or by hand?",
        ) from None


def _picture(run: WatchedRun, height: int | None = None) -> list[str]:
    """Return how a run stands and its curves, as stdout can show them; in so many lines, if given."""
    from genesis_sft.training.watching.curves import Paper, curves_of, draw

    width = shutil.get_terminal_size((_COLUMNS_WITHOUT_TERMINAL, 24)).columns
    status = [line for part in run.status() for line in textwrap.wrap(part, width)]
    paper = Paper(
        width,
        height - len(status) if height is not None else None,
        colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
        unicode=sys.stdout.encoding.lower().startswith("utf"),
    )
    return [*status, *draw(curves_of(run), paper)]


def _follow_on_terminal(path: Path) -> None:
    """Draw the run again and again in the same place, as large as the terminal is."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from genesis_sft.training.watching.watch import WatchedRun

    run = WatchedRun.open(path)
    with Live(console=Console(), auto_refresh=False, redirect_stdout=False, vertical_overflow="crop") as live:
        while True:
            picture = _picture(run, shutil.get_terminal_size().lines - 1)
            live.update(Text.from_ansi("\n".join(picture), no_wrap=True, overflow="ellipsis"), refresh=True)
            if run.result is not None:
                return
            time.sleep(_FOLLOW_SECONDS)
            run = WatchedRun.open(path)


def _follow_as_lines(path: Path) -> None:
    """Print how the run stands whenever it has come further, and all of it at its end."""
    from genesis_sft.training.watching.watch import WatchedRun

    shown = None
    while (run := WatchedRun.open(path)).result is None:
        if shown != len(run.metrics):
            print("\n".join(run.status()), flush=True)
            shown = len(run.metrics)
        time.sleep(_FOLLOW_SECONDS)
    print("\n".join(_picture(run)))
