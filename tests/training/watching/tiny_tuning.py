"""A tiny world in which fine-tuning goes well or wrong within seconds: a pretrained Llama and conversations for it.

The base has learned texts in which each word leaves four that may follow. Conversations ask with such a text and are
answered with one of a kind that differs after a third of the words, and ends with the word STOP: there is something new
to learn, something old to lose, and a place where a turn ends. The best learning rate is 3e-3 to 1e-2.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from genesis_sft.batches.collate import Example, collate
from genesis_sft.mixture.table import TokenTable
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.processes.parallel import Ranks, Trainable
from genesis_sft.training.step import StepResult, train_step
from genesis_sft.training.watching.health import Health, data_facts, row_facts

ALONE = Ranks(0, 1, 1, torch.device("cpu"))
WORDS, STOP, NEWLINE, USER, ASSISTANT = 56, 55, 56, 57, 58
START, END = 60, 61
CONTROL_IDS = {"<|im_start|>": START, "<|im_end|>": END, "<think>": 62, "</think>": 63}
VOCAB = 64
GOOD_RATE = 3e-3
SEQUENCES = 8
WARMUP_STEPS = 10

Rule = NDArray[np.int64]
Change = Callable[[LlamaForCausalLM], None]


class Conversations:
    """The examples of a run as a table, as far as it is asked."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def input_ids(self, index: int) -> NDArray[np.int64]:
        return self.examples[index][0]

    def trained(self, index: int) -> Sequence[tuple[int, int]]:
        return self.examples[index][1]


@functools.cache
def rules() -> tuple[Rule, Rule]:
    """Which four words may follow each word: in the base's texts, and in answers."""
    draw = np.random.default_rng(1)
    old, other = (np.stack([draw.choice(WORDS, 4, replace=False) for _ in range(WORDS)]) for _ in range(2))
    new, changed = old.copy(), draw.choice(WORDS, WORDS // 3, replace=False)
    new[changed] = other[changed]
    return old, new


def write(draw: np.random.Generator, rule: Rule, length: int, *, stops: bool = False) -> list[int]:
    """Write a text by a rule, the first of the four words most often; up to a length, or to STOP before it."""
    text = [int(draw.integers(WORDS))]
    while len(text) < length and not (stops and text[-1] == STOP):
        text.append(int(rule[text[-1]][min(int(draw.geometric(0.5)) - 1, 3)]))
    return [*text[: length - 1], STOP] if stops and text[-1] != STOP else text


def converse(draw: np.random.Generator, *, train_end: bool = True) -> Example:
    """Make one conversation; its answer is trained, with the end of the turn or without."""
    old, new = rules()
    question, answer = write(draw, old, int(draw.integers(4, 12))), write(draw, new, 24, stops=True)
    ids = [START, USER, NEWLINE, *question, END, NEWLINE, START, ASSISTANT, NEWLINE]
    first = len(ids)
    ids += [*answer, END, NEWLINE]
    return np.array(ids), [(first, first + len(answer) + train_end)]


def conversations(seed: int, count: int, *, train_end: bool = True) -> list[Example]:
    draw = np.random.default_rng(1000 + seed)
    return [converse(draw, train_end=train_end) for _ in range(count)]


@functools.cache
def _pretrained(seed: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.125,  # 1 / sqrt(hidden_size): weights of a trained model's size, which updates are small to
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    draw = np.random.default_rng(seed)
    texts = [[np.array(write(draw, rules()[0], 24)) for _ in range(16)] for _ in range(300)]
    batches = [[(text, [(1, len(text))]) for text in step] for step in texts]
    tune(model, batches, 3e-3)
    with torch.no_grad():  # as control tokens are given to a base
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[START:] = table[:START].mean(dim=0)
    return model


def pretrained(seed: int = 0, *, tied: bool = True) -> LlamaForCausalLM:
    """Return a base of one's own; its control tokens have the mean of the other rows."""
    return copy.deepcopy(_pretrained(seed, tied))


def tune(
    model: LlamaForCausalLM,
    steps: Sequence[Sequence[Example]],
    learning_rate: float,
    *,
    max_grad_norm: float = 1.0,
    warmup_steps: int = WARMUP_STEPS,
    optimized: Callable[[LlamaForCausalLM], Iterable[torch.nn.Parameter]] = LlamaForCausalLM.parameters,
    health_every: int = 5,
) -> list[dict[str, Any]]:
    """Train as a run does, one micro-batch a step, with a cosine down to a tenth; return its rows of metrics."""
    section = TrainingSection(batch=BatchSection(sequences=SEQUENCES), precision="float32")
    trainable = Trainable(Objective(model, end_of_turn=END).train(), ALONE, section)
    parameters = [parameter for parameter in optimized(model) if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.01)
    health = Health(trainable, CONTROL_IDS, ALONE, every_steps=health_every)
    rows = []
    for step, examples in enumerate(steps, 1):
        cosine = 0.55 + 0.45 * float(np.cos(np.pi * step / len(steps)))
        rate = learning_rate * min(1.0, step / warmup_steps) * cosine
        for group in optimizer.param_groups:
            group["lr"] = rate
        health.start(step)
        batches = [collate(examples, end_of_turn=END)]
        result = train_step(trainable, optimizer, batches, ALONE, max_grad_norm=max_grad_norm, watch=health)
        rows.append(_row(step, result, rate, health.take()))
    return rows


def _row(step: int, result: StepResult, rate: float, health: dict[str, Any] | None) -> dict[str, Any]:
    finite = bool(np.isfinite(result.loss))
    row = {
        "step": step,
        "loss": result.loss if finite else None,
        "learning_rate": rate,
        "skipped": result.skipped,
        "end_probability": result.end_probability,
        "elsewhere_probability": result.elsewhere_probability,
    }
    return row | ({"health": health} if health is not None else {})


def run(
    learning_rate: float = GOOD_RATE,
    *,
    seed: int = 0,
    num_steps: int = 200,
    tied: bool = True,
    train_end: bool = True,
    change: Change | None = None,
    examples: Sequence[Example] | None = None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Tune a fresh base, changed first if asked; return rows of metrics and facts, as a run has them."""
    model = pretrained(seed, tied=tied)
    if change is not None:
        change(model)
    found = examples or conversations(seed, num_steps * SEQUENCES, train_end=train_end)
    facts = {
        **row_facts(model, CONTROL_IDS),
        **data_facts(cast("TokenTable", Conversations(found)), END),
        "num_steps": num_steps,
    }
    steps = [found[start : start + SEQUENCES] for start in range(0, num_steps * SEQUENCES, SEQUENCES)]
    return tune(model, steps, learning_rate, **settings), facts
