"""Norms and gated layers that keep less: the gradients of the formulas, fewer bytes, and nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from genesis_sft.training.forward.keep_less import is_rms_norm, is_swiglu, keep_less

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def gated(**changes: Any) -> LlamaMLP:
    torch.manual_seed(0)
    return LlamaMLP(transformers.LlamaConfig(**{**SIZES, **changes}))


def norm(cls: type[nn.Module] = LlamaRMSNorm) -> nn.Module:
    torch.manual_seed(0)
    module = cls(32)
    nn.init.normal_(module.weight)  # type: ignore[arg-type]
    return module


def gradients(module: nn.Module, x: torch.Tensor, low: torch.dtype | None = None) -> list[torch.Tensor]:
    """Output, and the gradients of input and parameters, for a fixed gradient of the output."""
    module.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", low, enabled=low is not None):
        out = module(leaf)
    outer = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out.backward(outer.to(out.dtype))
    assert leaf.grad is not None
    found = [leaf.grad] + [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [out.detach(), *found]


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


MODULES = {
    "norm": norm,
    "norm that rounds once": lambda: norm(Olmo2RMSNorm),
    "gated": gated,
    "gated, biases before": lambda: with_biases(gated()),
    "linear": lambda: nn.Linear(32, 24, bias=False),
    "linear with a bias": lambda: nn.Linear(32, 24),
    "linear behind a norm": lambda: behind_norm(nn.Linear(32, 24)),
    "linear behind a norm that rounds once": lambda: behind_norm(nn.Linear(32, 24, bias=False), Olmo2RMSNorm),
    "gated behind a norm": lambda: behind_norm(gated()),
}


def behind_norm(module: nn.Module, cls: type[nn.Module] = LlamaRMSNorm) -> nn.Module:
    return nn.Sequential(norm(cls), module)


def with_biases(module: LlamaMLP) -> LlamaMLP:
    for linear in (module.gate_proj, module.up_proj):
        linear.bias = nn.Parameter(torch.randn(48))
    return module


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("shape", [(1, 7, 32), (2, 3, 5, 32), (6, 32)])
def test_gradients_are_those_of_the_formula(make: Any, shape: tuple[int, ...]) -> None:
    module, x = make(), torch.randn(shape)
    exact = gradients(copy.deepcopy(module).double(), x.double())
    before = type(module).forward
    keep_less(module)
    assert type(module).forward is before  # other models of the class are left alone
    assert any("forward" in vars(part) for part in module.modules())
    for found, expected in zip(gradients(module, x), exact, strict=True):
        assert found.dtype == torch.float32
        assert off(found, expected) < 1e-6


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("kind", ["autocast", "autocast, input rounded", "pure"])
def test_in_bfloat16_data_types_stay_and_rounding_is_all_that_differs(make: Any, kind: str) -> None:
    module, x = make(), torch.randn(1, 50, 32)
    low = None if kind == "pure" else torch.bfloat16
    if kind == "pure":
        module.bfloat16()
    if kind != "autocast":
        x = x.bfloat16()
    stock = gradients(module, x, low)
    exact = gradients(copy.deepcopy(module).double(), x.double())
    keep_less(module)
    assert any("forward" in vars(part) for part in module.modules())
    for found, plain, expected in zip(gradients(module, x, low), stock, exact, strict=True):
        assert found.dtype == plain.dtype
        assert off(found, expected) < max(1e-6, 1.5 * off(plain, expected))


def test_a_frozen_weight_gets_no_gradient() -> None:
    for module in (norm(), gated(), behind_norm(nn.Linear(32, 24))):
        keep_less(module)
        module.requires_grad_(False)
        assert len(gradients(module, torch.randn(1, 5, 32))) == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [(norm, 1), (gated, 3), (lambda: behind_norm(gated()), 3), (lambda: behind_norm(nn.Linear(32, 24)), 1)],
    ids=["norm", "gated", "gated behind a norm", "linear behind a norm"],
)
def test_only_inputs_are_kept(make: Any, expected: int) -> None:
    """A norm: its input. A gated layer: its input, gate and up. Behind a norm: the norm's input.

    Beside these, weights and a number for each row.
    """
    module = make()
    weights = {parameter.data_ptr() for parameter in module.parameters()}
    keep_less(module)
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights and tensor.numel() > 1000:
            kept[tensor.untyped_storage().data_ptr()] = tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(torch.randn(1, 1000, 32, requires_grad=True))
    assert len(kept) == expected
    out.sum().backward()


class Normed(nn.Module):
    """As norms are, but with something more, or something else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight, self.eps, self.kind = nn.Parameter(torch.ones(32)), 1e-5, kind

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        if self.kind == "wants a gate":
            assert gate is not None
            raise TypeError("expected a gate")
        if self.kind == "mean":
            x = x - x.mean(-1, keepdim=True)
        scale = x.square().sum(-1, keepdim=True) if self.kind == "sum" else x.square().mean(-1, keepdim=True)
        if self.kind == "outside":
            return self.weight * x / (scale.sqrt() + self.eps)
        return self.weight * x * (scale + self.eps).rsqrt()


def zeroed(module: nn.Module) -> nn.Module:
    nn.init.zeros_(getattr(module, "down_proj", module).weight)  # type: ignore[arg-type]
    return module


def test_the_look_alike_that_computes_it_is_taken() -> None:
    assert is_rms_norm(Normed("rms"))


OTHERS = {
    "layer norm": lambda: nn.LayerNorm(32),
    "layer norm without bias": lambda: nn.LayerNorm(32, bias=False),
    "one plus weight": lambda: GemmaRMSNorm(32),
    "mean taken away": lambda: Normed("mean"),
    "sum in place of mean": lambda: Normed("sum"),
    "layer norm in bfloat16, wide": lambda: nn.LayerNorm(4096, bias=False).bfloat16(),
    "weight of zero, which fits any formula": lambda: zeroed(LlamaRMSNorm(32)),
    "gelu, down-projection of zero": lambda: zeroed(gated(hidden_act="gelu")),
    "epsilon outside the root": lambda: Normed("outside"),
    "float64": lambda: norm().double(),
    "gelu": lambda: gated(hidden_act="gelu"),
    "bias after": lambda: gated(mlp_bias=True),
    "linear of another kind": lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(32, 32),
    "embedding with a row that is not trained": lambda: nn.Embedding(8, 32, padding_idx=0),
    "embedding with sparse gradients": lambda: nn.Embedding(8, 32, sparse=True),
    "embedding that weighs by frequency": lambda: nn.Embedding(8, 32, scale_grad_by_freq=True),
    "embedding that cuts rows": lambda: nn.Embedding(8, 32, max_norm=1.0),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_computes_something_else_is_left_alone(make: Any) -> None:
    module = make()
    assert not is_rms_norm(module)
    assert not is_swiglu(module)
    keep_less(module)
    assert "forward" not in vars(module)


FAMILIES = {  # norms of layers and of the end; gated layers
    "Llama": (5, 2),
    "Mistral": (5, 2),
    "Qwen2": (5, 2),
    "Qwen3": (9, 2),  # of queries and keys too
    "Olmo2": (9, 2),
    "Phi3": (5, 0),  # gate and up are one matrix
    "SmolLM3": (5, 2),
    "Gemma": (0, 0),  # one plus weight, and GELU
}


@pytest.mark.parametrize(("family", "expected"), FAMILIES.items(), ids=FAMILIES)
def test_families(family: str, expected: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=64, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=0, eos_token_id=0, **SIZES
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    before, names = model(torch.arange(20)[None]).logits, list(model.state_dict())
    found = [sum(map(known, model.modules())) for known in (is_rms_norm, is_swiglu)]
    assert tuple(found) == expected
    keep_less(model)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert sum("forward" in vars(module) for module in model.modules()) == sum(expected) + len(linears)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(torch.arange(20)[None]).logits, before, rtol=1e-5, atol=1e-5)


def test_what_was_changed_behind_a_norm_is_kept_as_it_is_now() -> None:
    module, x = behind_norm(nn.Linear(32, 24)), torch.randn(1, 7, 32)
    plain = copy.deepcopy(module).double()
    keep_less(module)
    for one in (module, plain):
        one[0].register_forward_hook(lambda *arguments: arguments[-1].mul_(2))
    for found, expected in zip(gradients(module, x), gradients(plain, x.double()), strict=True):
        assert off(found, expected) < 1e-6


def test_an_embedding_gets_the_gradient_of_its_rows() -> None:
    torch.manual_seed(0)
    module, ids, outer = nn.Embedding(9, 32), torch.tensor([[3, 1, 3, 3, 8]]), torch.randn(1, 5, 32)
    (expected,) = torch.autograd.grad((module(ids) * outer).sum(), module.weight)
    keep_less(module)
    (found,) = torch.autograd.grad((module(ids) * outer).sum(), module.weight)
    assert "forward" in vars(module)
    assert torch.equal(found, expected)
