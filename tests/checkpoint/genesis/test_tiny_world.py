"""What the tests of intake may rely on: the language, the training code's model, and the folder its ranks save."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tests.checkpoint.genesis.language import document, sentences
from tests.checkpoint.genesis.save_two_ranks import save_dcp
from tests.checkpoint.genesis.train import cut_windows, loss_of, train_tiny, train_tokenizer, unigram_entropy
from tests.checkpoint.genesis.training_code import ModelArgs, apply_rotary, precompute_freqs_cis


def test_a_seed_says_the_same_again_and_another_seed_something_else() -> None:
    assert document(5, 300) == document(5, 300)
    assert document(5, 300) != document(6, 300)
    assert 300 <= len(document(5, 300).split()) < 300 + 2 * 83


def test_rows_repeat_at_the_distances_that_are_promised() -> None:
    rows = {line.split(":")[0]: line.split()[1:] for line in itertools.islice(sentences(0), 40)}
    for kind, distance in {"Drum": 17, "Wool": 41, "Bells": 83}.items():
        words = [word.rstrip(".") for word in rows[kind]]
        assert len(words) >= 2 * distance - 1
        assert words[distance:] == words[:-distance]


def test_the_tokenizer_falls_back_to_bytes_for_emoji_and_newlines(tmp_path: Path) -> None:
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(train_tokenizer(tmp_path / "tokenizer.model")))
    assert tokenizer.vocab_size() == 576
    assert tokenizer.encode("\U0001f388", out_type=str) == ["▁", "<0xF0>", "<0x9F>", "<0x8E>", "<0x88>"]
    assert tokenizer.encode("hat\nboat", out_type=str)[:2] == ["▁hat", "<0x0A>"]
    assert tokenizer.id_to_piece(1) == "<s>"


def test_windows_start_with_bos_and_go_on_where_the_last_one_ended() -> None:
    assert cut_windows([5, 6, 7, 8, 9], 3).tolist() == [[1, 5, 6], [1, 7, 8]]


def test_neighbours_turn_together() -> None:
    # position 1 turns the first pair by 1 rad, the second by 1 / sqrt(10,000) = 0.01 rad
    turned = apply_rotary(torch.tensor([1.0, 0, 1, 0]).expand(1, 2, 1, 4), precompute_freqs_cis(4, 2, 10_000.0))
    assert turned[0, 0, 0].tolist() == [1, 0, 1, 0]
    assert turned[0, 1, 0].tolist() == pytest.approx([0.540302, 0.841471, 0.999950, 0.009999833])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("prefix", ["app.model", ""])
def test_ranks_save_the_same_weights_under_foreign_names(tmp_path: Path, prefix: str) -> None:
    tiny = train_tiny(tmp_path / "run", ModelArgs(max_seq_len=32), steps=2)
    folder = save_dcp(tiny, tmp_path / "dcp", prefix=prefix, wrapper="_orig_mod.")
    assert sorted(path.name for path in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    root = f"{prefix}." if prefix else ""
    saved = {
        name.removeprefix(f"{root}_orig_mod."): entry
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata) and "_orig_mod." in name
    }
    assert {name: entry.size for name, entry in saved.items()} == {
        name: weight.shape for name, weight in tiny.model.state_dict().items()
    }
    assert all(len(entry.chunks) == 2 for entry in saved.values())
    read = {f"{root}_orig_mod.{name}": torch.empty(entry.size) for name, entry in saved.items()}
    load(read, checkpoint_id=folder, planner=DefaultLoadPlanner(flatten_state_dict=False), no_dist=True)
    for name, weight in tiny.model.state_dict().items():
        assert torch.equal(read[f"{root}_orig_mod.{name}"], weight)
    assert f"{root.removesuffix('model.')}optimizer.state.layers.0.attention.wq.weight.exp_avg" in stored


@pytest.mark.slow
def test_the_model_has_learnt_the_language(tmp_path: Path) -> None:
    tiny = train_tiny(tmp_path / "run", steps=150)
    windows = tiny.held_out_windows()
    with torch.no_grad():
        loss = loss_of(tiny.model, windows).item()
    assert unigram_entropy(windows) > 2.5
    assert loss < 1.2
    assert json.loads(tiny.config_file.read_text())["training_loss"] == pytest.approx(loss, abs=0.15)
