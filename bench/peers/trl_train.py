"""TRL's SFTTrainer on the rows of a specification; bench/train.py and bench/train_gpu.py run it where TRL is installed.

    python trl_train.py SPECIFICATION.json ANSWER.json        (see bench/measure.py)

The rows come tokenised and labelled, so that only training is compared. Its own settings, under ``trl``:

    per_device, padding_free, pad_to_multiple_of, attention, liger, gradient_checkpointing, compile
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import transformers
from measure import (
    BETAS,
    MAX_GRAD_NORM,
    WEIGHT_DECAY,
    StepClock,
    random_llama,
    read_rows,
    read_specification,
    write_answer,
)
from trl import SFTConfig, SFTTrainer


class NotingLosses(SFTTrainer):
    """Keeps the loss of every step unrounded: the losses of its micro-batches are parts of a sum."""

    def training_step(self, *args, **kwargs):
        """Add the loss of a micro-batch."""
        loss = super().training_step(*args, **kwargs)
        self.step_loss = getattr(self, "step_loss", 0.0) + loss
        return loss


class Ticking(transformers.TrainerCallback):
    """Ticks at every step's end."""

    def __init__(self):
        self.clock, self.losses, self.trainer = None, [], None

    def on_step_end(self, args, state, control, **kwargs):
        """Note time and loss."""
        self.losses.append(float(self.trainer.step_loss))
        self.trainer.step_loss = 0.0
        self.clock.step_ended()


def main():
    """Train, and write what was measured."""
    specification, out = read_specification()
    rows = datasets.Dataset.from_list(read_rows(specification))
    attention = specification["trl"].get("attention", "sdpa")
    if specification["model"]:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            specification["model"], dtype="float32", attn_implementation=attention, local_files_only=True
        )
    else:
        model = random_llama(specification["shape"], specification["device"], attention)
    tokenizer = transformers.AutoTokenizer.from_pretrained(specification["tokenizer"], local_files_only=True)
    ticking = Ticking()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = NotingLosses(
            model=model,
            args=settings(specification, scratch),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[ticking],
        )
        ticking.trainer = trainer
        ticking.clock = StepClock(specification["device"])
        trainer.train()
    write_answer(out, specification, ticking.clock, ticking.losses)


def settings(specification, scratch):
    """Return the trainer's settings: the same optimizer, and nothing written or looked at on the way."""
    own, on_cpu = specification["trl"], specification["device"] == "cpu"
    return SFTConfig(
        output_dir=scratch,
        dataset_kwargs={"skip_prepare_dataset": True},
        per_device_train_batch_size=own["per_device"],
        gradient_accumulation_steps=specification["sequences"] // own["per_device"],
        max_steps=specification["steps"],
        max_length=None,
        padding_free=own.get("padding_free", False),
        pad_to_multiple_of=own.get("pad_to_multiple_of"),
        gradient_checkpointing=own.get("gradient_checkpointing", False),
        use_liger_kernel=own.get("liger", False),
        torch_compile=own.get("compile", False),
        learning_rate=specification["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=MAX_GRAD_NORM,
        bf16=specification["precision"] == "bfloat16",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


if __name__ == "__main__":
    main()
