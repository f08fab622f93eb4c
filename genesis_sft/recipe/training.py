"""The recipe's training section: what decides the optimizer's path, how its work is cut, and what is watched."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genesis_sft.recipe.base import PositiveFloat, PositiveInt, Section, Steps


class BatchSection(Section):
    """What one optimizer step trains on, over all processes and accumulation together; one of the two."""

    sequences: PositiveInt | None = None
    """Conversations in one optimizer step."""

    tokens: PositiveInt | None = None
    """Most tokens in one optimizer step: conversations are taken in order until the next one would go beyond it."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.sequences is None) == (self.tokens is None):
            raise ValueError("batch has either sequences (conversations) or tokens, exactly one of them")
        return self


class EmbeddingSection(Section):
    """How embedding and output head are trained."""

    train: bool = True
    """Whether they are trained at all; where not, the rows of the control tokens stay as they were initialised too."""

    learning_rate: PositiveFloat | None = None
    """Their own highest learning rate; the schedule's shape is the same. As ``training.learning_rate`` when absent."""


class CheckpointSection(Section):
    """What a killed run goes on from."""

    every_steps: Steps = 500
    """Steps between checkpoints."""

    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many of the newest are kept while the run lasts."""

    asynchronous: bool = True
    """Write while training goes on; takes memory for one more copy of weights and optimizer states in main memory."""

    use: Literal["last", "best"] = "last"
    """Which weights the run ends with: the last step's, or those of the checkpoint with the lowest held-out loss, which
    is kept apart from ``keep`` then."""


class MonitorSection(Section):
    """What is seen while a run lasts. Nothing here changes the weights."""

    held_out_every_steps: Steps | None = None
    """Steps between measurements of the held-out loss of each source; none when absent. Measured after the last step
    too."""

    held_out_tokens: PositiveInt = 8_000
    """About how many held-out tokens each measurement reads, evenly from all sources."""

    samples_every_steps: Steps | None = None
    """Steps between answers to the first chat prompts, as text; none when absent. Not with sharded weights."""

    health_every_steps: Steps = 10
    """Steps between looks at the rows of the control tokens: norm, direction, share of the gradient."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go besides ``metrics.jsonl``, by name; each needs its package: ``pip install
    'genesis-sft[tensorboard]'``."""


class TrainingSection(Section):
    """How the optimizer is run.

    Most fields define the path of the weights, together with the seed. The others (``CUTTING_FIELDS``) say how the work
    is cut and where it is done: they change rounding, speed and memory, and a run may go on with other values of them.
    """

    batch: BatchSection
    """The global batch."""

    epochs: Annotated[int, Field(gt=0, le=10_000)] = 1
    """How often each conversation is seen."""

    max_steps: Steps | None = None
    """Stop after this many steps, also when the epochs are not over; the schedule ends there too."""

    drop_last: bool = False
    """Leave out the conversations that do not fill the last step of an epoch."""

    learning_rate: PositiveFloat = 2e-5
    """Highest learning rate, reached after the warmup."""

    min_learning_rate: Annotated[float, Field(ge=0)] = 2e-6
    """Learning rate at the last step, where the schedule ends."""

    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps of linear increase up to ``learning_rate``; the first step has ``learning_rate / warmup_steps``."""

    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """How the learning rate falls after the warmup: half a cosine, a line, or constant and then a line over the last
    ``decay_fraction`` of the steps (warmup, stable, decay)."""

    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all steps in which ``wsd`` decays."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW, or AdamW with its two states in 8 bits (needs CUDA and ``pip install 'genesis-sft[8bit]'``)."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moments."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay, on matrices only: norm weights and biases are left out."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm when theirs is larger."""

    z_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor on the mean square of the logits' log-sum-exp (PaLM, arXiv:2204.02311, used 1e-4); keeps them from
    drifting. The losses that are reported are without it."""

    embeddings: EmbeddingSection = EmbeddingSection()
    """Embedding and output head, where they are to be treated apart."""

    precision: Literal["float32", "bfloat16", "pure_bfloat16"] = "bfloat16"
    """Data type of the forward and backward passes. With ``bfloat16`` (autocast) master weights and optimizer states
    stay float32; with ``pure_bfloat16`` they are bfloat16 too, in a third of the memory, and small updates are lost to
    rounding: how many is measured."""

    micro_batch_tokens: PositiveInt = 4096
    """Most tokens in one forward pass; bounds memory."""

    pad_to: PositiveInt | None = None
    """Compute every conversation at this length, filled up with padding, as the published run did with 2048. The losses
    are the same; it is there to be compared with."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a CUDA device where there is one."""

    parallel: Literal["auto", "ddp", "fsdp", "hybrid"] = "auto"
    """How the processes that ``torchrun`` starts share the work: each with all weights (``ddp``); weights and optimizer
    states cut over all of them (``fsdp``, FSDP2); or cut within a machine and repeated across machines (``hybrid``).
    ``auto`` takes ``ddp`` where weights, gradients and optimizer states fit, and ``fsdp`` where they do not."""

    cpu_offload: bool = False
    """Keep weights, gradients and optimizer states in main memory and step there; with ``parallel: fsdp``."""

    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Compute activations again in the backward pass instead of keeping them: those of the gated layers, which keep
    half of all (``selective``), or everything within a layer (``full``)."""

    compile: bool = False
    """``torch.compile`` the layers; recompilations are counted."""

    attention: Literal["auto", "segments", "varlen", "flash"] = "auto"
    """Kernel for conversations laid end to end: PyTorch's fused kernel one conversation after the other (``segments``,
    everywhere), ``torch.nn.attention.varlen`` (CUDA), or flash-attn where it is installed. ``auto`` takes the fastest
    of those that agree with the first on the run's own first batch."""

    pad_vocab_to_multiple_of: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Give embedding and head rows of zeros up to a multiple of this while training, for speed on GPUs: with 64, 49,156
    rows become 49,216. Such a row can never be predicted, and the exported model has none. No padding when absent."""

    timeout_seconds: Annotated[int, Field(ge=5, le=86_400)] = 600
    """How long a process waits for the others before it ends with an error."""

    certificate: bool = True
    """Prove on the run's first batch, before training, that loss and gradient are those of the textbook: padded, cut,
    spread and computed by the chosen kernels."""

    checkpoints: CheckpointSection = CheckpointSection()
    """What a killed run goes on from."""

    resume: Literal["auto", "required", "never"] = "auto"
    """Go on from the newest undamaged checkpoint where there is one; refuse to start without one; or start anew."""

    monitor: MonitorSection = MonitorSection()
    """What is seen while the run lasts."""

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate ({self.min_learning_rate:g}) is above learning_rate ({self.learning_rate:g})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1): {list(self.betas)}")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) leaves nothing of max_steps ({self.max_steps}) to train with"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.embeddings.train and self.embeddings.learning_rate is not None:
            raise ValueError("embeddings.learning_rate is of no use where embeddings.train is false")
        if self.cpu_offload and self.parallel != "fsdp":
            raise ValueError("cpu_offload needs parallel: fsdp")
        if self.checkpoints.use == "best" and self.monitor.held_out_every_steps is None:
            raise ValueError("checkpoints.use: best needs monitor.held_out_every_steps, or there is nothing to go by")
        if self.optimizer == "adamw_8bit" and (self.device == "cpu" or self.cpu_offload):
            raise ValueError("adamw_8bit works on CUDA devices only")
        return self


CUTTING_FIELDS = (
    "micro_batch_tokens",
    "pad_to",
    "device",
    "parallel",
    "cpu_offload",
    "activation_checkpointing",
    "compile",
    "attention",
    "timeout_seconds",
    "certificate",
    "resume",
    "monitor",
)
"""Fields of the training section that change no weight beyond rounding: a run may go on with other values."""
