"""The tuned model as a Hugging Face folder that plain transformers loads, proven before it is called done.

    export/
      model/         config.json, model.safetensors, tokenizer.json, chat_template.jinja, generation_config.json, ...
      export.json    what the gate measured

The gate reloads the folder the way a user would and compares it with the model in memory. A folder that does not pass
is never moved into place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.errors import CheckFailed
from genesis_sft.recipe import ExportSection
from genesis_sft.run_dir import write_json
from genesis_sft.tokens.chatml import CHAT_TEMPLATE, IM_END, ChatMLEncoder, template_matches
from genesis_sft.training.result import TrainingState

MAX_LOGIT_DIFFERENCE = 1e-4
"""Largest difference of a float32 logit between the model in memory and the reloaded folder."""

_PROBED_CONVERSATIONS = 4
_PROBE_TOKENS = 128
_GREEDY_TOKENS = 16
_TEMPLATE_CONVERSATIONS = 1000


@dataclass(frozen=True)
class ExportProof:
    """What the gate measured.

    Attributes:
        max_logit_difference: Largest absolute difference of a logit, reloaded folder against model in memory.
        greedy_tokens: Greedily generated ids that were compared, all of them equal.
        template_conversations: Conversations that the chat template renders to the encoder's own ids.
        template_exceptions: Conversations whose text a template cannot render to the same ids: it holds control text or
            begins with a line break.
        vocab_size: Rows of the embedding matrix = length of the tokenizer or more.
        eos_token_ids: Ids at which ``generate`` stops.
    """

    max_logit_difference: float
    greedy_tokens: int
    template_conversations: int
    template_exceptions: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]

    def summary(self) -> str:
        """Return the plain line of result."""
        return (
            f"reloads with logits equal to {self.max_logit_difference:.1g}, {self.greedy_tokens} greedy ids equal; "
            f"template gives the encoder's ids on {self.template_conversations} conversations"
        )


def export(
    section: ExportSection, trained: TrainingState, base: ModelDir, conversations: Iterable[Conversation], out: Path
) -> tuple[ModelDir, ExportProof]:
    """Write the tuned model and prove the folder.

    Args:
        section: The recipe's export section.
        trained: The finished training run.
        base: The model that was trained; gives config and tokenizer.
        conversations: Real conversations for the proof.
        out: Folder to write to.

    Raises:
        CheckFailed: The reloaded folder does not behave like the model in memory.
    """
    dtype = getattr(torch, section.dtype)
    model = base.load_model(dtype="float32")
    load_model(model, trained.weights)
    model.to(dtype)
    tokenizer = base.load_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    encoder = ChatMLEncoder(tokenizer)
    model.generation_config = _generation_config(model, tokenizer, encoder)
    with quiet_transformers():
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
    proof = prove(out / "model", model, encoder, list(itertools.islice(conversations, _TEMPLATE_CONVERSATIONS)))
    write_json(out / "export.json", asdict(proof))
    return ModelDir.open(out / "model"), proof


def prove(
    folder: Path, model: PreTrainedModel, encoder: ChatMLEncoder, conversations: Sequence[Conversation]
) -> ExportProof:
    """Reload a folder with plain transformers and compare it with the model in memory.

    Raises:
        CheckFailed: Naming the first thing that differs.
    """
    with quiet_transformers():
        reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = reloaded.get_input_embeddings().weight.shape[0]
    if not len(tokenizer) <= rows == reloaded.config.vocab_size:
        raise CheckFailed(
            f"the exported tokenizer has {len(tokenizer)} tokens, the config says {reloaded.config.vocab_size}, "
            f"the embedding matrix has {rows} rows"
        )
    eos = _as_tuple(reloaded.generation_config.eos_token_id)
    if encoder.im_end_id not in eos:
        raise CheckFailed(f"the exported generation config stops at {eos}, not at {IM_END} ({encoder.im_end_id})")
    template = template_matches(tokenizer, encoder, conversations)
    if template.first_difference is not None:
        raise CheckFailed(f"the exported chat template gives other ids than training saw: {template.first_difference}")
    prompts = [encoder.encode(conversation).input_ids for conversation in conversations[:_PROBED_CONVERSATIONS]]
    difference = max((_logit_difference(model, reloaded, ids[:_PROBE_TOKENS]) for ids in prompts), default=0.0)
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise CheckFailed(f"a logit of the reloaded folder differs by {difference:g} from the model in memory")
    greedy = [_greedy(m, prompts[0][:_PROBE_TOKENS]) for m in (model, reloaded)] if prompts else [[], []]
    if greedy[0] != greedy[1]:
        raise CheckFailed(f"the reloaded folder generates {greedy[1]}, the model in memory {greedy[0]}")
    return ExportProof(
        max_logit_difference=difference,
        greedy_tokens=len(greedy[0]),
        template_conversations=template.n_equal,
        template_exceptions=template.n - template.n_equal,
        vocab_size=rows,
        eos_token_ids=eos,
    )


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: ChatMLEncoder
) -> GenerationConfig:
    """Stop at the end of a turn, and at whatever the base stopped at before."""
    before = _as_tuple(model.generation_config.eos_token_id if model.generation_config else None)
    eos = list(dict.fromkeys([encoder.im_end_id, *before]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else encoder.im_end_id
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=pad)


def _as_tuple(ids: int | list[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


@torch.no_grad()
def _logit_difference(one: PreTrainedModel, other: PreTrainedModel, ids: Sequence[int]) -> float:
    inputs = torch.tensor([ids])
    return float((one(inputs).logits.float() - other(inputs).logits.float()).abs().max())


@torch.no_grad()
def _greedy(model: PreTrainedModel, ids: Sequence[int]) -> list[int]:
    inputs = torch.tensor([ids])
    output = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=_GREEDY_TOKENS, do_sample=False
    )
    generated: list[int] = output[0, len(ids) :].tolist()
    return generated
