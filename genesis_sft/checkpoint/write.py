"""Write a model as a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS
from genesis_sft.checkpoint.model_dir import CONFIG, ModelDir
from genesis_sft.checkpoint.plausibility import sample_passages
from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.errors import ModelError, RunDirError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> ModelDir:
    """Write a plain Hugging Face folder, and read the tokenizer back as others will.

    Raises:
        RunDirError: The folder cannot be written; perhaps the disk is full.
        ModelError: The tokenizer gives other ids once it was written.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer.chat_template = None
    ids = {name: getattr(model.config, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    with quiet_transformers():
        try:
            model.save_pretrained(folder, max_shard_size="1TB")
            tokenizer.save_pretrained(folder)
        except Exception as error:  # a full disk is a SafetensorError, a RuntimeError or a bare Exception
            raise RunDirError(f"could not write {folder}: {error}", hint="Is there room left on the disk?") from error
        for weights in folder.glob("*.safetensors"):
            shutil.copymode(folder / CONFIG, weights)  # safetensors would let nobody but the owner read them
        again = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = "".join(CONTROL_TOKENS) + "\n\n".join(sample_passages().values())
    written = ModelDir.open(folder)
    if not (tokenizer(text)["input_ids"] == again(text)["input_ids"] == written.load_tokenizer()(text)["input_ids"]):
        raise ModelError("the tokenizer gives other ids after it was written and read again; it cannot be carried over")
    return written
