"""What the shapes of a Llama-style checkpoint do not tell, and where programs differ without any error.

Two training codes can store tensors of the same names and shapes and mean different models by them. Everything that
differs so is a field of :class:`Conventions`; the forward pass (``forward``) computes by it, the export (``hf_layout``)
rewrites the weights from it into what transformers computes by, and the diagnosis (``diagnose``) varies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeLayout = Literal["interleaved", "half_split"]
Head = Literal["own", "embedding"]
FusedOrder = Literal["qkv", "qvk", "kqv", "kvq", "vqk", "vkq"]
FusedGrouping = Literal["blocks", "groups"]
Square = Literal["q", "k", "v", "o", "gate", "up", "down", "head"]


@dataclass(frozen=True)
class Conventions:
    """How a stored Llama-style model is to be computed.

    Attributes:
        num_heads: Query heads; the head size is the query width divided by it.
        num_kv_heads: Key and value heads.
        rope_layout: Which rows of a head's query and key RoPE turns together: neighbours (2i, 2i + 1), as Meta's code
            and GPT-J do (``interleaved``), or (i, i + d/2), as GPT-NeoX and transformers do (``half_split``).
        rope_theta: Base of RoPE's frequencies, theta^(-2i/d) (Su et al. 2021, arXiv:2104.09864).
        norm_eps: Added to the mean square in RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).
        head: Whether logits come from a matrix of their own or from the embedding (tied).
        embedding_scale: Factor on the embedding's output.
        gate_up_swapped: Whether what is named gate is the linear branch and what is named up goes through SiLU.
        qk_swapped: Whether what is named query is the key and the other way round.
        fused_order: Order of query, key and value in a fused matrix.
        fused_grouping: Whether a fused matrix holds all queries, all keys, all values (``blocks``), or, for each
            key-value head, its queries, its key and its value (``groups``).
        transposed: Square matrices that are stored as (in, out); for others the shape tells.
        id_offset: Row of the embedding minus the tokenizer's id, e.g. 1 where row 0 was reserved for padding.
        bos: Whether the model expects every text to begin with BOS.
        dummy_prefix: Whether the tokenizer puts a space before a text; None where it has no such notion.
    """

    num_heads: int
    num_kv_heads: int
    rope_layout: RopeLayout
    rope_theta: float
    norm_eps: float
    head: Head
    embedding_scale: float = 1.0
    gate_up_swapped: bool = False
    qk_swapped: bool = False
    fused_order: FusedOrder = "qkv"
    fused_grouping: FusedGrouping = "blocks"
    transposed: frozenset[Square] = frozenset()
    id_offset: int = 0
    bos: bool = False
    dummy_prefix: bool | None = None


def describe(name: str, value: object) -> str:
    """Return one convention in words: ``describe("rope_theta", 500000.0)`` is ``"RoPE theta 500,000"``."""
    match name, value:
        case "num_heads", int():
            return f"{value} query heads"
        case "num_kv_heads", int():
            return f"{value} key-value heads"
        case "rope_layout", _:
            return f"RoPE layout {str(value).replace('_', '-')}"
        case "rope_theta", float():
            return f"RoPE theta {value:,.0f}"
        case "norm_eps", float():
            return f"norm epsilon {value:g}"
        case "head", _:
            return "an output head of its own" if value == "own" else "the embedding as output head (tied)"
        case "embedding_scale", float():
            return f"embedding scale {value:.4g}"
        case "gate_up_swapped", _:
            return "gate and up swapped" if value else "gate and up as named"
        case "qk_swapped", _:
            return "query and key swapped" if value else "query and key as named"
        case "fused_order", _:
            return f"fused order {', '.join(str(value))}"
        case "fused_grouping", _:
            return "fused in blocks" if value == "blocks" else "fused by key-value head"
        case "transposed", frozenset():
            return f"{', '.join(sorted(value))} transposed" if value else "square matrices as (out, in)"
        case "id_offset", int():
            return f"rows shifted by {value:+d}" if value else "row i for id i"
        case "bos", _:
            return "BOS before every text" if value else "no BOS"
        case _:
            return "a space before every text" if value else "no space before a text"
