"""``genesis-sft base``: convert a pretraining checkpoint, verify a model, find out what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from genesis_sft.cli.output import JsonOption, print_json
from genesis_sft.console import visible
from genesis_sft.errors import EXIT_NO, CheckFailed, InputError

base_app = typer.Typer(
    help="Turn a pretraining checkpoint into a model that is proven right, or find out why it is not.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="SentencePiece .model or tokenizer.json; beside the weights when absent."),
]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The pretraining run's own settings, JSON or YAML (heads, theta ...)."),
]
Names = Annotated[str | None, typer.Option(metavar="FILE", help="A rule file for tensors with other names.")]
Root = Annotated[str | None, typer.Option(metavar="PREFIX", help="Take the tensors below this prefix only.")]
Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE", help="Held-out text of the pretraining corpus; may be repeated. Long documents tell more."
    ),
]
TrainingLoss = Annotated[
    float | None, typer.Option(metavar="NATS", min=1e-3, help="Loss a token at the end of the training log.")
]
NumHeads = Annotated[int | None, typer.Option(min=1, help="Query heads.")]
NumKvHeads = Annotated[int | None, typer.Option(min=1, help="Key and value heads.")]
RopeLayout = Annotated[
    str | None, typer.Option(metavar="LAYOUT", help="interleaved (Meta's code) or half_split (transformers).")
]
RopeTheta = Annotated[float | None, typer.Option(min=1.0, help="Base of RoPE's frequencies.")]
NormEps = Annotated[float | None, typer.Option(help="Epsilon of the norms, e.g. 1e-5.")]
Tied = Annotated[bool | None, typer.Option("--tied/--untied", help="Whether the output head is the embedding.")]
EmbeddingScale = Annotated[float | None, typer.Option(help="Factor on the embedding; nearly always 1.")]
Bos = Annotated[bool | None, typer.Option("--bos/--no-bos", help="Whether every text began with BOS in training.")]
Context = Annotated[int | None, typer.Option(min=2, help="Longest sequence in training, in tokens.")]


@base_app.command(
    "convert",
    epilog="Example: genesis-sft base convert checkpoints/step_40000 models/genesis-1b --tokenizer genesis.model "
    "--config train.yaml --training-loss 1.93",
)
def convert_command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A DCP folder, .pt, .pth or .safetensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The Hugging Face folder to make.")],
    tokenizer: Tokenizer = None,
    config: Config = None,
    names: Names = None,
    root: Root = None,
    text: Text = None,
    training_loss: TrainingLoss = None,
    num_heads: NumHeads = None,
    num_kv_heads: NumKvHeads = None,
    rope_layout: RopeLayout = None,
    rope_theta: RopeTheta = None,
    norm_eps: NormEps = None,
    tied: Tied = None,
    embedding_scale: EmbeddingScale = None,
    bos: Bos = None,
    context: Context = None,
    dtype: Annotated[str, typer.Option(help="stored, float32, bfloat16 or float16.")] = "stored",
    verify: Annotated[
        str, typer.Option(help="stop: write nothing that is not proven; warn: write it all the same.")
    ] = "stop",
    try_others: Annotated[
        bool,
        typer.Option(
            "--diagnosis/--no-diagnosis", help="Try other readings of the tensors; without, all has to be stated."
        ),
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show names and sizes; write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a pretraining checkpoint, and prove that the folder computes what the training did.

    What neither --config nor a flag states is found by trying which value predicts text best.
    """
    section = _section(
        checkpoint, tokenizer, config, names, root, text, training_loss, verify,
        num_heads, num_kv_heads, rope_layout, rope_theta, norm_eps, tied, embedding_scale, bos, context,
    )  # fmt: skip
    _require_choice("--dtype", dtype, ("stored", "float32", "bfloat16", "float16"))
    if dry_run:
        from genesis_sft.checkpoint.prove import refuse_existing

        refuse_existing(out)
        _answer_refusals(lambda: _show_plan(section, as_json), as_json)
        return
    from genesis_sft.checkpoint.convert import convert

    converted = _answer_refusals(lambda: convert(section, out, dtype=dtype, try_others=try_others), as_json)  # type: ignore[arg-type]
    if as_json:
        print_json({"model": str(out), **converted.verification.to_json()})
    else:
        print(visible(converted.verification.table()))
        print(f"\nmodel: {out}")


@base_app.command(
    "verify",
    epilog="Example: genesis-sft base verify models/genesis-1b --training-loss 1.93 --text held_out.txt",
)
def verify_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder, a .gguf file or package:NAME.")],
    checkpoint: Annotated[
        str | None, typer.Option(metavar="PATH", help="The checkpoint it was made from, to compare logits with.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Logits that the training code wrote; see docs/intake.md.")
    ] = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    names: Names = None,
    root: Root = None,
    text: Text = None,
    training_loss: TrainingLoss = None,
    num_heads: NumHeads = None,
    num_kv_heads: NumKvHeads = None,
    rope_layout: RopeLayout = None,
    rope_theta: RopeTheta = None,
    norm_eps: NormEps = None,
    tied: Tied = None,
    embedding_scale: EmbeddingScale = None,
    bos: Bos = None,
    context: Context = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a model predicts text as its training log says, and whether it was read as it was trained.

    Exit status 1 when it is refused. The options from --tokenizer on describe the checkpoint.
    """
    described = (
        tokenizer, config, names, root, text, training_loss, "stop",
        num_heads, num_kv_heads, rope_layout, rope_theta, norm_eps, tied, embedding_scale, bos, context,
    )  # fmt: skip
    from genesis_sft.checkpoint.verify_folder import verify

    if checkpoint is None and any(value is not None for value in (*described[:4], *described[7:])):
        raise InputError("options on names, config, tokenizer and conventions describe a --checkpoint; none is given")
    found = _answer_refusals(
        lambda: verify(
            _section(model, *((None,) * 4), text, training_loss, "stop"),
            checkpoint=None if checkpoint is None else _section(checkpoint, *described),
            reference=reference,
        ),
        as_json,
    )
    if as_json:
        print_json(found.to_json())
    else:
        print(visible(found.table()))
    if found.is_refused:
        raise typer.Exit(EXIT_NO)


@base_app.command(
    "diagnose",
    epilog="Example: genesis-sft base diagnose models/genesis-1b --text held_out.txt --write models/genesis-1b-mended",
)
def diagnose_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face folder, a .gguf file, package:NAME, or a checkpoint.")
    ],
    write: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the corrected folder there, if the finding is clear.")
    ] = None,
    tokenizer: Tokenizer = None,
    config: Config = None,
    names: Names = None,
    root: Root = None,
    text: Text = None,
    training_loss: TrainingLoss = None,
    num_heads: NumHeads = None,
    num_kv_heads: NumKvHeads = None,
    rope_layout: RopeLayout = None,
    rope_theta: RopeTheta = None,
    norm_eps: NormEps = None,
    tied: Tied = None,
    embedding_scale: EmbeddingScale = None,
    bos: Bos = None,
    context: Context = None,
    as_json: JsonOption = False,
) -> None:
    """Try what else the tensors of a Llama-style model may mean, and name what was taken wrongly.

    Exit status 0 whatever is found; 1 when --write is given and the finding is not clear enough to write by.
    """
    section = _section(
        model, tokenizer, config, names, root, text, training_loss, "stop",
        num_heads, num_kv_heads, rope_layout, rope_theta, norm_eps, tied, embedding_scale, bos, context,
    )  # fmt: skip
    from genesis_sft.checkpoint.convert import diagnose_and_mend

    show = None if as_json else lambda text: print(visible(text))
    found = _answer_refusals(lambda: diagnose_and_mend(section, write, show=show), as_json)
    if as_json:
        print_json(found.to_json() | {"model": None if write is None else str(write)})


def _section(
    model: str,
    tokenizer: str | None,
    config: str | None,
    names: str | None,
    root: str | None,
    text: list[str] | None,
    training_loss: float | None,
    verify: str,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    rope_layout: str | None = None,
    rope_theta: float | None = None,
    norm_eps: float | None = None,
    tied: bool | None = None,
    embedding_scale: float | None = None,
    bos: bool | None = None,
    context: int | None = None,
) -> Any:
    """Build the section that a recipe would have; wrong values are refused in the same words."""
    from pydantic import ValidationError

    from genesis_sft.recipe.sections import BaseSection

    conventions = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "rope_layout": rope_layout,
        "rope_theta": rope_theta,
        "norm_eps": norm_eps,
        "tied": tied,
        "embedding_scale": embedding_scale,
        "bos": bos,
        "context": context,
    }
    values = {
        "model": model,
        "tokenizer": tokenizer,
        "config": config,
        "names": names,
        "root": root,
        "text": text or [],
        "training_loss": training_loss,
        "verify": verify,
        "conventions": conventions,
    }
    try:
        return BaseSection.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][-1] if first["loc"] else "model").replace("_", "-")
        expected = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
        raise InputError(f"--{option}: expected {expected}") from None


def _show_plan(section: Any, as_json: bool) -> None:
    from genesis_sft.checkpoint.diagnosis.diagnose import conventions_to_json
    from genesis_sft.checkpoint.llama.conventions import describe
    from genesis_sft.checkpoint.opened import describe_source, open_checkpoint

    opened = open_checkpoint(section)
    stated, sizes = conventions_to_json(opened.stated), vars(opened.stored.sizes)
    if as_json:
        names = {name: str(slot) for slot, name in opened.stored.names.slots.items()}
        print_json({"names": names, "sizes": sizes, "conventions": stated, "unknown": sorted(opened.unknown)})
        return
    print(visible(describe_source(opened.stored.source)))
    print(visible(opened.names))
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sizes.items()))
    for name in stated:
        to_be_found = "  (nobody states it: will be found by trying)" if name in opened.unknown else ""
        print(f"  {describe(name, getattr(opened.stated, name))}{to_be_found}")


def _answer_refusals(work: Callable[[], Any], as_json: bool) -> Any:
    """Do the work; where the answer is no, give it as JSON as well if that was asked for."""
    try:
        return work()
    except CheckFailed as refusal:
        if as_json:
            print_json({"refused": True, "causes": [str(refusal)]})
        raise


def _require_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{option}: expected {', '.join(choices)}; found {value!r}")
