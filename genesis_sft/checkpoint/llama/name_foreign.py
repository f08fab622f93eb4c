"""Tensors that a Llama-style model does not need, and marks of architectures that are not Llama's."""

from __future__ import annotations

import re

from genesis_sft.checkpoint.llama.name_parts import NameParts, plain, words

ROPE, MASK, SINGLE = "computed from the config: RoPE frequencies", "causal mask", "a single number, no weight"

_ROPE_BUFFERS = words(
    "invfreq originalinvfreq freqscis freqs freqscos freqssin coscached sincached ropecache coscache "
    "sincache cos sin cossincache ropefreqs poscis ropecos ropesin"
)
_MASKS = words("mask causalmask attnmask attentionmask tril maskedbias")

_FEATURES = tuple(
    (re.compile(pattern), feature)
    for pattern, feature in (
        (r"(?:q|k|qk|query|key|queries|keys)(?:layer)?(?:norm|ln|layernorm|rmsnorm)|(?:norm|ln|rmsnorm)(?:q|k|qk)",
         "qk-norm"),
        (r"(?:wpe|pos|position|positional|positions)(?:emb|embed|embeds|embedding|embeddings|encoding|encodings)?|wpe",
         "learned positions"),
        (r".*(?:experts?|moe|router)", "mixture of experts"),
        (r"mtp.*|ehproj|enorm|hnorm|sharedhead", "multi-token prediction"),
        (r".*(?:cross|encdec|encoder)(?:attn|attention).*", "cross-attention"),
        (r"post(?:attn|attention|ffn|ffw|mlp|feedforward)(?:norm|ln|layernorm|rmsnorm)|norm[34]|ln[34]",
         "norms behind attention or MLP"),
        (r"kvaproj.*|kvbproj|qaproj|qbproj|kvdown|kvup|wkva|wkvb|wqa|wqb", "latent attention (low-rank keys)"),
        (r"lora.*|.*adapters?", "adapters (LoRA)"),
        (r"(?:attn|attention)?sinks?", "attention sinks"),
        (r"alibi.*|slopes|relativeattentionbias|relposbias", "another position scheme than RoPE"),
        (r".*flatparam.*", "FSDP flat parameters, saved without their names"),
        (r"qweight|qzeros|scales|gidx|weightscale.*|inputscale|absmax|quantmap|quantstate.*", "quantised weights"),
        (r"alog|conv1d|xproj|dtproj|ssm", "state-space layers"),
        (r"vision.*|image.*|audio.*", "other inputs than text"),
    )
)  # fmt: skip


def needless(parts: NameParts, shape: tuple[int, ...]) -> str | None:
    """Return why a tensor is not needed, ``None`` for one that may be a weight."""
    if not parts.path:
        return None
    last = plain(parts.path[-1])
    square = len(shape) >= 2 and shape[-1] == shape[-2]
    if last in _ROPE_BUFFERS:
        return ROPE
    if last in _MASKS or (last == "bias" and square):
        return MASK
    if shape == ():
        return SINGLE
    return None


def foreign_feature(parts: NameParts) -> str | None:
    """Return the known part of another architecture that a name speaks of."""
    words = [plain(part) for part in parts.path]
    return next((feature for pattern, feature in _FEATURES for word in words if pattern.fullmatch(word)), None)
