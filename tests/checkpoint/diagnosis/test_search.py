"""Promises of the search: no change without a clear margin, the same finding every time, and silence is said."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.checkpoint.diagnosis.candidates import apply, changes, head_counts
from genesis_sft.checkpoint.diagnosis.cost import Margin, ProbeText
from genesis_sft.checkpoint.diagnosis.diagnose import diagnose
from genesis_sft.checkpoint.diagnosis.findings import Probes, Search, Tried
from genesis_sft.checkpoint.diagnosis.search import search
from genesis_sft.checkpoint.llama.conventions import Conventions
from genesis_sft.checkpoint.opened import open_checkpoint
from genesis_sft.errors import ModelError
from tests.checkpoint.genesis.sections import section_of
from tests.checkpoint.genesis.train import TinyGenesis
from tests.checkpoint.llama.random_llamas import Shape, as_stored, random_state, usual

SHAPE = Shape()
ALL = ("num_heads", "num_kv_heads", "rope_layout", "rope_theta", "norm_eps", "tied")


def random_text(seed: int, *, windows: int = 10, length: int = 33) -> ProbeText:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, SHAPE.rows, (windows, length), generator=generator).tolist()
    return ProbeText(tuple(map(tuple, rows)), {}, bos_id=0, dummy_prefix=None)


def search_random(seed: int, stated: Conventions) -> Search:
    text = random_text(seed)
    return search(as_stored(random_state(SHAPE, seed=seed)), stated, Probes(text, text, text), unigram=3.4, joint=False)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000), theta=st.sampled_from([1e4, 5e5]), layout=st.sampled_from(["interleaved", "half_split"])
)
def test_nothing_is_changed_without_a_clear_margin(seed: int, theta: float, layout: str) -> None:
    """A model of noise on a text of noise: whatever the search prefers, it can show why."""
    stated = usual(SHAPE, rope_theta=theta, rope_layout=layout)
    found = search_random(seed, stated)
    assert found.is_clear
    assert all(tried.margin.is_clear for tried in found.changed)
    assert found.nats_chosen <= found.nats_stated
    rebuilt = found.chosen
    for tried in found.changed:
        rebuilt = apply(rebuilt, tried.change)
    assert rebuilt == stated


def test_the_same_search_finds_the_same() -> None:
    assert search_random(3, usual(SHAPE)) == search_random(3, usual(SHAPE))


def test_conventions_that_are_not_in_doubt_stay() -> None:
    stored, text = as_stored(random_state(SHAPE)), random_text(1)
    stated = usual(SHAPE, head="embedding", norm_eps=1e-2)
    fixed = ("head", "norm_eps", "rope_layout")
    found = search(stored, stated, Probes(text, text, text), unigram=3.4, fixed=fixed, joint=False)
    assert (found.chosen.head, found.chosen.norm_eps) == ("embedding", 1e-2)
    assert not any(set(tried.change) & set(fixed) for tried in found.ranking)


def test_candidates_are_single_changes_that_the_shapes_allow() -> None:
    stored = as_stored(random_state(SHAPE))
    found = list(changes(stored, usual(SHAPE), has_bos=False))
    assert {"rope_layout": "half_split"} in found
    assert {"rope_theta": 500_000.0} in found
    assert {"embedding_scale": 24**0.5} in found
    assert not any({"bos", "dummy_prefix", "qk_swapped", "fused_order", "transposed"} & set(change) for change in found)
    assert {"bos": True} in list(changes(stored, usual(SHAPE), has_bos=True))
    assert all(apply(usual(SHAPE), change) != usual(SHAPE) for change in found)
    assert len(found) == len({tuple(sorted(change.items())) for change in found})


def test_square_matrices_may_lie_the_other_way_round() -> None:
    shape = Shape(heads=3, kv_heads=3, head_size=8, hidden=24, ffn=40)
    found = list(changes(as_stored(random_state(shape)), usual(shape), has_bos=False))
    sets = [set(change["transposed"]) for change in found if "transposed" in change]
    assert sets == [{"q"}, {"k"}, {"v"}, {"o"}, {"q", "k", "v", "o"}]
    assert {"qk_swapped": True} in found


def test_head_counts_that_fit() -> None:
    stored = as_stored(random_state(Shape(heads=4, kv_heads=2, head_size=16, hidden=64)))
    assert head_counts(stored.sizes) == [(8, 4), (4, 2), (2, 1)]  # head sizes 8, 16, 32


def test_what_is_neither_worse_nor_the_same_cannot_be_told() -> None:
    text = random_text(0)
    found = search_random(0, usual(SHAPE))
    assert text.num_tokens == found.num_tokens == 320

    def tried(change: dict[str, object], nats: float, error: float) -> Tried:
        return Tried(change, 1.0 + nats, Margin(nats, error), 320)

    ranking = (
        tried({"rope_theta": 1e5}, 0.01, 0.01),  # perhaps dearer
        tried({"rope_theta": 1e6}, 0.5, 0.01),
        tried({"norm_eps": 1e-6}, 0.0, 0.001),  # makes no difference
        tried({"norm_eps": 1e-2}, 0.01, 0.01),
        tried({"rope_layout": "half_split"}, 0.5, 0.01),
    )
    assert replace(found, ranking=ranking).untold(["norm_eps", "rope_layout", "rope_theta"]) == ["rope_theta"]


@pytest.mark.slow
def test_a_short_text_is_refused_as_too_short(tiny_genesis: TinyGenesis) -> None:
    text = {"short": "Otto has a blue cat. Mia has a red hat."}
    opened = open_checkpoint(section_of(tiny_genesis, wrong=dict.fromkeys(ALL)))
    with pytest.raises(ModelError, match=r"expected text of at least 256 tokens to try conventions on; found 13"):
        diagnose(opened, text)


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_a_right_model_is_found_whichever_stated_values_are_dropped(tiny_genesis: TinyGenesis, joint: bool) -> None:
    """Pairs of conventions that are off at once, on two documents; a wrong layout must not make up for theta."""
    texts = {file.stem: file.read_text() for file in tiny_genesis.held_out_text[:2]}
    for wrong in ({"rope_theta": 1e4}, {"rope_theta": 1e4, "norm_eps": 1e-6}):
        found = diagnose(open_checkpoint(section_of(tiny_genesis, wrong=wrong)), texts, joint=joint)
        assert found.causes[0] == "RoPE theta is 500,000, not 10,000"
        assert len(found.causes) == 1  # a norm epsilon of 1e-6 makes no difference here
        assert found.is_clear


def test_probes_are_chosen_by_what_shows_where() -> None:
    first, long, starts = (random_text(seed, windows=2) for seed in range(3))
    probes = Probes(first, long, starts)
    for name, expected in itertools.chain(
        ((name, (starts,)) for name in ("bos", "dummy_prefix")),
        ((name, (first, long)) for name in ("rope_layout", "rope_theta", "num_heads")),
    ):
        assert probes.in_turn([name]) == expected
        assert probes.decisive([name]) == expected[-1]


@pytest.mark.slow
def test_a_first_text_too_short_for_an_error_leaves_the_word_to_the_longer_one(tiny_genesis: TinyGenesis) -> None:
    """254 tokens are seven whole blocks: no margin over them is clear, and none of them may end the search."""
    texts = {file.stem: file.read_text() for file in tiny_genesis.held_out_text}
    opened = open_checkpoint(section_of(tiny_genesis, wrong={"rope_layout": "half_split"}))
    found = diagnose(opened, texts, joint=False, num_tokens=256)
    assert found.causes == ("RoPE layout: query and key rows are interleaved, and were taken as half-split",)
