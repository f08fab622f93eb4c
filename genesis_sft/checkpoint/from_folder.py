"""Read a Hugging Face folder as a plain float32 model, without what belongs to its former life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def read_folder(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the model in float32 and eval mode, and its tokenizer.

    Raises:
        ModelError: A part is missing, or the weights do not fit the architecture.
    """
    source = ModelDir.open(path)
    model, tokenizer = source.load_model(), source.load_tokenizer()
    vars(model.config).pop("auto_map", None)  # code that would lie in the source folder
    _state_tying_as_it_is(model)
    return model, tokenizer


def _state_tying_as_it_is(model: PreTrainedModel) -> None:
    """Correct a config that says the output head is the embedding when a head of its own is stored.

    transformers keeps such a head, but would lose it the next time that weights are tied.
    """
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if model.config.tie_word_embeddings and not is_tied:
        say("warning: config.json ties the output head to the embedding, but another head is stored; it is kept")
        model.config.tie_word_embeddings = False
