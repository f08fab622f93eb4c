"""`genesis-sft data prepare`: a recipe's data stage, or files of one's own without a recipe."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genesis_sft.cli.output import AllowCodeOption, JsonOption, folder_name, print_json
from genesis_sft.cli.prepared_folder import making, refuse_foreign_files
from genesis_sft.errors import InputError

if TYPE_CHECKING:
    from genesis_sft.mixture.store import TokenStore
    from genesis_sft.recipe import DataRecipe
    from genesis_sft.tokens.sources.prepare import Prepared

EXAMPLE = (
    "Example: genesis-sft data prepare recipes/quickstart.yaml"
    "\n\nExample: genesis-sft data prepare chats.jsonl.gz maths.parquet --tokenizer models/base --out prepared"
)


def prepare_command(
    inputs: Annotated[
        list[str], typer.Argument(metavar="RECIPE|FILE...", help="A recipe (.yaml), or files of conversations.")
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Files: a model folder, or one with a tokenizer.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=folder_name, help="Files: folder for the store.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field, e.g. tokens.max_length=1024."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", parser=folder_name, help="Recipe: folder of the run.")
    ] = None,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn conversations into tokens on disk, and say where every row went.

    With files, each is a source; --set takes the fields of `data` and `tokens`, e.g. --set data.near_duplicates=0.8.
    """
    if any(name.endswith((".yaml", ".yml")) for name in inputs):
        if len(inputs) > 1 or tokenizer or out:
            raise InputError(
                "expected one recipe alone, or files with --tokenizer and --out; found both",
                hint="The recipe names its own sources and its base model; --run-dir names the folder.",
            )
        _prepare_recipe(Path(inputs[0]), set_, run_dir, allow_code, as_json)
        return
    if tokenizer is None or out is None or run_dir is not None:
        raise InputError(
            "expected --tokenizer MODEL and --out DIR with files of conversations",
            hint="genesis-sft data prepare chats.jsonl --tokenizer models/base --out prepared",
        )
    _prepare_files(inputs, tokenizer, out, set_, allow_code, as_json)


def _prepare_recipe(path: Path, set_: list[str] | None, run_dir: Path | None, allow_code: bool, as_json: bool) -> None:
    from genesis_sft.mixture.store import TokenStore
    from genesis_sft.pipeline import run
    from genesis_sft.recipe import load_recipe

    recipe = load_recipe(path, set_ or ())
    folder = run_dir or Path("runs") / recipe.name
    run(recipe, folder, until="data", allow_code=allow_code)
    _show(TokenStore.open(folder / "data"), None, as_json)


def _prepare_files(
    files: list[str], tokenizer: Path, out: Path, set_: list[str] | None, allow_code: bool, as_json: bool
) -> None:
    from genesis_sft.checkpoint.quiet import quiet_transformers
    from genesis_sft.mixture.prepare import prepare_data, refuse_code
    from genesis_sft.tokens.show import load_tokenizer

    recipe = _as_recipe(files, set_)
    refuse_code(recipe.data, allow_code)
    out = out.resolve()
    refuse_foreign_files(out)
    _refuse_places_that_overlap(out, recipe)
    with quiet_transformers():
        loaded = load_tokenizer(tokenizer)
    with making(out) as folder:
        started = time.monotonic()
        store, prepared = prepare_data(recipe.data, recipe.tokens, recipe.seed, loaded, (), folder)
        seconds = time.monotonic() - started
    _show(type(store).open(out), prepared, as_json, seconds)


def _as_recipe(files: list[str], set_: list[str] | None) -> DataRecipe:
    from genesis_sft.recipe import data_recipe

    names: dict[str, str] = {}
    for file in files:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).name.split(".")[0]).strip("-._")[:70] or "source"
        name, number = stem, 2
        while name.lower() in names:
            name, number = f"{stem}-{number}", number + 1
        names[name.lower()] = name
    sources = [{"name": name, "path": file} for name, file in zip(names.values(), files, strict=True)]
    return data_recipe({"data": {"sources": sources}}, set_ or ())


def _refuse_places_that_overlap(out: Path, recipe: DataRecipe) -> None:
    """The output is replaced as a whole: no input, and no cache, may lie in it."""
    from genesis_sft.assets import cache_dir
    from genesis_sft.conversations.reading import open_source

    cache = cache_dir().resolve()
    if out.is_relative_to(cache) or cache.is_relative_to(out):
        raise InputError(
            f"expected a folder apart from the cache at {cache}; found {out}", hint="Name another folder with --out."
        )
    for source in recipe.data.sources:
        for file in open_source(source).files:
            if file.path.resolve().is_relative_to(out):
                raise InputError(
                    f"expected inputs outside of the output folder {out}; found {file.path} in it",
                    hint="Name another folder with --out: what is in it is replaced.",
                )


def _show(store: TokenStore, prepared: Prepared | None, as_json: bool, seconds: float = 0.0) -> None:
    from genesis_sft.cli.data import print_ledger

    speed: dict[str, Any] = {}
    if prepared is not None:
        speed = {
            "seconds": round(seconds, 3),
            "tokens_encoded": prepared.num_tokens,
            "tokens_per_second": round(prepared.num_tokens / seconds) if prepared.num_tokens else None,
        }
    if as_json:
        print_json({"store": str(store.path), **store.ledger.to_dict(), **speed})
        return
    print_ledger(store)
    print(f"store: {store.path}")
