"""Train a tokenizer and a tiny model on the made-up language: about half a minute on one core."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import nn

from tests.checkpoint.genesis.language import document, sentences
from tests.checkpoint.genesis.training_code import ModelArgs, Transformer

BOS = 1
NUM_HELD_OUT = 4
HELD_OUT_WORDS = 1200
TRAINING_WORDS = 8000  # a BOS within a window is rare, so that the model comes to lean on the one at its start
FIRST_TRAINING_SEED, FIRST_HELD_OUT_SEED = 1_000, 900_000


@dataclass(frozen=True)
class TinyGenesis:
    """What a pretraining run leaves behind, and the model itself."""

    folder: Path
    model: Transformer
    tokenizer_file: Path  # SentencePiece, BPE
    config_file: Path  # JSON, in the training code's own words
    state_file: Path  # the plain state dict, for tests of .pt files and for the ranks of save_two_ranks
    held_out_text: tuple[Path, ...]  # one document each, about 1,250 tokens, never trained on
    training_loss: float  # nats a token, mean of the last tenth of the steps

    def processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_file=str(self.tokenizer_file))

    def held_out_windows(self) -> torch.Tensor:
        """Held-out text in windows that start with BOS, as in training: (windows, max_seq_len)."""
        documents = [self.processor().encode(path.read_text(encoding="utf-8")) for path in self.held_out_text]
        return torch.cat([cut_windows(document, self.model.args.max_seq_len) for document in documents])


def train_tiny(
    folder: Path,
    args: ModelArgs = ModelArgs(),  # noqa: B008
    *,
    steps: int = 400,
    windows_a_step: int = 8,
    learning_rate: float = 8e-3,
    embedding_learning_rate: float = 1e-3,
    seed: int = 1,
) -> TinyGenesis:
    """Train tokenizer and model, write what a user of the training code would have, and return both."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_file = train_tokenizer(folder / "tokenizer.model", args.vocab_size)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = initialise(Transformer(args))
    batches = itertools.islice(training_batches(processor, windows_a_step, args.max_seq_len, seed), steps)
    training_loss = train(model, batches, steps, learning_rate, embedding_learning_rate)
    torch.save(model.state_dict(), folder / "weights.pt")
    config_file = folder / "train_config.json"
    config = asdict(args) | {"bos": True, "training_loss": round(training_loss, 4)}
    config_file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    held_out = tuple(write_held_out(folder / "held_out", n) for n in range(NUM_HELD_OUT))
    return TinyGenesis(
        folder, model.eval(), tokenizer_file, config_file, folder / "weights.pt", held_out, training_loss
    )


def train_tokenizer(path: Path, vocab_size: int = 576, texts: Iterable[str] | None = None) -> Path:
    """Train a SentencePiece BPE model with Llama's settings on ``texts`` (default: the language) and write it."""
    if texts is None:
        # no emoji among them, so that a text's emoji are said in bytes
        texts = (text for text in itertools.islice(sentences(7), 3000) if max(text) < "\U0001f000")
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n")),  # as from a file
            model_writer=file,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.999,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            num_threads=1,
            minloglevel=2,
        )
    return path


def initialise(model: Transformer) -> Transformer:
    """Matrices by fan-in, embeddings small: epsilon weighs something beside their mean square in the first norm."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.02 if "tok_embeddings" in name else weight.shape[1] ** -0.5)
    return model


def training_batches(
    processor: sentencepiece.SentencePieceProcessor, windows: int, length: int, seed: int
) -> Iterator[torch.Tensor]:
    """Documents one after the other, each behind a BOS, cut into windows that start with BOS: (windows, length)."""
    ids: list[int] = []
    needed = windows * (length - 1)
    for document_seed in itertools.count(FIRST_TRAINING_SEED + 10_000 * seed):
        while len(ids) >= needed:
            yield cut_windows(ids[:needed], length)
            ids = ids[needed:]
        ids += [BOS, *processor.encode(document(document_seed, TRAINING_WORDS))]


def cut_windows(ids: list[int], length: int) -> torch.Tensor:
    """Whole windows of ``length`` ids, BOS and ``length - 1`` of the document's; the remainder is dropped."""
    rows = torch.tensor(ids[: len(ids) // (length - 1) * (length - 1)]).view(-1, length - 1)
    return nn.functional.pad(rows, (1, 0), value=BOS)


def train(
    model: Transformer,
    batches: Iterator[torch.Tensor],
    steps: int,
    learning_rate: float,
    embedding_learning_rate: float,
) -> float:
    """Train by AdamW, warm-up then constant then down to zero; return the mean loss of the last tenth of the steps."""
    embedding = [model.tok_embeddings.weight]
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "tok_embeddings" not in name]
    scales = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [
        {"params": embedding, "lr": embedding_learning_rate, "weight_decay": 0.0},
        {"params": matrices, "lr": learning_rate, "weight_decay": 0.1},
        {"params": scales, "lr": learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, (n + 1) / 30, (steps - n) / (0.3 * steps))
    )
    losses = []
    for batch in batches:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def loss_of(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean nats a token of every id but the first, (windows, T)."""
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def unigram_entropy(windows: torch.Tensor) -> float:
    """Nats a token that the windows' own frequencies cost, BOS aside."""
    counts = Counter(windows[:, 1:].flatten().tolist())
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def write_held_out(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"document_{number}.txt"
    path.write_text(document(FIRST_HELD_OUT_SEED + number, HELD_OUT_WORDS), encoding="utf-8")
    return path
