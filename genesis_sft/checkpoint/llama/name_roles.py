"""What a component of a stored name says about the tensor's role: the field's spellings, as rules.

Components are compared as ``name_parts.plain`` spells them: lower case, without underscores. The names come from
transformers, Meta's llama, GPT-2 and nanoGPT, LitGPT, torchtune, Megatron, GGUF and their like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from genesis_sft.checkpoint.llama.name_parts import NameParts, plain, words
from genesis_sft.checkpoint.llama.slots import NORM_ROLES, Role

# a matrix of an MLP that only its number names; which one it is, shapes and its company tell (name_mlp.py)
Numbered = Literal["mlp 1", "mlp 2", "mlp 3", "mlp in"]

# what may stand before a model without meaning another model
CONTAINERS = words(
    "model app state net network transformer decoder backbone languagemodel textmodel llm lm gpt llama "
    "basemodel core trunk stack statedict weights params embedding embeddings embed embedder inputlayer "
    "tokembeddings outputblock modelstatedict"
)
_ATTENTION = words(
    "selfattn attn attention selfattention att mha gqa sa multiheadattention causalselfattention "
    "attnblock attentionblock attentionlayer attnlayer"
)
_MLP = words("mlp ffn ff feedforward ffw swiglu glu mlpblock ffnblock mlplayer ffnlayer feedforwardnetwork")
_NEUTRAL = words("linear inner fn net innerattention coreattention sublayer op")

_BEFORE, _AFTER = r"(?:w|to|c|linear|lin|proj|dense|fc)?", r"(?:proj|projection|linear|lin|layer|dense|w)?"
_IN_ATTENTION = r"(?:selfattn|selfattention|attn|attention|att)?"
_IN_MLP = r"(?:mlp|ffn|ff|feedforward)?"
_NORM = r"(?:rms)?(?:norm|ln|layernorm|rms|rmsln)"

_Rule = tuple[re.Pattern[str], Role | Numbered]


def _rules(*pairs: tuple[str, Role | Numbered]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern), role) for pattern, role in pairs)


# anywhere in a layer
_CLEAR_ATTENTION = _rules(
    (rf"{_IN_ATTENTION}{_BEFORE}(?:q|query|queries){_AFTER}", "q"),
    (rf"{_IN_ATTENTION}{_BEFORE}(?:k|key|keys){_AFTER}", "k"),
    (rf"{_IN_ATTENTION}{_BEFORE}(?:v|value|values){_AFTER}", "v"),
    (rf"{_IN_ATTENTION}{_BEFORE}(?:qkv|querykeyvalue){_AFTER}", "qkv"),
    (
        r"wo|oproj|outproj|outputproj|toout|wout|linearo|(?:selfattn|attn|attention|att)(?:o|out|output|oproj|outproj)",
        "o",
    ),
)
_CLEAR_MLP = _rules(
    (rf"{_IN_MLP}{_BEFORE}gate{_AFTER}|fc1g", "gate"),
    (rf"{_IN_MLP}{_BEFORE}up{_AFTER}|fc1x", "up"),
    (rf"{_IN_MLP}{_BEFORE}down{_AFTER}|dense4htoh|ffout", "down"),
    (rf"{_IN_MLP}{_BEFORE}(?:gateup|gateandup|upgate){_AFTER}|w13|w12|w1w3|w1w2", "gate_up"),
    (r"(?:w|fc|cfc|linear|lin|dense|ff)1", "mlp 1"),
    (r"(?:w|fc|cfc|linear|lin|dense|ff)2", "mlp 2"),
    (r"(?:w|fc|cfc|linear|lin|dense|ff)3", "mlp 3"),
    (r"cfc|ffproj|fcin|densehto4h|linearfc1", "mlp in"),
    (r"fcout|linearfc2", "down"),
)
_CLEAR_NORM = _rules(
    (rf"(?:pre)?(?:selfattn|selfattention|attn|attention|att|sa|input){_NORM}|{_NORM}(?:attn|attention|att|sa|input)"
     rf"|{_NORM}1", "attention_norm"),
    (rf"(?:pre)?(?:ffn|mlp|ff|ffw|feedforward){_NORM}|{_NORM}(?:ffn|mlp|ff|ffw)|{_NORM}2|postattentionlayernorm",
     "mlp_norm"),
)  # fmt: skip
# only inside an attention block, or inside an MLP
_WITHIN_ATTENTION = _rules(
    (r"cproj|proj|dense|o|out|output|projout|linearproj|projection|wproj", "o"),
    (r"cattn|inproj|attn", "qkv"),
    (rf"(?:pre)?{_NORM}", "attention_norm"),
)
_WITHIN_MLP = _rules(
    (r"cproj|proj|outproj|wo|wout|out|projout|output|outputproj|linearproj", "down"),
    (r"wi0", "mlp 1"),
    (r"wi1", "mlp 2"),
    (r"wi|inproj|projin|win|in|inputproj", "mlp in"),
    (rf"(?:pre)?{_NORM}", "mlp_norm"),
)
_TOP = _rules(
    (r"wte|tokembeddings?|embedtokens?|tokenembeddings?|tokemb|tokembed|tokenemb|tokenembed|tokenembd|embeddings?|embed"
     r"|emb|wordembeddings?|wordemb|inputembeddings?|embtokens?|embedder|vocabembeddings?", "embedding"),
    (r"lmhead|output|head|outputlayer|unembed|unembedding|embedout|outhead|outputhead|tologits|logits|outputproj"
     r"|outputprojection|outproj|lmout|readout|languagemodelhead", "head"),
    (rf"(?:final|output|out|post|last|model)?{_NORM}(?:f|final|out|head)?", "final_norm"),
)  # fmt: skip

_WEIGHT_LEAVES, _BIAS_LEAVES = frozenset({"weight", "w"}), frozenset({"bias", "b", "beta"})
_NORM_LEAVES = frozenset({"scale", "gamma", "g"})  # of any other tensor, "scale" belongs to a quantised matrix
_JOINED_LEAF = re.compile(r"(?P<role>.+)_(?P<leaf>weight|bias|scale|gamma)")
# Megatron keeps a norm inside the matrix that follows it
_MEGATRON_NORMS: dict[str, Role] = {"linearqkv": "attention_norm", "linearfc1": "mlp_norm"}


@dataclass(frozen=True)
class Reading:
    """What a name says.

    Attributes:
        role: The role, or the number of an MLP matrix.
        bias: Whether it is the bias of that role.
        spelling: The component that said so, as ``plain`` spells it.
        container: Components before the model's own, wrappers cut: ``("app", "model")``.
    """

    role: Role | Numbered
    bias: bool
    spelling: str
    container: tuple[str, ...]


def is_bias(leaf: str) -> bool:
    """Whether the last component of a name says that the tensor is a bias."""
    return leaf.lower() in _BIAS_LEAVES or leaf.lower().endswith("_bias")


def read_role(parts: NameParts) -> Reading | None:
    """Return what a name says, ``None`` where no rule knows it."""
    path, leaf = _without_leaf(parts.rest)
    if not path:
        return None
    found = _read_top(path) if parts.layer is None else _read_in_layer(path, leaf)
    if found is None or (leaf in _NORM_LEAVES and found not in NORM_ROLES):
        return None
    container = path[:-1] if parts.layer is None else parts.container
    return Reading(found, leaf in _BIAS_LEAVES, plain(path[-1]), container)


def _without_leaf(rest: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Split off ``weight``, ``bias`` and the like; a name without one is that of a weight."""
    if not rest:
        return rest, "weight"
    last = rest[-1].lower()
    if last == "layer_norm_weight" or last == "layer_norm_bias":
        return rest[:-1], last
    if len(rest) > 1 and last in _WEIGHT_LEAVES | _BIAS_LEAVES | _NORM_LEAVES:
        return rest[:-1], last
    if joined := _JOINED_LEAF.fullmatch(last):
        return (*rest[:-1], joined["role"]), joined["leaf"]
    return rest, "weight"


def _read_in_layer(path: tuple[str, ...], leaf: str) -> Role | Numbered | None:
    spelt = [plain(part) for part in path]
    if leaf == "layer_norm_weight":
        return _MEGATRON_NORMS.get(spelt[-1])
    if len(spelt) > 1 and spelt[-1] == "0" and spelt[-2] == "toout":  # a projection and its dropout in one list
        spelt.pop()
    within: Literal["attention", "mlp"] | None = None
    for word in spelt[:-1]:
        if word in _ATTENTION:
            within = "attention"
        elif word in _MLP:
            within = "mlp"
        elif word not in _NEUTRAL:
            return None
    last = spelt[-1]
    if within == "attention":
        return _first(last, _CLEAR_ATTENTION + _WITHIN_ATTENTION)
    if within == "mlp":
        return _first(last, _WITHIN_MLP + _CLEAR_MLP)
    return _first(last, _CLEAR_ATTENTION + _CLEAR_NORM + _CLEAR_MLP)


def _read_top(path: tuple[str, ...]) -> Role | Numbered | None:
    return _first(plain(path[-1]), _TOP)


def _first(word: str, rules: tuple[_Rule, ...]) -> Role | Numbered | None:
    return next((role for pattern, role in rules if pattern.fullmatch(word)), None)
