"""The same run twice, padded to a fixed 2048 tokens as published and without padding: same losses, other time.

    python bench/padding.py --data DATA --model runs/quickstart/base/model

DATA is a folder of .jsonl.gz files of conversations. The model is cut to its first layers (real shapes, real embedding,
real tokenizer), so that the padded run ends within minutes on two cores. Both runs go through
`genesis_sft.training.loop.train`, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from genesis_sft.recipe import BatchSection, CheckpointSection, TrainingSection

PUBLISHED_LENGTH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--data", type=Path, help="folder of .jsonl.gz files")
    parser.add_argument("--model", type=Path, help="model folder with the control tokens")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "SECTION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        train_once(Path(arguments.worker[0]), TrainingSection.model_validate_json(arguments.worker[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder, arguments.model, arguments.layers)
        make_data(folder, arguments.data)
        rows = {pad_to: run_apart(folder, arguments, pad_to) for pad_to in (None, PUBLISHED_LENGTH)}
    report(rows[None], rows[PUBLISHED_LENGTH])


def make_base(folder: Path, model_folder: Path, layers: int) -> None:
    """Write a model with its first layers only."""
    from genesis_sft.checkpoint.model_dir import ModelDir

    base = ModelDir.open(model_folder)
    model = base.load_model()
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    model.config.layer_types = None
    model.save_pretrained(folder / "base")
    for path in base.path.glob("token*"):
        shutil.copy(path, folder / "base")


def make_data(folder: Path, data: Path) -> None:
    """Write tokens of real conversations, some of each source."""
    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.mixture.prepare import prepare_data
    from genesis_sft.recipe import DataSection, SourceSection, TokensSection

    files = sorted(data.glob("*.jsonl.gz"))
    if not files:
        sys.exit(f"expected .jsonl.gz files in {data}; found none")
    sources = tuple(
        SourceSection(name=path.name.split(".")[0], path=str(path), take=60, turns="repair") for path in files
    )
    tokenizer = ModelDir.open(folder / "base").load_tokenizer()
    (folder / "data").mkdir()
    prepare_data(
        DataSection(sources=sources), TokensSection(max_length=PUBLISHED_LENGTH), 0, tokenizer, (), folder / "data"
    )


def run_apart(folder: Path, arguments: argparse.Namespace, pad_to: int | None) -> list[dict[str, Any]]:
    """Train in a process of its own; return the rows of its metrics."""
    section = TrainingSection(
        batch=BatchSection(sequences=arguments.sequences),
        max_steps=arguments.steps,
        epochs=1000,
        learning_rate=1e-4,
        min_learning_rate=1e-5,
        warmup_steps=3,
        precision="float32",
        micro_batch_tokens=2 * PUBLISHED_LENGTH,
        pad_to=pad_to,
        certificate=False,
        checkpoints=CheckpointSection(every_steps=100_000),
    )
    print(f"training {'without padding' if pad_to is None else f'padded to {pad_to}'} ...", flush=True)
    command = [sys.executable, __file__, "--worker", str(folder), section.model_dump_json()]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in (train_folder(folder, pad_to) / "metrics.jsonl").read_text().splitlines()]


def train_once(folder: Path, section: TrainingSection) -> None:
    """Do one of the two runs."""
    from genesis_sft.checkpoint.model_dir import ModelDir
    from genesis_sft.mixture.store import TokenStore
    from genesis_sft.training.loop import train

    out = train_folder(folder, section.pad_to)
    out.mkdir()
    train(section, ModelDir.open(folder / "base"), TokenStore.open(folder / "data"), out, seed=1)


def train_folder(folder: Path, pad_to: int | None) -> Path:
    return folder / f"train-{pad_to or 'unpadded'}"


def report(unpadded: list[dict[str, Any]], padded: list[dict[str, Any]]) -> None:
    """Print both curves' difference and the ratio of times."""
    worst = {
        name: max(abs(one[name] - other[name]) / abs(other[name]) for one, other in zip(unpadded, padded, strict=True))
        for name in ("loss", "grad_norm")
    }
    seconds = [sum(row["elapsed_seconds"] for row in rows) for rows in (unpadded, padded)]
    tokens = sum(row["tokens"] for row in unpadded)
    print(f"{len(unpadded)} steps, {tokens:,} tokens; loss {unpadded[0]['loss']:.4f} -> {unpadded[-1]['loss']:.4f}")
    print(f"largest relative difference: loss {worst['loss']:.1e}, gradient norm {worst['grad_norm']:.1e}")
    print(
        f"without padding {seconds[0]:.1f} s ({tokens / seconds[0]:.0f} tokens/s), padded to {PUBLISHED_LENGTH} "
        f"{seconds[1]:.1f} s ({tokens / seconds[1]:.0f} tokens/s): {seconds[1] / seconds[0]:.1f} times as long"
    )


if __name__ == "__main__":
    main()
