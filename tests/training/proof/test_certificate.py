"""The certificate holds for right training, and for every way to train wrongly it fails and says which."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from genesis_sft.batches.collate import Batch, Example
from genesis_sft.errors import CheckFailed
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training import step
from genesis_sft.training.forward import attention
from genesis_sft.training.forward import keep_less as keep_less_module
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.keep_less import keep_less
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.padding import pad_vocab
from genesis_sft.training.processes.parallel import Ranks, Trainable, join_ranks
from genesis_sft.training.proof import certificate, leak, mistakes
from genesis_sft.training.proof.certificate import Certificate, certify
from genesis_sft.training.proof.textbook import cut_examples, observed_parameters, reference
from tests.conftest import build_llama
from tests.training.processes.processes import run_ranks

VOCAB_SIZE = 101
END_OF_TURN = 7
ALONE = Ranks(0, 1, 1, torch.device("cpu"))


def conversations() -> list[Example]:
    generator = np.random.default_rng(0)
    spans = [[(5, 12), (20, 40)], [(3, 15)], [(4, 9)]]
    return [(generator.integers(0, VOCAB_SIZE, length), one) for length, one in zip((40, 19, 10), spans, strict=True)]


def small(family: str = "Llama", **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
    model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config).train()
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return model


def certificate_of(
    model: PreTrainedModel,
    *,
    precision: str = "float32",
    z_loss: float = 0.0,
    ranks: Ranks = ALONE,
    parallel: str = "ddp",
) -> Certificate:
    low = torch.bfloat16 if precision == "bfloat16" else None
    expected = reference(model, conversations(), autocast_dtype=low, z_loss=z_loss)
    keep_less(model)
    section = TrainingSection(batch=BatchSection(sequences=3), precision=precision, device="cpu", parallel=parallel)  # type: ignore[arg-type]
    trainable = Trainable(Objective(model, end_of_turn=END_OF_TURN, z_loss=z_loss).train(), ranks, section)
    return certify(trainable, expected, conversations(), ranks, end_of_turn=END_OF_TURN)


MODELS = {
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "llama, as many key as query heads": ("Llama", {"num_key_value_heads": 4}),
    "llama, one key head": ("Llama", {"num_key_value_heads": 1}),
    "llama, dropout": ("Llama", {"attention_dropout": 0.5}),
    "qwen2, biases": ("Qwen2", {}),
    "qwen3, heads wider than the model": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {}),
    "olmo2": ("Olmo2", {}),
    "phi3, one matrix for queries, keys and values": ("Phi3", {}),
}


@pytest.mark.parametrize(("family", "changes"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_right_training_passes(family: str, changes: dict[str, Any], precision: str) -> None:
    proven = certificate_of(small(family, **changes), precision=precision)
    proven.require()
    assert len(proven.rows) == 9


def test_pure_bfloat16_passes() -> None:
    certificate_of(small().bfloat16(), precision="pure_bfloat16").require()


def test_z_loss_and_a_padded_vocabulary_are_as_the_textbook_has_them() -> None:
    model = small(tie_word_embeddings=False)
    assert pad_vocab(model, 64).padded_vocab_size == 128
    certificate_of(model, z_loss=0.1).require()
    for planted in (0.0, 0.1):  # the one beside the other is seen
        expected = reference(model, conversations(), z_loss=planted)
        assert expected.loss == reference(model, conversations()).loss
        same = torch.equal(
            expected.gradients["lm_head.weight"], reference(model, conversations()).gradients["lm_head.weight"]
        )
        assert same == (planted == 0.0)


def test_frozen_embeddings_are_left_out() -> None:
    model = small(tie_word_embeddings=False)
    model.get_input_embeddings().weight.requires_grad_(False)
    assert "model.embed_tokens.weight" not in observed_parameters(model)
    certificate_of(model).require()


def test_the_model_is_left_as_it_was() -> None:
    model = small(attention_dropout=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    certificate_of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == SEGMENT_ATTENTION
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.5}
    assert model.training


# ways to train wrongly: each gives what to put in the place of something of the program


def collate_with(change: Callable[[Batch], Batch]) -> Callable[..., Batch]:
    from genesis_sft.batches.collate import collate

    return lambda *args, **kwargs: change(collate(*args, **kwargs))


def shift_labels(batch: Batch) -> Batch:
    return replace(batch, predict_from=batch.predict_from + 1)


def train_one_more(batch: Batch) -> Batch:
    first = batch.predict_from[:1] - 1
    targets = torch.cat([batch.input_ids[first + 1], batch.targets])
    return replace(batch, predict_from=torch.cat([first, batch.predict_from]), targets=targets)


def train_one_less(batch: Batch) -> Batch:
    return replace(batch, predict_from=batch.predict_from[1:], targets=batch.targets[1:])


def run_on(batch: Batch) -> Batch:
    return replace(batch, position_ids=torch.arange(len(batch.position_ids)))


def forget_boundaries(batch: Batch) -> Batch:
    return replace(batch, segment_starts=(0, batch.segment_starts[-1]))


def forget_one_boundary(batch: Batch) -> Batch:
    starts = batch.segment_starts
    return replace(batch, segment_starts=(*starts[: max(1, len(starts) - 2)], starts[-1]))


IN_COLLATE = {
    mistakes.SHIFTED: [shift_labels],
    mistakes.UNMASKED: [train_one_more],
    mistakes.LEFT_OUT: [train_one_less],
    mistakes.POSITIONS: [run_on],
    mistakes.BOUNDARY: [forget_boundaries, forget_one_boundary],
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("mistake", "change"), [(mistake, change) for mistake, changes in IN_COLLATE.items() for change in changes]
)
def test_a_wrong_batch_is_named(
    mistake: str, change: Callable[[Batch], Batch], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (certificate, leak):
        monkeypatch.setattr(module, "collate", collate_with(change))
    refused = certificate_of(small(), precision=precision)
    assert not refused.passed
    assert refused.mistakes == (mistake,)
    with pytest.raises(CheckFailed, match="does not compute what it should") as caught:
        refused.require()
    assert mistake in str(caught.value)


def attention_that_forgets(*args: Any, segment_starts: Sequence[int], **kwargs: Any) -> Any:
    return attention.KERNELS[SEGMENT_ATTENTION](*args, segment_starts=(0, segment_starts[-1]), **kwargs)


def test_a_kernel_that_looks_across_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "genesis_forgets", attention_that_forgets)
    monkeypatch.setitem(attention.KERNELS, "genesis_forgets", attention_that_forgets)
    monkeypatch.setitem(transformers.AttentionMaskInterface._global_mapping, "genesis_forgets", lambda *_, **__: None)
    model = small()
    model.set_attn_implementation("genesis_forgets")
    assert certificate_of(model).mistakes == (mistakes.BOUNDARY,)


def test_a_loss_that_shifts_by_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.forward

    def forward(self: Objective, batch: Batch, scale: float = 1.0) -> Any:
        return original(self, replace(batch, predict_from=batch.predict_from + 1), scale)

    monkeypatch.setattr(Objective, "forward", forward)
    refused = certificate_of(small())
    assert next(row for row in refused.rows if row.check == "labels").passed  # the batch says nothing of it
    assert refused.mistakes == (mistakes.SHIFTED,)


# the wrong ways to add gradients; each takes the place of `accumulate_gradients`


def sums_of(losses: Sequence[float], counts: Sequence[int], reported: float | None = None) -> step.Sums:
    total = sum(counts)
    loss = sum(losses) if reported is None else reported * total
    return step.Sums(loss=loss, num_tokens=0, num_trained=total, ends=())


def add(
    trainable: Trainable, micro_batches: Sequence[Batch], scales: Sequence[float], times: int = 1
) -> tuple[list[float], list[int]]:
    losses = []
    for number, (batch, scale) in enumerate(zip(micro_batches, scales, strict=True), 1):
        with trainable.exchanging(last=number == len(micro_batches)):
            loss, nll, _ = trainable(batch, scale)
            (times * loss).backward()
        losses.append(float(nll.sum()))
    return losses, [batch.num_trained for batch in micro_batches]


def mean_of_each_pass(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    scales = [1 / (len(micro_batches) * ranks.world_size * batch.num_trained) for batch in micro_batches]
    return sums_of(*add(trainable, micro_batches, scales))


def sum_of_means(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    return sums_of(*add(trainable, micro_batches, [1 / batch.num_trained for batch in micro_batches]))


def every_gradient_twice(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total = sum(batch.num_trained for batch in micro_batches)
    return sums_of(*add(trainable, micro_batches, [1 / total] * len(micro_batches), times=2))


def twice_where_there_are_several(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total, times = sum(batch.num_trained for batch in micro_batches), 2 if len(micro_batches) > 1 else 1
    return sums_of(*add(trainable, micro_batches, [1 / total] * len(micro_batches), times=times))


def the_first_twice(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total = sum(batch.num_trained for batch in micro_batches)
    scales = [2 / total if len(micro_batches) > 1 and not number else 1 / total for number in range(len(micro_batches))]
    return sums_of(*add(trainable, micro_batches, scales))


def only_the_last(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total = sum(batch.num_trained for batch in micro_batches)
    losses, counts = add(trainable, micro_batches[:-1], [1 / total] * (len(micro_batches) - 1))
    trainable.module.zero_grad()
    last_loss, last_count = add(trainable, micro_batches[-1:], [1 / total])
    return sums_of(losses + last_loss, counts + last_count)


def half_of_it(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total = sum(batch.num_trained for batch in micro_batches)
    return sums_of(*add(trainable, micro_batches, [0.5 / total] * len(micro_batches)))


def reported_as_mean_of_means(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    total = sum(batch.num_trained for batch in micro_batches)
    losses, counts = add(trainable, micro_batches, [1 / total] * len(micro_batches))
    means = [loss / count for loss, count in zip(losses, counts, strict=True)]
    return sums_of(losses, counts, reported=sum(means) / len(means))


IN_ADDING = {
    mean_of_each_pass: mistakes.NORMALISER.format("each forward pass"),
    sum_of_means: mistakes.NORMALISER.format("each forward pass"),
    every_gradient_twice: mistakes.TIMES.format(2),
    twice_where_there_are_several: mistakes.TIMES.format(2),
    the_first_twice: mistakes.UNEVEN.format("2, 1, 1"),
    only_the_last: mistakes.LOST,
    half_of_it: mistakes.SCALED.format(0.5),
    reported_as_mean_of_means: mistakes.REPORTED,
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("wrong", "mistake"), IN_ADDING.items(), ids=[wrong.__name__ for wrong in IN_ADDING])
def test_a_wrong_sum_of_gradients_is_named(
    wrong: Callable[..., step.Sums], mistake: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong is reported_as_mean_of_means and precision == "bfloat16":
        pytest.skip("an untrained model's loss is the same in all conversations, to the precision of bfloat16")
    monkeypatch.setattr(certificate, "accumulate_gradients", wrong)
    refused = certificate_of(small(), precision=precision)
    assert not refused.passed
    assert refused.mistakes == (mistake,)


def test_padding_that_counts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_padding(batch: Batch) -> Batch:
        if not batch.num_padding:
            return batch
        last = batch.segment_starts[-1] - 1
        more = torch.tensor([last - 1]), batch.input_ids[last:][:1]
        return replace(
            batch, predict_from=torch.cat([batch.predict_from, more[0]]), targets=torch.cat([batch.targets, more[1]])
        )

    monkeypatch.setattr(certificate, "collate", collate_with(train_padding))
    assert certificate_of(small()).mistakes == (mistakes.PADDING,)


def test_a_gradient_that_does_not_belong_to_its_loss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def detached_values(module: Any, query: Any, key: Any, value: Any, mask: Any, **said: Any) -> Any:
        return attention.KERNELS[SEGMENT_ATTENTION](module, query, key, value.detach(), mask, **said)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "genesis_segments", detached_values)
    assert certificate_of(small()).mistakes == (mistakes.OTHER_GRADIENT,)


@pytest.mark.parametrize("name", ["_RmsNormFunction", "_GatedDown"])
def test_a_layer_of_ours_with_a_wrong_gradient_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = getattr(keep_less_module, name)
    original = function.backward

    def a_percent_off(ctx: Any, *outer: torch.Tensor) -> Any:
        first, *others = original(ctx, *outer)
        return first * 1.01, *others

    monkeypatch.setattr(function, "backward", staticmethod(a_percent_off))
    assert certificate_of(small()).mistakes == (mistakes.OTHER_GRADIENT,)


def test_another_forward_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_scale(*args: Any, scaling: float, **said: Any) -> Any:
        return attention.KERNELS[SEGMENT_ATTENTION](*args, scaling=scaling / 2, **said)

    model = small(initializer_range=0.5)
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "genesis_segments", half_scale)
    assert certificate_of(model).mistakes == (mistakes.OTHER_NUMBERS,)


def test_numbers_that_are_not_finite_do_not_pass() -> None:
    model = small()
    model.model.norm.weight.data[0] = float("nan")
    refused = certificate_of(model)
    assert not refused.passed
    assert json.loads(json.dumps(refused.to_json(), allow_nan=False))["passed"] is False


def test_what_is_written_and_said() -> None:
    proven = certificate_of(small())
    written = json.loads(json.dumps(proven.to_json(), allow_nan=False))
    assert written["passed"] is True
    assert [row["check"] for row in written["rows"]] == [
        "labels",
        "positions",
        "leak",
        "one forward pass: loss",
        "one forward pass: gradient",
        "accumulated: loss",
        "accumulated: gradient",
        "padded: loss",
        "padded: gradient",
    ]
    assert proven.summary().startswith("certificate: 9 checks passed on 69 tokens of the first batch, in float32; ")


# several processes


def rank_certificate(
    parallel: str, wrong: str | None = None, precision: str = "float32"
) -> tuple[bool, tuple[str, ...], int]:
    section = TrainingSection(batch=BatchSection(sequences=3), device="cpu", parallel=parallel)  # type: ignore[arg-type]
    if wrong is not None:
        certificate.accumulate_gradients = globals()[wrong]  # type: ignore[attr-defined]
    with join_ranks(section) as ranks:
        found = certificate_of(small(), precision=precision, ranks=ranks, parallel=parallel)
        return found.passed, found.mistakes, len(found.rows)


def mean_of_each_process(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    own = sum(batch.num_trained for batch in micro_batches)
    losses, counts = add(trainable, micro_batches, [1 / (own * ranks.world_size)] * len(micro_batches))
    total = ranks.sum([sum(losses), sum(counts)])
    return sums_of([total[0]], [int(total[1])])


def sum_of_each_process(trainable: Trainable, micro_batches: Sequence[Batch], ranks: Ranks) -> step.Sums:
    own = sum(batch.num_trained for batch in micro_batches)
    losses, counts = add(trainable, micro_batches, [1 / own] * len(micro_batches))
    total = ranks.sum([sum(losses), sum(counts)])
    return sums_of([total[0]], [int(total[1])])


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "count"), [("ddp", 2), ("ddp", 5), ("fsdp", 2), ("fsdp", 3)])
def test_right_training_in_several_processes_passes(parallel: str, count: int) -> None:
    assert run_ranks(partial(rank_certificate, parallel), count) == [(True, (), 11)] * count


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_right_training_in_bfloat16_in_several_processes_passes(parallel: str) -> None:
    assert run_ranks(partial(rank_certificate, parallel, None, "bfloat16"), 2) == [(True, (), 11)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("wrong", [mean_of_each_process, sum_of_each_process])
def test_a_mean_of_each_process_is_named(parallel: str, wrong: Callable[..., step.Sums]) -> None:
    found = run_ranks(partial(rank_certificate, parallel, wrong.__name__), 2)
    assert found == [(False, (mistakes.NORMALISER.format("each process"),), 12)] * 2


# the conversations that it is proven on


def test_examples_are_cut_from_the_step(tiny_store: TokenStore) -> None:
    indices = list(range(8))
    examples = cut_examples(tiny_store.train, indices, 64)
    counts = [sum(stop - start for start, stop in spans) for _, spans in examples]
    assert [len(ids) for ids, _ in examples] == [32, 16, 8]
    assert len(set(counts)) == 3
    assert min(counts) > 0
    whole = {tuple(tiny_store.train.input_ids(index).tolist()): tiny_store.train.trained(index) for index in indices}
    for ids, spans in examples:
        piece = ids.tolist()
        places = [
            (all_ids, at, known)
            for all_ids, known in whole.items()
            for at in range(len(all_ids) - len(piece) + 1)
            if list(all_ids[at : at + len(piece)]) == piece
        ]
        assert places
        assert any(
            all(any(a <= start + at and stop + at <= b for a, b in known) for start, stop in spans)
            for _, at, known in places
        )
        assert min(spans)[0] > 0


def test_one_conversation_is_enough(tiny_store: TokenStore) -> None:
    shortest = int(tiny_store.train.num_trained_per_row.argmin())
    examples = cut_examples(tiny_store.train, [shortest], 4096)
    assert len({sum(stop - start for start, stop in spans) for _, spans in examples}) == 3
    model = build_llama(512)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    section = TrainingSection(batch=BatchSection(sequences=1), precision="float32", device="cpu")
    expected = reference(model, examples)
    certify(Trainable(Objective(model.train()), ALONE, section), expected, examples, ALONE).require()
