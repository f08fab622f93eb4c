"""Greedy answers to several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from genesis_sft.console import Progress
from genesis_sft.errors import ModelError


def generate_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    bar: Progress | None = None,
) -> list[list[int]]:
    """Return what a model writes after each prompt, the likeliest token each time.

    Args:
        model: A causal language model in eval mode.
        prompts: Token ids of each prompt.
        stop_ids: Ids that end an answer; they are part of it.
        max_new_tokens: Longest answer; less where the model's context ends earlier.
        repetition_penalty: See `penalize`.
        bar: Told of each answer that is done.

    Returns:
        Ids of each answer, in the order of the prompts. Its last id is a stop id, or it reached the limit.

    Raises:
        ModelError: The model's outputs are not numbers.
    """
    answers: list[list[int]] = [[] for _ in prompts]

    def choose(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return penalize(logits, [answers[row] for row in rows], repetition_penalty).argmax(dim=-1)

    for step in generate_steps(model, prompts, stop_ids, max_new_tokens, choose):
        for row, token in step:
            answers[row].append(token)
        if bar is not None:
            bar.advance(sum(token in stop_ids for _, token in step))
    if bar is not None:
        bar.advance(sum(not answer or answer[-1] not in stop_ids for answer in answers))
    return answers


@torch.inference_mode()
def generate_steps(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    max_new_tokens: int,
    choose: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
) -> Iterator[list[tuple[int, int]]]:
    """Yield what a model writes after each prompt, a token of each at a time, as (number of the prompt, token).

    Prompts are padded on the left and masked there, so that an answer is that of the prompt alone. A row that is done
    leaves the batch.

    Args:
        model: A causal language model in eval mode.
        prompts: Token ids of each prompt.
        stop_ids: Ids that end an answer; they are part of it.
        max_new_tokens: Longest answer; less where the model's context ends earlier.
        choose: Takes logits (B, vocab_size) and the numbers of their prompts (B), and returns the next tokens (B,).

    Raises:
        ModelError: The model's outputs are not numbers.
    """
    input_ids, mask = _pad_left(prompts, model.device)  # (B, P) both
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    alive = list(range(len(prompts)))
    for _ in range(min(max_new_tokens, room(model, input_ids.shape[1]))):
        output = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1, : model.config.vocab_size].float()  # (B, V); beyond lies padding, in training
        refuse_nan(logits)
        tokens = choose(logits, alive)  # (B,)
        step = list(zip(alive, tokens.tolist(), strict=True))
        yield step
        going_on = [place for place, (_, token) in enumerate(step) if token not in stop_ids]
        if not going_on:
            return
        input_ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if len(going_on) < len(alive):
            keep = torch.tensor(going_on, device=model.device)
            cache.batch_select_indices(keep)
            input_ids, positions, mask = input_ids[keep], positions[keep], mask[keep]
            alive = [alive[place] for place in going_on]


def penalize(logits: torch.Tensor, written: Sequence[Sequence[int]], penalty: float) -> torch.Tensor:
    """Return logits with tokens that an answer holds already made less likely.

    They are divided by the penalty where they are positive, and multiplied where negative (Keskar et al. 2019,
    arXiv:1909.05858, section 4.1). Tokens of the prompt do not count, so that the end of a turn is never held back.

    Args:
        logits: (B, vocab_size).
        written: Ids of each answer so far (B).
        penalty: 1 leaves all as they are.
    """
    if penalty == 1.0:
        return logits
    logits = logits.clone()
    for row, ids in enumerate(written):
        seen = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits.device)
        known = logits[row, seen]
        logits[row, seen] = torch.where(known > 0, known / penalty, known * penalty)
    return logits


def room(model: PreTrainedModel, longest_prompt: int) -> int:
    """Tokens that can still be written before the model's context ends."""
    context = getattr(model.config, "max_position_embeddings", None)
    return max(0, context - longest_prompt) if context else 1 << 30


def refuse_nan(logits: torch.Tensor) -> None:
    """Refuse logits from which no token can be chosen: the largest of them is no finite number.

    Raises:
        ModelError: It is not.
    """
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise ModelError(
            "expected logits from the model, found values that are not numbers (NaN) or infinite",
            hint="The weights hold infinities or NaN; look at the last checkpoint before this one.",
        )


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and the mask, (B, longest prompt) both; 0 stands where nothing is."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
