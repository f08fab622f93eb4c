"""Which models can be trained: causal language models of the Llama family, in what they do rather than in their names.

A tiny input goes through the model while a probe stands in for its attention, and another in place of its output head.
What a model asks of its attention, what it does to its logits, and whether one conversation moves another are seen
there; only what no short input shows is read from its config.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from genesis_sft.batches.collate import Batch, collate
from genesis_sft.errors import ModelError
from genesis_sft.training.forward.attention import KERNELS, SEGMENT_ATTENTION
from genesis_sft.training.proof.textbook import stock_attention, without_dropout

_PROBE = "genesis_probe"

_UNDERSTOOD = frozenset(
    {"segment_starts", "scaling", "dropout", "is_causal", "sliding_window"}
    # said by some models to every kernel, and nothing that changes the result
    | {"position_ids", "cache_position", "use_cache", "output_attentions", "past_key_values", "deterministic"}
)
"""What a model may say to its attention; the values of the first line are looked at."""

_LENGTHS = (5, 7, 3)
"""Tokens of the conversations of the tiny input."""


def require_llama_family(model: PreTrainedModel, longest: int | None = None) -> None:
    """Refuse a model that training would compute wrongly, with the reason.

    Args:
        model: Whole, not wrapped, its attention one of our kernels; it is left as it was.
        longest: Tokens of the longest conversation; the model's context when absent.

    Raises:
        ModelError: What of the model training does not compute.
    """
    context = int(getattr(model.config, "max_position_embeddings", None) or 0)
    with torch.no_grad(), without_dropout(model):
        reasons = _reasons(model, context if longest is None else longest)
        reason = next(reasons, None)
    if reason is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be trained here: {reason}",
            hint="Models of the Llama family can: Llama, SmolLM, Qwen2 and 3, Mistral, OLMo2, Phi3 and their like.",
        )


def _reasons(model: PreTrainedModel, longest: int) -> Iterator[str]:
    """Yield what training does not compute; each check may rely on those before it."""
    if getattr(model.config, "is_encoder_decoder", False):
        yield "it has an encoder, and only decoders are trained"
    if (experts := _num_experts(model)) > 1:
        yield f"it is a mixture of {experts} experts, and the loss that balances its router is not computed"
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        yield "its output head is no linear map of the hidden states"
    calls: list[dict[str, Any]] = []
    try:
        _hidden(model, _tiny_input(model), calls)
    except Exception as error:  # whatever its code met: it cannot be called as training calls it
        yield f"its forward pass does not take conversations laid end to end ({_in_short(error)})"
    yield from _of_attention(model, calls, longest)
    yield from _of_positions(model, longest)
    yield from _of_head(model)
    yield from _of_behaviour(model)


def _of_attention(model: PreTrainedModel, calls: list[dict[str, Any]], longest: int) -> Iterator[str]:
    num_layers = int(getattr(model.config, "num_hidden_layers", 0))
    if len(calls) < max(1, num_layers):
        yield (
            f"{len(calls)} of its {num_layers} layers go through transformers' attention interface; in the others "
            "(recurrent, convolution, linear or other attention) conversations would see each other"
        )
    asked = {name for call in calls for name, value in call.items() if value is not None and value is not False}
    if unknown := sorted(asked - _UNDERSTOOD):
        known = {"softcap": "soft-capped scores", "s_aux": "attention sinks", "position_bias": "a position bias"}
        yield f"its attention has {', '.join(known.get(name, name) for name in unknown)}, which the kernels here lack"
    if any(call.get("is_causal") is False for call in calls):
        yield "its attention looks ahead"
    for window in sorted({call["sliding_window"] for call in calls if call.get("sliding_window")} | _windows(model)):
        if window < longest:
            yield (
                f"its attention sees {window} tokens back, the longest conversation has {longest}: a sliding window is "
                f"not computed. With tokens.max_length: {window} it can be trained"
            )


def _of_positions(model: PreTrainedModel, longest: int) -> Iterator[str]:
    for rope in _rope_settings(model):
        kind = rope.get("rope_type", rope.get("type"))
        original = rope.get("original_max_position_embeddings") or model.config.max_position_embeddings
        if kind in ("dynamic", "longrope") and longest > original:
            yield (
                f"its positions ({kind}) depend on the longest conversation of a forward pass, beyond {original} "
                "tokens, so that a loss depends on how work is cut. "
                f"With tokens.max_length: {original} it can be trained"
            )


def _of_head(model: PreTrainedModel) -> Iterator[str]:
    """Put known logits in place of the head's, and see what comes out; and what went in."""
    inputs: list[torch.Tensor] = []

    def stand_in(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        inputs.append(args[0])
        return torch.linspace(-100, 100, output.numel(), dtype=output.dtype, device=output.device).view_as(output)

    ids = _tiny_input(model).input_ids[None]
    hook = model.get_output_embeddings().register_forward_hook(stand_in)
    try:
        with stock_attention(model):
            logits = model(input_ids=ids, use_cache=False).logits.float()
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    given = torch.linspace(-100, 100, logits.numel(), dtype=hidden.dtype, device=logits.device).view_as(logits).float()
    if _relative(logits, given) > _rounding(model):
        scale = float((logits * given).sum() / given.square().sum())
        bent = _relative(logits, scale * given) > _rounding(model)
        yield "it soft-caps its logits" if bent else f"it multiplies its logits by {scale:.4g} after the output head"
    elif _relative(inputs[0].float(), hidden.float()) > _rounding(model):
        yield "it scales or changes its hidden states before the output head"


def _of_behaviour(model: PreTrainedModel) -> Iterator[str]:
    """Compare with each conversation alone, as transformers computes it; and change the first one."""
    batch = _tiny_input(model)
    together = _hidden(model, batch, [])
    with stock_attention(model):
        alone = [
            model.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state[0]
            for ids in batch.input_ids.split(_LENGTHS)
        ]
    ids = batch.input_ids.clone()
    ids[: _LENGTHS[0]] = (ids[: _LENGTHS[0]] + 1) % model.config.vocab_size
    after = _hidden(model, replace(batch, input_ids=ids), [])
    rest = slice(_LENGTHS[0], None)
    if _relative(after[rest], together[rest]) > (0.0 if model.device.type == "cpu" else _rounding(model)):
        yield "a conversation changes the hidden states of the one after it"
    elif (difference := _relative(together, torch.cat(alone))) > _rounding(model):
        yield f"its hidden states are {difference:.1e} off those of each conversation alone"


def _hidden(model: PreTrainedModel, batch: Batch, calls: list[dict[str, Any]]) -> torch.Tensor:
    """Return the hidden states as training computes them, (T, hidden_size) float32; note what attention was told."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_PROBE)
    try:
        output = model.get_decoder()(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            segment_starts=batch.segment_starts,
            calls=calls,
        )
    finally:
        model.set_attn_implementation(before)
    hidden: torch.Tensor = output.last_hidden_state[0].float()
    return hidden


def _probe_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    calls: list[dict[str, Any]],
    **said: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as training does, and note what the layer says to its attention."""
    calls.append({"is_causal": getattr(module, "is_causal", None)} | said)
    return KERNELS[SEGMENT_ATTENTION](module, query, key, value, attention_mask, **said)


AttentionInterface.register(_PROBE, _probe_attention)
AttentionMaskInterface.register(_PROBE, lambda *_, **__: None)


def _tiny_input(model: PreTrainedModel) -> Batch:
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, model.config.vocab_size, length) for length in _LENGTHS]
    return collate([(one, []) for one in ids]).to(model.device)


def _num_experts(model: PreTrainedModel) -> int:
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return max(int(getattr(model.config, name, None) or 0) for name in names)


def _windows(model: PreTrainedModel) -> set[int]:
    """Return the windows that the config speaks of, which some models say in their masks only."""
    kinds = getattr(model.config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return set()
    found = (getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return {int(window) for window in found if window}


def _rope_settings(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the settings of rotary embeddings, of which some models have several, by kind of layer."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    nested = [settings for settings in rope.values() if isinstance(settings, dict)]
    return nested or [rope]


def _rounding(model: PreTrainedModel) -> float:
    """Relative difference that rounding explains: ten times what tiny models of each data type show, or more."""
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _in_short(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:200]
