"""Axolotl's `preprocess` on a file of messages; bench/prepare.py runs it in an environment that has axolotl.

    python axolotl_prepare.py ROWS.jsonl MODEL OUT.json NUM_PROC

Writes the time of its own `load_datasets`, from the file to the prepared folder, without imports and start.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
os.environ["AXOLOTL_IS_PREPROCESS"] = "1"

import yaml
from axolotl.cli.args import PreprocessCliArgs
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.utils.trainer import disable_datasets_caching


def main() -> None:
    rows, model_folder, out, num_proc = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "base_model": model_folder,
            "tokenizer_type": "AutoTokenizer",
            "datasets": [
                {
                    "path": rows,
                    "ds_type": "json",
                    "type": "chat_template",
                    "field_messages": "messages",
                    "message_property_mappings": {"role": "role", "content": "content"},
                    "roles_to_train": ["assistant"],
                    "train_on_eos": "turn",
                }
            ],
            "chat_template": "chatml",
            "dataset_prepared_path": f"{folder}/prepared",
            "dataset_processes": num_proc,
            "sequence_len": 1_000_000,
            "output_dir": f"{folder}/out",
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_epochs": 1,
            "learning_rate": 1e-5,
            "optimizer": "adamw_torch",
            "val_set_size": 0,
            "bf16": False,
            "fp16": False,
        }
        path = Path(folder) / "config.yml"
        path.write_text(yaml.safe_dump(settings))
        cfg = load_cfg(str(path), is_preprocess=True)
        cfg.is_preprocess = True
        started = time.monotonic()
        with disable_datasets_caching():
            prepared = load_datasets(cfg=cfg, cli_args=PreprocessCliArgs(debug=False)).train_dataset
        seconds = time.monotonic() - started
        num_tokens = sum(len(ids) for batch in prepared.iter(1000) for ids in batch["input_ids"])
        answer = {
            "seconds": seconds,
            "tokens": num_tokens,
            "rows": len(prepared),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        Path(out).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
