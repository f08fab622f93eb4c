"""Processes of tests, forked from a server that has imported what they need: imports are most of what they would do.

There is one server for a pytest process, and it imports the list that was set last: hence one list, for all tests.
"""

from __future__ import annotations

import multiprocessing

PRELOADED = (
    "genesis_sft.cli.program",
    "genesis_sft.evals.run",
    "genesis_sft.mixture.store",
    "genesis_sft.report.synthesis_plots",
    "genesis_sft.synthesis.output.files",
    "genesis_sft.synthesis.providers.batches",
    "genesis_sft.synthesis.providers.chat",
    "genesis_sft.synthesis.providers.messages",
    "genesis_sft.synthesis.writing.run",
    "genesis_sft.training.loop",
    "anthropic",
    "openai",
    "pandas",
    "pytest",
    "pytest_socket",
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
)
"""Modules that can be found from any folder: the server is started in whichever the first test is in."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))
