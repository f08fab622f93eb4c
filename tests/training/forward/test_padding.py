"""Rows that are added for speed change nothing: no loss, no gradient, no weight, nothing in what is exported."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, load_model
from transformers import LlamaForCausalLM, PhiConfig, PhiForCausalLM

from genesis_sft.batches.collate import collate
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import ModelError, RunDirError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.recipe.training import CheckpointSection
from genesis_sft.training.forward import loss as loss_module
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective, token_losses
from genesis_sft.training.forward.padding import VocabRows, pad_vocab, train_pad_token, without_padding
from genesis_sft.training.loop import TrainingState, train
from genesis_sft.training.optimizer import build_optimizer
from genesis_sft.training.processes.parallel import Trainable
from genesis_sft.training.saving.weights import write_weights
from genesis_sft.training.step import train_step
from tests.conftest import build_llama
from tests.training.saving.saved_tuning import ALONE
from tests.training.test_loop import stop_at_step_five

EXAMPLES = [(np.array([3, 1, 4, 1, 5, 9, 2, 6]), [(2, 4), (6, 8)]), (np.array([9, 7, 9, 3, 2, 3, 8]), [(1, 6)])]
SECTION = TrainingSection(
    batch=BatchSection(sequences=4),
    epochs=2,
    micro_batch_tokens=120,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    weight_decay=0.1,
    precision="float32",
    checkpoints=CheckpointSection(every_steps=3),
)
PADDED = SECTION.model_copy(update={"pad_vocab_to_multiple_of": 64})


def padded_and_plain(*, tied: bool, vocab_size: int = 100) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    plain = build_llama(vocab_size, tied=tied)
    plain.set_attn_implementation(SEGMENT_ATTENTION)
    padded = copy.deepcopy(plain)
    padded.tie_weights()
    assert pad_vocab(padded, 64) == VocabRows(vocab_size, 128)
    return padded, plain


def test_the_row_of_the_pad_token_is_trained_as_every_other() -> None:
    """Often it is the token that ends a turn; transformers gives its row no gradient."""
    gradients = []
    for pad in (None, 9):
        plain = build_llama(100, tied=False)
        plain.config.pad_token_id = pad
        model = LlamaForCausalLM(plain.config)
        model.load_state_dict(plain.state_dict())
        model.set_attn_implementation(SEGMENT_ATTENTION)
        assert model.get_input_embeddings().padding_idx == pad
        train_pad_token(model)
        Objective(model)(collate(EXAMPLES))[0].backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert gradients[1][9].any()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("chunk", [1024, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_the_model_without_padding(
    tied: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    padded, plain = padded_and_plain(tied=tied)
    losses = []
    for model in (padded, plain):
        loss, each, _ = Objective(model)(collate(EXAMPLES))
        loss.backward()
        losses.append(each)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    for (name, ours), theirs in zip(padded.named_parameters(), plain.parameters(), strict=True):
        rows = theirs.shape[0]
        torch.testing.assert_close(ours.grad[:rows], theirs.grad, rtol=1e-5, atol=1e-6, msg=name)
        assert not ours.grad[rows:].any(), name
    assert (padded.lm_head.weight is padded.model.embed_tokens.weight) == tied
    assert len(list(padded.parameters())) == len(list(plain.parameters()))


def test_padded_rows_would_take_probability_if_they_were_let() -> None:
    padded, plain = padded_and_plain(tied=True)
    padded.config.vocab_size = 128
    with torch.no_grad():
        ours, theirs = (token_losses(model, collate(EXAMPLES)) for model in (padded, plain))
    assert bool((ours > theirs + 0.01).all())


@pytest.mark.parametrize("tied", [True, False])
def test_padded_rows_stay_zero_under_weight_decay(tied: bool) -> None:
    padded, _ = padded_and_plain(tied=tied)
    trainable = Trainable(Objective(padded), ALONE, SECTION)
    optimizer = build_optimizer(trainable.module, SECTION.model_copy(update={"weight_decay": 0.5}))
    for _ in range(3):
        train_step(trainable, optimizer, [collate(EXAMPLES)], ALONE, max_grad_norm=1.0)
    for module in (padded.lm_head, padded.model.embed_tokens):
        assert module.weight.shape[0] == 128
        assert not module.weight[100:].any()


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_written_is_the_model_without_padding(tied: bool, tmp_path: Path) -> None:
    padded, plain = padded_and_plain(tied=tied)
    write_weights(Trainable(Objective(padded), ALONE, SECTION), tmp_path / "weights", VocabRows(100, 128))
    ours, theirs = load_file(tmp_path / "weights"), dict(plain.named_parameters())  # tied tensors once
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    read_back = build_llama(100, tied=tied, seed=1)
    load_model(read_back, tmp_path / "weights")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in read_back.state_dict().items())
    assert padded.lm_head.weight.shape[0] == 128  # the model itself is left as it is


def test_where_nothing_was_added_nothing_is_taken(tmp_path: Path) -> None:
    model = build_llama(100, tied=False)
    write_weights(Trainable(Objective(model), ALONE, SECTION), tmp_path / "weights", VocabRows(100, 100))
    written = load_file(tmp_path / "weights")
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())


def test_weights_that_cannot_be_written_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"could not write to .*missing/weights"):
        write_weights(
            Trainable(Objective(build_llama(100)), ALONE, SECTION),
            tmp_path / "missing" / "weights",
            VocabRows(100, 100),
        )


def test_a_bias_of_the_head_is_padded_with_it() -> None:
    config = PhiConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = PhiForCausalLM(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    rows = pad_vocab(model, 64)
    assert (model.lm_head.bias.shape[0], model.lm_head.out_features) == (128, 128)
    assert not model.lm_head.bias[100:].any()
    after = without_padding(model.state_dict(), model, rows)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("multiple", "rows"), [(None, 100), (1, 100), (50, 100), (64, 128), (4096, 4096)])
def test_rows_by_hand(multiple: int | None, rows: int) -> None:
    model = build_llama(100)
    assert pad_vocab(model, multiple) == VocabRows(100, rows)
    assert model.model.embed_tokens.weight.shape[0] == model.model.embed_tokens.num_embeddings == rows
    assert model.config.vocab_size == 100


@pytest.mark.parametrize("multiple", [0, -64, 10**9, 4097, 64.0, True, "64"])
def test_a_multiple_that_means_nothing_is_refused(multiple: object) -> None:
    with pytest.raises(ValidationError, match="pad_vocab_to_multiple_of"):
        TrainingSection.model_validate({"batch": {"sequences": 2}, "pad_vocab_to_multiple_of": multiple})


def test_a_head_that_cannot_be_padded_is_refused() -> None:
    model = build_llama(100)
    model.set_output_embeddings(torch.nn.Sequential(model.lm_head))
    with pytest.raises(ModelError, match=r"expected nn\.Linear with 100 rows to pad; found Sequential"):
        pad_vocab(model, 64)


@pytest.fixture(scope="module")
def padded_run(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> TrainingState:
    return train(PADDED, tiny_base, tiny_store, tmp_path_factory.mktemp("padded"), seed=5)


def test_a_padded_run_ends_in_the_weights_of_one_without(
    padded_run: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    plain = train(SECTION, tiny_base, tiny_store, tmp_path, seed=5)
    assert [row["loss"] for row in padded_run.metrics()] == pytest.approx(
        [row["loss"] for row in plain.metrics()], rel=1e-5
    )
    ours, theirs = load_file(padded_run.weights), load_file(plain.weights)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name in ours:  # AdamW's first steps are as large for tiny gradients as for others: roundings show
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4, msg=name)
    load_model(tiny_base.load_model(), padded_run.weights)  # strict: no row too many


def test_the_summary_says_both_numbers(
    padded_run: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    real = tiny_base.vocab_size
    assert real % 64  # or nothing is padded here
    rounded = -(-real // 64) * 64
    assert (padded_run.vocab_size, padded_run.padded_vocab_size) == (real, rounded)
    written = json.loads((padded_run.folder / "training.json").read_text())
    assert (written["vocab_size"], written["padded_vocab_size"]) == (real, rounded)
    assert TrainingState.open(padded_run.folder) == padded_run
    plain = train(SECTION.model_copy(update={"max_steps": 1}), tiny_base, tiny_store, tmp_path, seed=5)
    assert (plain.vocab_size, plain.padded_vocab_size) == (real, real)


def test_a_multiple_of_one_is_the_run_without(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path) -> None:
    short = SECTION.model_copy(update={"max_steps": 3})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = train(short.model_copy(update={"pad_vocab_to_multiple_of": 1}), tiny_base, tiny_store, tmp_path / "a", seed=5)
    other = train(short, tiny_base, tiny_store, tmp_path / "b", seed=5)
    ours, theirs = load_file(one.weights), load_file(other.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_padded_run_that_was_cut_ends_bit_equal(
    padded_run: TrainingState,
    tiny_base: ModelDir,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_at_step_five(tiny_base, tiny_store, tmp_path, monkeypatch, PADDED)
    assert (tmp_path / "checkpoints" / "step-000003").is_dir()
    resumed = train(PADDED, tiny_base, tiny_store, tmp_path, seed=5)
    ours, theirs = load_file(resumed.weights), load_file(padded_run.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["loss"] for row in resumed.metrics()] == [row["loss"] for row in padded_run.metrics()]
