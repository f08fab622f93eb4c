"""Promises on a checkpoint that means something else than is stated of it: it is refused, and the cause is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from genesis_sft.checkpoint import convert as convert_module
from genesis_sft.checkpoint.convert import convert
from genesis_sft.checkpoint.diagnosis.diagnose import Diagnosis, diagnose
from genesis_sft.checkpoint.opened import open_checkpoint
from genesis_sft.checkpoint.verify import read_texts
from genesis_sft.errors import CheckFailed, ModelError
from tests.checkpoint.genesis.sections import (
    Edit,
    State,
    fuse,
    replace_head,
    save_edited,
    section_of,
    shift_rows,
    swap,
    transpose,
)
from tests.checkpoint.genesis.train import TinyGenesis, train_tokenizer

pytestmark = pytest.mark.slow

_SWAPPED = "gate and up projections are swapped"
_LAYOUT = "RoPE layout: query and key rows are interleaved, and were taken as half-split"
_THETA = "RoPE theta is 500,000, not 10,000"
_BOS = "BOS is missing: the model expects one before every text"
_HEADS = "head count: 4 query and 2 key-value heads, not 8 and 4"
_EPSILON = "norm epsilon is 1e-05, not 0.01"
_TIED = "output head: the model has one of its own, and the embedding was taken instead (tied)"
_OFF_BY_ONE = "token ids are off by 1: id i has row i + 1"


@dataclass(frozen=True)
class Fault:
    """A checkpoint, or what is stated of it, that is wrong in one way or two.

    Attributes:
        causes: What the diagnosis is to say, in any order.
        edit: What was done to the weights.
        wrong: What is stated wrongly.
    """

    causes: tuple[str, ...]
    edit: Edit | None = None
    wrong: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Diagnosis]:
    """What the diagnosis within a conversion says."""
    kept: list[Diagnosis] = []

    def keep(*arguments: Any, **named: Any) -> Diagnosis:
        kept.append(diagnose(*arguments, **named))
        return kept[-1]

    monkeypatch.setattr(convert_module, "diagnose", keep)
    return kept


def both(one: Edit, other: Edit) -> Edit:
    return lambda state: other(one(state))


def damage(state: State) -> State:
    state["layers.1.feed_forward.w2.weight"][3, 5] = float("nan")
    return state


FAULTS = {
    "layout": Fault((_LAYOUT,), wrong={"rope_layout": "half_split"}),
    "theta 10,000": Fault((_THETA,), wrong={"rope_theta": 1e4}),
    "theta 100,000": Fault(("RoPE theta is 500,000, not 100,000",), wrong={"rope_theta": 1e5}),
    "more heads": Fault((_HEADS,), wrong={"num_heads": 8, "num_kv_heads": 4}),
    "fewer heads": Fault(
        ("head count: 4 query and 2 key-value heads, not 2 and 1",), wrong={"num_heads": 2, "num_kv_heads": 1}
    ),
    "gate and up": Fault((_SWAPPED,), swap("w1.", "w3.")),
    "tied": Fault((_TIED,), wrong={"tied": True}),
    "epsilon": Fault((_EPSILON,), wrong={"norm_eps": 1e-2}),
    "off by one": Fault((_OFF_BY_ONE,), shift_rows(1)),
    "off by minus one": Fault(("token ids are off by 1: id i has row i - 1",), shift_rows(-1)),
    "no BOS": Fault((_BOS,), wrong={"bos": False}),
    "o transposed": Fault(("transposed matrix: o the other way round than taken",), transpose("wo.")),
    "q transposed": Fault(("transposed matrix: q the other way round than taken",), transpose("wq.")),
    "embedding scaled": Fault(("embedding scale is 1, not 256",), wrong={"embedding_scale": 256.0}),
    "fused kqv": Fault(("fused query, key and value: fused order k, q, v, not fused order q, k, v",), fuse(*"kqv")),
    "fused in groups": Fault(
        ("fused query, key and value: fused by key-value head, not fused in blocks",), fuse(*"qkv", groups=2)
    ),
    "head lost": Fault(("the output head, or the whole model, is untrained or lost, most likely",), replace_head),
    "damaged": Fault(
        ("the weights are no numbers: layers.1.feed_forward.w2.weight holds 1 infinities or NaN",), damage
    ),
    "layout and gate": Fault((_LAYOUT, _SWAPPED), swap("w1.", "w3."), {"rope_layout": "half_split"}),
    "theta and BOS": Fault((_THETA, _BOS), wrong={"rope_theta": 1e4, "bos": False}),
    "heads and rows": Fault((_HEADS, _OFF_BY_ONE), shift_rows(1), {"num_heads": 8, "num_kv_heads": 4}),
    "epsilon and head": Fault((_EPSILON, _TIED), wrong={"norm_eps": 1e-2, "tied": True}),
    "gate and o": Fault(
        (_SWAPPED, "transposed matrix: o the other way round than taken"),
        both(swap("w1.", "w3."), transpose("wo.")),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_and_its_cause_is_named(
    name: str, tiny_genesis: TinyGenesis, tmp_path: Path, found: list[Diagnosis], output_of: Callable[[], list[str]]
) -> None:
    fault = FAULTS[name]
    model = save_edited(tiny_genesis, tmp_path / "x.pt", fault.edit) if fault.edit else None
    section = section_of(tiny_genesis, model, wrong=fault.wrong)
    with pytest.raises(CheckFailed) as caught:
        convert(section, tmp_path / "out" / "model")
    assert_named(caught.value, found, fault.causes)
    assert output_of() == []


def assert_named(refusal: CheckFailed, found: list[Diagnosis], causes: tuple[str, ...]) -> None:
    """The refusal and the first line of the diagnosis name the cause; where there are two, the other follows."""
    (diagnosis,) = found
    assert refusal.exit_status == 1
    assert diagnosis.causes[0] in str(refusal)
    assert diagnosis.first_line().startswith(f"cause: {diagnosis.causes[0]}")
    assert len(diagnosis.causes) == len(causes)
    for cause in causes:
        assert any(named.startswith(cause) for named in diagnosis.causes), diagnosis.causes


def test_query_and_key_of_other_widths_are_told_apart_by_shape(
    tiny_genesis: TinyGenesis, tmp_path: Path, found: list[Diagnosis], output_of: Callable[[], list[str]]
) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", swap("wq.", "wk."))
    with pytest.raises(CheckFailed) as caught:
        convert(section_of(tiny_genesis, model), tmp_path / "out" / "model")
    assert_named(caught.value, found, ("query and key are swapped: layers.0.attention.wq.weight of (32, 64) is",))
    assert found[0].search.nats_stated < 1  # mended on the way: nothing else is wrong
    assert output_of() == []


def test_query_and_key_of_one_width_are_told_apart_by_cost(
    tiny_genesis_mha: TinyGenesis, tmp_path: Path, found: list[Diagnosis], output_of: Callable[[], list[str]]
) -> None:
    model = save_edited(tiny_genesis_mha, tmp_path / "x.pt", swap("wq.", "wk."))
    with pytest.raises(CheckFailed) as caught:
        convert(section_of(tiny_genesis_mha, model), tmp_path / "out" / "model")
    assert_named(caught.value, found, ("query and key projections are swapped",))
    assert output_of() == []


def test_a_head_that_a_tied_model_never_had_is_told(
    tiny_genesis_tied: TinyGenesis, tmp_path: Path, found: list[Diagnosis], output_of: Callable[[], list[str]]
) -> None:
    model = save_edited(tiny_genesis_tied, tmp_path / "x.pt", replace_head)
    with pytest.raises(CheckFailed) as caught:
        convert(section_of(tiny_genesis_tied, model, wrong={"tied": False}), tmp_path / "out" / "model")
    assert_named(caught.value, found, ("output head: it is the embedding (tied); the head that is stored is not",))
    assert output_of() == []


def test_the_tokenizer_of_another_training_is_told(
    tiny_genesis: TinyGenesis, tmp_path: Path, found: list[Diagnosis], output_of: Callable[[], list[str]]
) -> None:
    from genesis_sft.checkpoint.plausibility import sample_passages

    lines = [line for text in sample_passages().values() for line in text.split(". ")]
    other = train_tokenizer(tmp_path / "other.model", 576, lines)
    with pytest.raises(CheckFailed) as caught:
        convert(section_of(tiny_genesis, tokenizer=str(other)), tmp_path / "out" / "model")
    assert_named(caught.value, found, ("the tokenizer is of another training, most likely",))
    assert output_of() == []


def test_one_matrix_that_lies_the_other_way_round_is_named(
    tiny_genesis: TinyGenesis, tmp_path: Path, output_of: Callable[[], list[str]]
) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", transpose("layers.1.attention.wk."))
    with pytest.raises(CheckFailed, match=r"transposed matrix: layers\.1\.attention\.wk\.weight is \(64, 32\)"):
        convert(section_of(tiny_genesis, model), tmp_path / "out" / "model")
    assert output_of() == []


def test_a_lost_or_cut_shard_is_named(
    tiny_genesis: TinyGenesis, genesis_dcp: Path, tmp_path: Path, output_of: Callable[[], list[str]]
) -> None:
    folder = Path(shutil.copytree(genesis_dcp, tmp_path / "dcp"))
    shard = folder / "__1_0.distcp"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="__1_0") as cut:
        convert(section_of(tiny_genesis, folder), tmp_path / "out" / "model")
    shard.unlink()
    with pytest.raises(ModelError, match="__1_0") as lost:
        convert(section_of(tiny_genesis, folder), tmp_path / "out" / "model")
    assert cut.value.exit_status == lost.value.exit_status == 2
    assert str(cut.value) != str(lost.value)
    assert output_of() == []


def test_a_training_loss_that_cannot_be_right_refuses(
    tiny_genesis: TinyGenesis, tmp_path: Path, output_of: Callable[[], list[str]]
) -> None:
    with pytest.raises(CheckFailed, match=r"0\.\d\d nats a token, in contradiction to the training loss of 0\.01"):
        convert(section_of(tiny_genesis, training_loss=0.01), tmp_path / "out" / "model")
    assert output_of() == []


@pytest.mark.parametrize(
    "unstated",
    [
        (),
        ("rope_layout",),
        ("num_heads", "num_kv_heads", "rope_layout", "rope_theta", "norm_eps", "tied"),
    ],
)
def test_a_right_checkpoint_is_not_accused(tiny_genesis: TinyGenesis, unstated: tuple[str, ...]) -> None:
    section = section_of(tiny_genesis, wrong=dict.fromkeys(unstated))
    found = diagnose(open_checkpoint(section), read_texts(section.text) or {})
    assert found.causes == ()
    assert found.untold == ()
    assert found.is_clear
    assert found.first_line().startswith("no cause found")
    assert (found.conventions.rope_layout, found.conventions.rope_theta) == ("interleaved", 500_000.0)
    assert (found.conventions.num_heads, found.conventions.num_kv_heads) == (4, 2)
    assert (found.conventions.norm_eps, found.conventions.head, found.conventions.bos) == (1e-5, "own", True)


def test_weights_in_bfloat16_are_not_accused(tiny_genesis: TinyGenesis, tmp_path: Path) -> None:
    model = save_edited(tiny_genesis, tmp_path / "x.pt", lambda state: {n: t.bfloat16() for n, t in state.items()})
    section = section_of(tiny_genesis, model)
    assert diagnose(open_checkpoint(section), read_texts(section.text) or {}).causes == ()
    assert torch.load(model, weights_only=True)["output.weight"].dtype == torch.bfloat16
