"""What has to be there before the first step: plan, model, kernels, proof, optimizer, checkpoints; in this order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from genesis_sft import __version__
from genesis_sft.batches.collate import Example
from genesis_sft.batches.order import StepPlan
from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS
from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import say
from genesis_sft.errors import DataError, ModelError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.mixture.table import TokenTable
from genesis_sft.recipe import TrainingSection
from genesis_sft.run_dir import canonical_json, write_json
from genesis_sft.tokens.chatml import IM_END
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.compiled import Recompilations, compile_layers
from genesis_sft.training.forward.family import require_llama_family
from genesis_sft.training.forward.keep_less import keep_less
from genesis_sft.training.forward.kernel_choice import choose_kernel
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.padding import VocabRows, pad_vocab, train_pad_token
from genesis_sft.training.forward.recompute import recompute_activations
from genesis_sft.training.memory import MemoryEstimate, available_memory, choose_parallel, estimate_memory
from genesis_sft.training.optimizer import build_optimizer, describe_groups, freeze_embeddings
from genesis_sft.training.processes.parallel import Ranks, Trainable
from genesis_sft.training.processes.preflight import check_agreement, check_shared_folder, preflight
from genesis_sft.training.proof.certificate import certify
from genesis_sft.training.proof.textbook import Reference, cut_examples, reference
from genesis_sft.training.watching.trackers import require_trackers

CERTIFICATE_FILE = "certificate.json"
_PROOF_TOKENS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Prepared:
    """All that a step needs.

    Attributes:
        section: The recipe's training section, with ``parallel`` decided.
        ranks: The processes.
        plan: Which conversations each step trains.
        store: Holds them.
        trainable: The wrapped model.
        optimizer: With the groups of the recipe.
        rows: Rows of embedding and head, with padding and without.
        control_ids: Names and ids of the control tokens.
        estimate: Memory that the run is thought to need.
        recompilations: Counts them where layers are compiled.
    """

    section: TrainingSection
    ranks: Ranks
    plan: StepPlan
    store: TokenStore
    trainable: Trainable
    optimizer: torch.optim.Optimizer
    rows: VocabRows
    control_ids: Mapping[str, int]
    estimate: MemoryEstimate
    recompilations: Recompilations | None

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends a turn."""
        return self.control_ids[IM_END]


def make_plan(section: TrainingSection, table: TokenTable, seed: int) -> StepPlan:
    """Return which conversations each step trains.

    Raises:
        DataError: There are too few for one step, or the run would be over before the warmup is.
    """
    plan = StepPlan(
        table.num_tokens_per_row,
        section.batch,
        epochs=section.epochs,
        drop_last=section.drop_last,
        max_steps=section.max_steps,
        seed=seed,
    )
    if plan.num_steps == 0:
        whole = int(table.num_tokens_per_row.sum())
        raise DataError(
            f"expected at least {section.batch.sequences} conversations for one step, found {len(table)}"
            if section.batch.sequences
            else f"expected more than {section.batch.tokens} tokens for one full step, found {whole}",
            hint="Lower training.batch or set training.drop_last to false.",
        )
    if section.warmup_steps >= plan.num_steps:
        raise DataError(
            f"the run has {plan.num_steps} steps, all of them warmup (training.warmup_steps is {section.warmup_steps})",
            hint="Lower training.warmup_steps, or train on more data.",
        )
    return plan


def prepare(
    section: TrainingSection, plan: StepPlan, base: ModelDir, store: TokenStore, ranks: Ranks, out: Path, *, seed: int
) -> Prepared:
    """Load, prove and wrap the model, and make its optimizer.

    Args:
        section: The recipe's training section.
        plan: See `make_plan`.
        base: The model to start from.
        store: Its training conversations, as tokens.
        ranks: The processes.
        out: Folder of the run, seen by all of them.
        seed: The recipe's seed.

    Raises:
        ModelError: The model is of another family, a conversation is longer than its context, or it cannot be padded.
        CheckFailed: The certificate does not hold, the processes cannot reach each other or are not of one mind.
    """
    require_trackers(section.monitor.trackers)
    if section.checkpoints.use == "best" and len(store.held_out) == 0:
        raise DataError(
            "expected held-out conversations to find the best checkpoint with (training.checkpoints.use); found none",
            hint="Set data.held_out, e.g. to 0.01.",
        )
    check_shared_folder(ranks, out)
    check_agreement(ranks, _identity(section, store, base, seed))
    tokenizer = base.load_tokenizer()
    control_ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in CONTROL_TOKENS}
    model = _load(section, base, store, ranks)
    train_pad_token(model)
    rows = pad_vocab(model, section.pad_vocab_to_multiple_of)
    freeze_embeddings(model, section)
    # before anything else goes over the links that may hang
    num_bytes = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if (measured := preflight(ranks, num_bytes, timeout_seconds=section.timeout_seconds)) is not None:
        say_first(ranks, measured.summary())
    section = _decide_parallel(section, model, ranks)
    estimate = estimate_memory(model, section, world_size=ranks.world_size, local_world_size=ranks.local_world_size)
    for line in estimate.lines():
        say_first(ranks, line)
    examples = cut_examples(store.train, plan.examples_of_step(0).tolist(), _PROOF_TOKENS[ranks.device.type])
    expected = _prove_textbook(section, model, examples, ranks)
    if not section.compile:  # a compiler sees for itself what need not be kept
        keep_less(model)
    recompute_activations(model, section.activation_checkpointing)
    recompilations = compile_layers(model) if section.compile else None
    objective = Objective(model, end_of_turn=control_ids[IM_END], z_loss=section.z_loss)
    trainable = Trainable(objective.train(), ranks, section)
    if expected is not None:
        certificate = certify(trainable, expected, examples, ranks, end_of_turn=control_ids[IM_END])
        if ranks.is_first:
            write_json(out / CERTIFICATE_FILE, certificate.to_json())
        certificate.require()
        say_first(ranks, certificate.summary())
    optimizer = build_optimizer(trainable.module, section)
    for line in describe_groups(optimizer):
        say_first(ranks, line)
    return Prepared(section, ranks, plan, store, trainable, optimizer, rows, control_ids, estimate, recompilations)


def say_first(ranks: Ranks, line: str) -> None:
    """Say a line in the first process only, indented as what belongs to a stage is."""
    if ranks.is_first:
        say(f"  {line}")


def _identity(section: TrainingSection, store: TokenStore, base: ModelDir, seed: int) -> Mapping[str, str]:
    """Return what all processes have to agree on."""
    return {
        "recipe": hashlib.sha256(canonical_json([section.model_dump(mode="json"), seed]).encode()).hexdigest()[:12],
        "version": __version__,
        "data": ",".join(str(source.info.get("key"))[:12] for source in store.stores),
        "config": hashlib.sha256(canonical_json(base.config).encode()).hexdigest()[:12],
    }


def _load(section: TrainingSection, base: ModelDir, store: TokenStore, ranks: Ranks) -> PreTrainedModel:
    dtype = "bfloat16" if section.precision == "pure_bfloat16" else "float32"
    model = base.load_model(dtype=dtype, device=str(ranks.device), attention=SEGMENT_ATTENTION).train()
    longest = max(int(table.num_tokens_per_row.max(initial=0)) for table in (store.train, store.held_out))
    require_llama_family(model, longest)
    for table in (store.train, store.held_out):
        _check_lengths(table, model)
    return model


def _check_lengths(table: TokenTable, model: PreTrainedModel) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = int(table.num_tokens_per_row.max(initial=0))
    if context is not None and longest > context:
        raise ModelError(
            f"the longest conversation has {longest} tokens, the model's context is {context}",
            hint=f"Set tokens.max_length to {context} or less.",
        )


def _decide_parallel(section: TrainingSection, model: PreTrainedModel, ranks: Ranks) -> TrainingSection:
    if section.parallel != "auto":
        return section
    chosen = choose_parallel(section, model, ranks, available_memory(ranks.device))
    return section.model_copy(update={"parallel": ranks.from_first(chosen)})


def _prove_textbook(
    section: TrainingSection, model: PreTrainedModel, examples: Sequence[Example], ranks: Ranks
) -> Reference | None:
    """Choose the attention kernel, and compute what the certificate compares with, while the model is whole."""
    autocast = torch.bfloat16 if section.precision == "bfloat16" else None
    choice = choose_kernel(model, examples, section.attention, autocast_dtype=autocast)
    say_first(ranks, choice.summary())
    model.set_attn_implementation(ranks.from_first(choice.name))
    return reference(model, examples, autocast_dtype=autocast, z_loss=section.z_loss) if section.certificate else None
