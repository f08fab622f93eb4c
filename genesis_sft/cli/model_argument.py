"""The model folder that commands take; a run's folder in its place is answered with where its models are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genesis_sft.errors import InputError
from genesis_sft.run_dir import MARKER


def refuse_run(folder: Path) -> Path:
    """Return the folder; refuse that of a run, which holds models and is none, and a name that only recipes know.

    Raises:
        InputError: It is one; the hint names the models in it, or says how to come by a folder.
    """
    if str(folder).startswith(("package:", "hub:")) and not folder.exists():
        raise InputError(
            f"expected a model folder, found {folder}: names of this kind are for recipes (base.model)",
            hint="`genesis-sft run RECIPE` makes the folder RUN/base/model of it.",
        )
    # a copy of a run may lack the hidden file
    is_run = (folder / MARKER).is_file() or (
        (folder / "recipe.yaml").is_file() and not (folder / "config.json").exists()
    )
    if not is_run:
        return folder
    models = {"tuned": folder / "export" / "model", "base": folder / "base" / "model"}
    there = [f"its {kind} model is {path}" for kind, path in models.items() if path.is_dir()]
    hint = f"{', '.join(there)}." if there else "It has no model yet: its stage base did not finish."
    raise InputError(f"expected a model folder, found the folder of a run at {folder}", hint=hint[0].upper() + hint[1:])


ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A Hugging Face model folder; of a run, RUN/export/model.", callback=refuse_run
    ),
]
