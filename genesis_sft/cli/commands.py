"""The commands. Results go to stdout, progress and logs to stderr; heavy modules are imported by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from genesis_sft import __version__
from genesis_sft.cli.base import base_app
from genesis_sft.cli.data import data_app
from genesis_sft.cli.evals import eval_app
from genesis_sft.cli.model_argument import ModelArgument
from genesis_sft.cli.output import AllowCodeOption, JsonOption, print_json
from genesis_sft.cli.report import report_app
from genesis_sft.cli.run_recipe import RecipeArgument, RunDirOption, SetOption, load, run_until
from genesis_sft.cli.synthesize import synthesize_app
from genesis_sft.cli.train import train_app

_ORDER = ("run", "plan", "base", "synthesize", "data", "train", "export", "eval", "compare", "report", "chat")
"""As the work goes."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_Commands,
    name="genesis-sft",
    help="A pretrained checkpoint goes in, a chat model comes out, with evidence of what changed.",
    epilog="Example: genesis-sft run recipes/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(base_app, name="base")
app.add_typer(report_app, name="report")
app.add_typer(
    eval_app,
    name="eval",
    help="Measure a model folder with lm-evaluation-harness, or judge a table of results.",
    epilog="Example: genesis-sft eval runs/quickstart/export/model --tasks piqa,arc_easy --limit 50 --data package"
    "\n\nExample: genesis-sft eval judge results.json --training-loss 1.93",
)
app.add_typer(
    train_app,
    name="train",
    help="Do what training needs, and train; or watch a run.",
    epilog="Example: genesis-sft train recipes/quickstart.yaml"
    "\n\nExample: genesis-sft train watch runs/quickstart --follow",
)
app.add_typer(
    synthesize_app,
    name="synthesize",
    help="Have a language model write conversations from principles; see how far it is; write them out.",
    epilog="Example: genesis-sft synthesize recipes/synthesis.yaml --dry-run"
    "\n\nExample: genesis-sft synthesize recipes/synthesis.yaml --limit 100"
    "\n\nExample: genesis-sft synthesize status recipes/synthesis.yaml",
)


def _temperature(value: float) -> float:
    if value != 0 and not 0.01 <= value <= 100:
        raise typer.BadParameter(f"expected 0, or 0.01 to 100, found {value:g}")
    return value


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command("run", epilog="Example: genesis-sft run recipes/quickstart.yaml --set training.epochs=2")
def run_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do a whole run, from base model to report; what is done already is skipped."""
    run_until("report", recipe, set_, run_dir, as_json, allow_code)


@app.command("export", epilog="Example: genesis-sft export recipes/quickstart.yaml")
def export_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train if that is not done, and write the tuned model as a Hugging Face folder."""
    run_until("export", recipe, set_, run_dir, as_json, allow_code)


@app.command("plan", epilog="Example: genesis-sft plan recipes/quickstart.yaml --set seed=2")
def plan_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the stages of a run: done, to do, and why. Nothing is run."""
    from genesis_sft.mixture.expected import expected_counts
    from genesis_sft.pipeline import downloads, plan

    loaded, folder = load(recipe, set_, run_dir)
    counts = expected_counts(loaded)
    if not as_json:  # first: a missing file is an error, and these need none
        print("\n".join(["mixture:", *(f"  {line}" for line in counts)]), flush=True)
    stages, wanted = plan(loaded, folder), downloads(loaded)
    if as_json:
        rows = [{"stage": stage.name, "done": stage.done, "why": stage.why} for stage in stages]
        print_json({"run_dir": str(folder), "stages": rows, "downloads": wanted, "mixture": counts})
        return
    print(f"run folder: {folder}")
    for stage in stages:
        print(f"  {stage.name:<9} {'done' if stage.done else 'to do: ' + stage.why}")
    for line in wanted:
        print(f"to download: {line}")


@app.command(
    "compare",
    epilog="Example: genesis-sft compare runs/quickstart/before runs/quickstart/after"
    "\n\nExample: genesis-sft compare harness/base harness/tuned    (--output_path of lm_eval --log_samples)",
)
def compare_command(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="BEFORE", help="Folder of an evaluation record, or what lm_eval wrote with --log_samples."
        ),
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Folder of another one, over the same documents.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two evaluations item by item."""
    from genesis_sft.report.compare import compare
    from genesis_sft.report.read_record import read_pair

    comparison = compare(*read_pair(before, after))
    if as_json:
        print_json(comparison.to_json())
    else:
        print(comparison.table())


@app.command("chat", epilog="Example: genesis-sft chat runs/quickstart/export/model --system 'Answer in one sentence.'")
def chat_command(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(callback=_temperature, help="0 takes the likeliest token.")] = 0.0,
    repetition_penalty: Annotated[
        float,
        typer.Option(min=1, max=2, help="Above 1, what the answer holds already becomes less likely; 1.1 is mild."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Talk to a model in the terminal; an empty line starts a new conversation, Ctrl-D ends.

    Reads standard input when that is no terminal, one message a line.
    """
    from genesis_sft.chat import chat

    chat(
        model,
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        seed=seed,
        as_json=as_json,
    )
