"""Whether the parts of a model agree with one another: rows, tokenizer, special ids, and weights that are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def check_consistency(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a model whose parts contradict each other.

    More rows than tokens is fine (a padded vocabulary); a token or special id beyond the rows is not.

    Raises:
        ModelError: Names the first contradiction, or the tensors that hold infinities or NaN.
    """
    _check_rows(model, tokenizer)
    _check_special_ids(model, tokenizer)
    _check_finite(model)


def _check_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    head_rows = model.get_output_embeddings().weight.shape[0]
    if not rows == head_rows == model.config.vocab_size:
        raise ModelError(
            f"expected as many rows in the embedding and in the output head as config.json says in vocab_size "
            f"({model.config.vocab_size}); found {rows} and {head_rows}"
        )
    largest, token = max((id_, token) for token, id_ in tokenizer.get_vocab().items())
    if largest >= rows:
        raise ModelError(
            f"the tokenizer knows ids up to {largest} ({token!r}), but the model has only {rows} rows",
            hint="This tokenizer belongs to another model, or tokens were added without resizing the embedding.",
        )


def _check_special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = model.config.vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for where, value in (
            ("config.json", getattr(model.config, name, None)),
            ("tokenizer", getattr(tokenizer, name)),
        ):
            for id_ in value if isinstance(value, list) else [value]:
                if id_ is not None and not 0 <= id_ < rows:
                    raise ModelError(
                        f"{name} of the {where} is {id_}, but ids run from 0 to {rows - 1}",
                        hint=f"Set {name} to the right id there, or to null.",
                    )


def _check_finite(model: PreTrainedModel) -> None:
    bad = {
        name: int((~torch.isfinite(tensor)).sum())
        for name, tensor in model.state_dict().items()
        if not torch.isfinite(tensor).all()
    }
    if bad:
        name, count = next(iter(bad.items()))
        raise ModelError(
            f"expected finite weights; {len(bad)} tensors hold infinities or NaN, the first is {name} ({count} values)",
            hint="The training had diverged, or a conversion overflowed; take an earlier checkpoint.",
        )
