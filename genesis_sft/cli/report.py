"""``genesis-sft report``: write the report of a finished run again, or check it against the run's records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genesis_sft.cli.output import JsonOption, folder_name, print_json
from genesis_sft.console import visible
from genesis_sft.errors import EXIT_NO

report_app = typer.Typer(
    help="Check the report of a run against its records, or write it again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: genesis-sft report verify runs/quickstart",
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@report_app.command("verify", epilog="Example: genesis-sft report verify runs/quickstart")
def report_verify_command(run: RunArgument, as_json: JsonOption = False) -> None:
    """Compute every number of a report again from the run's records; exit status 1 when one differs."""
    from genesis_sft.report.verify import verify_run

    verification = verify_run(run)
    if as_json:
        print_json(verification.to_json())
    else:
        print(visible(verification.table()))
    if verification.differences:
        raise typer.Exit(EXIT_NO)


@report_app.command("write", epilog="Example: genesis-sft report write runs/quickstart --out shown")
def report_write_command(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", parser=folder_name, help="Where the report goes.")],
    as_json: JsonOption = False,
) -> None:
    """Write the report of a finished run to another folder, as this version of the program writes it."""
    from genesis_sft.report.run_report import write_again

    files = write_again(run, out)
    if as_json:
        print_json({path.name: str(path) for path in files})
    else:
        print("\n".join(map(str, files)))
