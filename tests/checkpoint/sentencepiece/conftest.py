"""SentencePiece models and the tokenizers made of them, each made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from genesis_sft.checkpoint.sentencepiece.convert import read_sentencepiece
from tests.checkpoint.sentencepiece.models import MODELS, train


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model of `MODELS`, by name."""
    folder = tmp_path_factory.mktemp("sentencepiece")

    @cache
    def get(name: str) -> Path:
        return train(folder / f"{name}.model", **MODELS[name])

    return get


@pytest.fixture(scope="session")
def tokenizer_of(model_of: Callable[[str], Path]) -> Callable[[str], PreTrainedTokenizerFast]:
    """The fast tokenizer of a model of `MODELS`, by name, without BOS. Shared: do not change it, copy it."""

    @cache
    def get(name: str) -> PreTrainedTokenizerFast:
        return read_sentencepiece(model_of(name), add_bos=False)

    return get
