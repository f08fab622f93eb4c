"""``genesis-sft data``: prepare conversations as tokens, and look at them, at their ledger and at their lengths."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genesis_sft.cli.output import JsonOption, print_json
from genesis_sft.cli.prepare import EXAMPLE, prepare_command
from genesis_sft.console import say, visible
from genesis_sft.errors import InputError, ModelError
from genesis_sft.tokens.own_file import mark_plot, require_own_or_none

if TYPE_CHECKING:
    from genesis_sft.mixture.stats import MixtureStats
    from genesis_sft.mixture.store import TokenStore

data_app = typer.Typer(
    help="Turn conversations into tokens, and see what became of every row.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
data_app.command("prepare", epilog=EXAMPLE)(prepare_command)

DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of prepared data, or of a run.")]


@data_app.command(
    "ledger",
    epilog="Example: genesis-sft data ledger runs/quickstart\n\nExample: genesis-sft data ledger prepared --verify",
)
def ledger_command(
    folder: DirArgument,
    check: Annotated[
        bool, typer.Option("--verify", help="Count everything anew from the tokens, and compare first.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where every row of every source went."""
    from genesis_sft.mixture.verify import verify

    store = _open(folder)
    if check:
        verify(store)
        say("verified: every number was counted anew from the tokens, and is what the ledger says")
    if as_json:
        print_json(store.ledger.to_dict())
    else:
        print_ledger(store)


@data_app.command(
    "show",
    epilog="Example: genesis-sft data show constitution/conversations/safety.jsonl"
    " --tokenizer runs/quickstart/base/model --limit 5"
    "\n\nExample: genesis-sft data show runs/quickstart --source safety --html safety.html",
)
def show_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR",
            help="Conversations (.jsonl, .json, .csv, also .gz or .zst, .parquet, .arrow); or prepared data, or a run.",
        ),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="A model folder, or one with a tokenizer; of a run, its base when absent."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Conversations to show; 3, 20 with --html, all with --json.")
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only this row of the source, from 0.")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="DIR: only this source.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="FILE: auto (default), messages, sharegpt, alpaca or metamath.")
    ] = None,
    train_on: Annotated[str | None, typer.Option(help="FILE: assistant, or assistant,end_of_turn (default).")] = None,
    reasoning: Annotated[str | None, typer.Option(help="FILE: keep (default), strip or empty.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids as well.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show conversations as the model sees them, trained tokens in colour, control tokens marked."""
    if as_json and html is not None:
        raise InputError("expected --json or --html, found both")
    if html is not None:
        require_own_or_none(html)  # before the work
    of_file = {"--format": format_, "--train-on": train_on, "--reasoning": reasoning}
    if path.is_dir():
        if given := [name for name, value in of_file.items() if value is not None]:
            raise InputError(
                f"expected prepared data without {', '.join(given)}: it is shown as it was prepared",
                hint="Name a file of conversations to try other settings.",
            )
        _show_prepared(path, tokenizer, source, row, limit=limit, as_json=as_json, html=html, show_ids=ids)
    else:
        _show_file(path, tokenizer, source, row, of_file, limit=limit, as_json=as_json, html=html, show_ids=ids)
    if html is not None and html.is_file():
        print(f"page: {html}")


@data_app.command(
    "stats",
    epilog="Example: genesis-sft data stats runs/quickstart --plot lengths.svg",
)
def stats_command(
    folder: DirArgument,
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw lengths and trained shares too: .svg or .png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how long the examples are, how much of them is trained, and how many answers they hold."""
    from genesis_sft.mixture.stats import measure

    if plot is not None:
        require_own_or_none(plot)
    stats = measure(_open(folder))
    if plot is not None:
        _write_plot(stats, plot)
    if as_json:
        print_json(stats.to_json())
        return
    _print_stats(stats)
    if plot is not None:
        print(f"plot: {plot}")


def print_ledger(store: TokenStore) -> None:
    """Print the ledger of a mixture: rows with their sum, why some were rejected, and what is trained on."""
    from genesis_sft.report import mixture_tables as tables

    ledger = store.ledger.to_dict()
    _print_parts(
        tables.rows_table(ledger),
        tables.rows_check(ledger),
        tables.rejects_table(ledger),
        tables.tokens_table(ledger),
        tables.tokens_check(ledger),
    )


def _write_plot(stats: MixtureStats, path: Path) -> None:
    """Draw aside, and move the picture into place: it is whole, or what was there before stays."""
    from genesis_sft.report.mixture_plots import plot_stats

    with TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as aside:
        drawn = Path(aside) / path.name
        plot_stats(stats, drawn)
        drawn.write_bytes(mark_plot(drawn.read_bytes()))
        drawn.replace(path)


def _print_stats(stats: MixtureStats) -> None:
    from genesis_sft.mixture.stats import histogram
    from genesis_sft.report.mixture_tables import stats_table

    _print_parts(stats_table(stats.to_json()))
    width = max(map(len, stats.lengths))
    print(f"\nlengths, 0 to {stats.max_length:,} tokens")
    for name, lengths in stats.lengths.items():
        print(f"{name:<{width}}  {histogram(lengths, stats.max_length)}|")


def _print_parts(*parts: Any) -> None:
    """Print tables and sentences with an empty line between them; names in them cannot command the terminal."""
    from genesis_sft.report.text_page import render_table

    texts = (part if isinstance(part, str) else render_table(part) for part in parts)
    print(visible("\n\n".join(text for text in texts if text)))


def _show_file(
    path: Path,
    tokenizer: Path | None,
    source: str | None,
    row: int | None,
    settings: dict[str, str | None],
    **how: Any,
) -> None:
    from genesis_sft.tokens.show import show_file

    if source is not None:
        raise InputError(
            "expected --source with prepared data, found a file", hint="A file is one source: leave it out."
        )
    if tokenizer is None:
        raise _no_tokenizer(path)
    show_file(
        path,
        tokenizer,
        row=row,
        format=settings["--format"] or "auto",
        train_on=tuple((settings["--train-on"] or "assistant,end_of_turn").split(",")),
        reasoning=settings["--reasoning"] or "keep",
        **how,
    )


def _show_prepared(folder: Path, tokenizer: Path | None, source: str | None, row: int | None, **how: Any) -> None:
    from genesis_sft.mixture.shown import examples
    from genesis_sft.tokens.chatml import ChatMLEncoder
    from genesis_sft.tokens.show import load_tokenizer, show

    store = _open(folder)
    own = store.path.parent / "base" / "model"
    place = tokenizer or (own if own.is_dir() else None)
    if place is None:
        raise _no_tokenizer(folder)
    encoder = ChatMLEncoder(load_tokenizer(place))
    expected = store.ledger.settings["im_end_id"]
    if encoder.im_end_id != expected:
        raise ModelError(
            f"expected the tokenizer that the data was prepared with, which has <|im_end|> as {expected}; "
            f"found one in {place} that has it as {encoder.im_end_id}"
        )
    show(examples(store, source=source, row=row), encoder, **how)


def _open(folder: Path) -> TokenStore:
    """Open prepared data; of a run folder, its data stage."""
    from genesis_sft.mixture.store import LEDGER, TokenStore

    inside = folder / "data"
    return TokenStore.open(inside if (inside / LEDGER).is_file() and not (folder / LEDGER).is_file() else folder)


def _no_tokenizer(path: Path) -> InputError:
    return InputError(
        f"expected --tokenizer MODEL to show {path} as tokens",
        hint="A finished run has one in base/model, e.g. --tokenizer runs/quickstart/base/model.",
    )
