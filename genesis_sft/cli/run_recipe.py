"""What the commands that run a recipe share: their options, and the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genesis_sft.cli.output import folder_name, print_json
from genesis_sft.console import visible

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, e.g. recipes/quickstart.yaml.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field, e.g. training.learning_rate=1e-5."),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option("--run-dir", metavar="DIR", parser=folder_name, help="Folder of the run; runs/NAME when absent."),
]


def run_until(
    until: str, recipe: Path, set_: list[str] | None, run_dir: Path | None, as_json: bool, allow_code: bool
) -> None:
    """Run a recipe up to a stage, and print where its results are; of several processes, the first one does."""
    from genesis_sft.pipeline import result, run, sample_conversations, take_part
    from genesis_sft.training.processes.meeting import is_follower

    loaded, folder = load(recipe, set_, run_dir)
    if is_follower():
        take_part(loaded, folder)
        return
    run(loaded, folder, until=until, allow_code=allow_code)
    answer = result(folder, until)
    if as_json:
        print_json(answer)
    else:
        if until == "report":
            print(visible(sample_conversations(folder)) + "\n")
        print("\n".join(f"{name}: {value}" for name, value in answer.items()))


def load(recipe: Path, set_: list[str] | None, run_dir: Path | None) -> tuple[Any, Path]:
    """Return the recipe with its overrides, and the folder of its run."""
    from genesis_sft.recipe import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    return loaded, run_dir or Path("runs") / loaded.name
