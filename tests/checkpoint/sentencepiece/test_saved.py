"""A converted tokenizer that was saved and loaded, by any program, is the same; BOS is there when it is asked for."""

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from genesis_sft.checkpoint.sentencepiece.convert import read_sentencepiece
from tests.checkpoint.sentencepiece.models import processor, train

TEXTS = ["The tide", " a  b\n", "", "2024 def x", "<0x0A>", "x</s>y", "Grüße 你好 😀"]


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("name", ["bpe", "bpe nmt_nfkc", "bpe symbols", "unigram", "unigram symbols", "bpe no prefix"])
def test_saving_changes_no_id(tmp_path, model_of, name, add_bos):
    ours = read_sentencepiece(model_of(name), add_bos=add_bos)
    ours.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    for again in (AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        for text in TEXTS:
            for special in (True, False):
                ids = again(text, add_special_tokens=special)["input_ids"]
                assert ids == ours(text, add_special_tokens=special)["input_ids"]
        assert again.get_vocab() == ours.get_vocab()
        assert again.all_special_ids == ours.all_special_ids
    # transformers 5 leaves add_bos_token out of tokenizer_config.json: tokenizer.json says it
    processor_saved = json.loads((tmp_path / "tokenizer.json").read_text())["post_processor"]
    assert ("<s>" in json.dumps(processor_saved)) is add_bos


@pytest.mark.parametrize("name", ["bpe", "unigram", "bpe trimming"])
def test_bos_stands_in_front_once(model_of, name):
    ours, theirs = read_sentencepiece(model_of(name), add_bos=True), processor(model_of(name))
    ids = ours("The tide")["input_ids"]
    assert ids == [1, *theirs.encode("The tide")]
    assert ours("The tide", add_special_tokens=False)["input_ids"] == ids[1:]
    assert ours.decode(ids, skip_special_tokens=True) == "The tide"


def test_special_ids_are_the_files(tmp_path):
    path = train(tmp_path / "m.model", pad_id=0, unk_id=3, bos_id=2, eos_id=1, pad_piece="[PAD]", bos_piece="<bos>")
    ours = read_sentencepiece(path, add_bos=True)
    assert (ours.pad_token, ours.eos_token, ours.bos_token, ours.unk_token) == ("[PAD]", "</s>", "<bos>", "<unk>")
    assert (ours.pad_token_id, ours.eos_token_id, ours.bos_token_id, ours.unk_token_id) == (0, 1, 2, 3)
    assert ours("")["input_ids"] == [2]
