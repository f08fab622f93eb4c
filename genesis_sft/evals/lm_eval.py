"""lm-evaluation-harness's own command line, with this program's backend among its models.

    python -m genesis_sft.evals.lm_eval --model genesis-sft --model_args pretrained=runs/quickstart/export/model \
        --tasks piqa --log_samples --output_path out

From Python, importing this module is enough: the harness then knows ``model="genesis-sft"``. Under ``torchrun`` the
processes share the work; they meet when the model is loaded, and part when the program ends.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import ExitStack
from typing import Literal

import lm_eval.models  # noqa: F401 - before ours, or the harness takes ours for all there are
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.console import say
from genesis_sft.errors import GenesisError, InputError
from genesis_sft.evals.processes import Team, alone, join_team
from genesis_sft.evals.scorer import Scorer
from genesis_sft.training.processes.meeting import is_follower, under_torchrun

_DTYPES = ("float32", "bfloat16")


@register_model("genesis-sft")
class Backend(Scorer):
    """A model folder, scored with common beginnings computed once.

    Args:
        pretrained: The folder; nothing is fetched, and no code of it is run.
        dtype: ``"float32"`` or ``"bfloat16"``.
        device: CUDA where there is one when absent; of several processes each takes its own.
        pass_tokens: Tokens of one forward pass.
        batch_size, max_batch_size: What the harness passes on; requests are not padded into batches here.

    Raises:
        InputError: An argument is not one of these.
        ModelError: The folder holds no model that can be loaded.
    """

    def __init__(
        self,
        pretrained: str,
        dtype: str = "float32",
        device: str | None = None,
        pass_tokens: int = 2048,
        batch_size: object = None,
        max_batch_size: object = None,
        **others: object,
    ) -> None:
        if others:
            raise InputError(
                f"expected model arguments pretrained, dtype, device and pass_tokens; found {', '.join(sorted(others))}"
            )
        if dtype not in _DTYPES:
            raise InputError(f"expected dtype {' or '.join(_DTYPES)}; found {dtype!r}")
        if not isinstance(pass_tokens, int) or pass_tokens < 1:
            raise InputError(f"expected pass_tokens of 1 or more; found {pass_tokens!r}")
        if device and device.startswith("cuda") and not torch.cuda.is_available():
            device = "cpu"  # the harness's command line names cuda unasked, and its own class falls back as well
        folder = ModelDir.open(pretrained)
        best = device or ("cuda" if torch.cuda.is_available() else "cpu")
        team = _join(device) if under_torchrun() else alone(best)
        model = folder.load_model(dtype, str(team.ranks.device))
        super().__init__(model, folder.load_tokenizer(), pass_tokens, team)


def _join(device: str | None) -> Team:
    """Meet the other processes; part from them when the program ends."""
    kinds: tuple[Literal["auto", "cpu", "cuda"], ...] = ("auto", "cpu", "cuda")
    kind = next((kind for kind in kinds if kind == (device or "auto").partition(":")[0]), None)
    if kind is None:
        raise InputError(f"expected device cpu or cuda; found {device!r}")
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(join_team(kind))


def main() -> None:
    """Run the harness's command line; what a user can cause ends in a message and exit status 2."""
    if is_follower():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    try:
        cli_evaluate()
    except GenesisError as error:
        say(f"error: {error}")
        if error.hint:
            say(f"hint: {error.hint}")
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
