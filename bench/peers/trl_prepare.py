"""TRL's own preparation of a file of messages; bench/prepare.py runs it in an environment that has TRL.

    python trl_prepare.py ROWS.jsonl MODEL OUT.json NUM_PROC

MODEL is a folder with a tokenizer; a tiny model of its vocabulary is made, as only the data matter. Writes the time
from the file to the prepared data set, and the ids and labels.
"""

import json
import resource
import sys
import time

import datasets
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)


def main() -> None:
    rows, model_folder, out, num_proc = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    arguments = SFTConfig(
        output_dir=out + ".trainer",
        assistant_only_loss=True,
        max_length=None,
        dataset_num_proc=num_proc,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    started = time.monotonic()
    dataset = datasets.load_dataset("json", data_files=rows, split="train").select_columns(["messages"])
    loaded = time.monotonic()
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)
    ended = time.monotonic()
    prepared = trainer.train_dataset
    num_tokens = sum(len(ids) for batch in prepared.iter(1000) for ids in batch["input_ids"])
    answer = {
        "seconds": ended - started,
        "seconds_loading": loaded - started,
        "tokens": num_tokens,
        "rows": len(prepared),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    with open(out, "w", encoding="utf-8") as handle:
        json.dump(answer, handle)
    if len(prepared) <= 50_000:
        with open(out + ".ids", "w", encoding="utf-8") as handle:
            for row in prepared:
                handle.write(json.dumps([row["input_ids"], row["labels"]]) + "\n")


if __name__ == "__main__":
    main()
