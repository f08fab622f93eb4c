"""The four control tokens of ChatML with reasoning, and how a base model is given those that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken

from genesis_sft.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

IM_START, IM_END, THINK, THINK_END = "<|im_start|>", "<|im_end|>", "<think>", "</think>"
CONTROL_TOKENS = (IM_START, IM_END, THINK, THINK_END)


def add_control_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Give model and tokenizer the control tokens that are missing; change both in place.

    All four become special tokens that no normaliser touches, so that text never splits one. A token that the tokenizer
    knows already keeps its id and its row. Each missing one takes the next id after the tokenizer's, and its row in the
    input embedding (and in an output head of its own, bias included) becomes the mean of the rows of all tokens that
    exist, computed in float64: a known direction instead of a random one, with next to no effect on the probabilities
    of the others. Rows of existing tokens stay bit-identical.

    A padded vocabulary (more rows than tokens, e.g. 50,304 rows for 50,257 tokens) has rows that belong to no token and
    were never trained. The new ids fall on those first and their rows are overwritten; the row count, and with it
    ``config.vocab_size``, grows only when they are used up. Padding rows do not count towards the mean and are
    otherwise left alone.

    Example:
        A Llama with 49,152 rows and as many tokens, none of the four among them, returns all four; they get the ids
        49,152 to 49,155, and the model has 49,156 rows.

    Returns:
        The tokens that were added, in the order of their ids.

    Raises:
        ModelError: The tokenizer would hand out an id that is taken, because its ids have gaps.
    """
    taken = sorted(set(tokenizer.get_vocab().values()))
    missing = add_to_tokenizer(tokenizer)
    new_ids = [tokenizer.convert_tokens_to_ids(token) for token in missing]
    if clashes := sorted(set(new_ids) & set(taken)):
        raise ModelError(
            f"the tokenizer's ids have gaps (its largest is {taken[-1]}, but it has {len(taken)} tokens), and the id "
            f"{clashes[0]} of a new control token is taken",
            hint="Number the tokens of the base without gaps, or add the control tokens to its tokenizer yourself.",
        )
    if new_ids:
        _set_rows_to_mean(model, new_ids, taken)
    return missing


def add_to_tokenizer(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Give a tokenizer the control tokens; change it in place, and return those that it did not have."""
    known = tokenizer.get_vocab()
    whole = [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    tokenizer.add_special_tokens({"extra_special_tokens": whole}, replace_extra_special_tokens=False)
    return tuple(token for token in CONTROL_TOKENS if token not in known)


def _set_rows_to_mean(model: PreTrainedModel, new_ids: list[int], existing_ids: list[int]) -> None:
    import torch

    with torch.no_grad():
        if max(new_ids) >= model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(max(new_ids) + 1, mean_resizing=False)  # copies the old rows as they are
        for table in _tables(model):  # (rows, hidden) or, for a bias, (rows,)
            table[new_ids] = table[existing_ids].mean(dim=0, dtype=torch.float64).to(table.dtype)


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return each table with a row per token once: a tied head is the embedding itself."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [embedding.weight]
    if head.weight is not embedding.weight:
        tables.append(head.weight)
    if getattr(head, "bias", None) is not None:
        tables.append(head.bias)
    return tables
