"""`genesis-sft synthesize` as a user meets it: a recipe, a process of its own, its status and what it printed.

The processes are forked from one that has imported the program; `command` is for those that begin from nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.program import ROOT, Result, run_program
from tests.synthesis.conftest import LoopbackServer
from tests.synthesis.tiny_framework import PRINCIPLES, PROMPTS, TAXONOMY

KEY = "sk-test-0123456789-not-to-be-seen"


def write_recipe(folder: Path, **synthesis: Any) -> Path:
    """Write a recipe with the shipped constitution; ``out`` is the folder ``out`` beside it."""
    path = folder / "recipe.yaml"
    section = {"constitution": str(ROOT / "constitution"), "out": "out", **synthesis}
    path.write_text(yaml.safe_dump({"seed": 7, "synthesis": section}))
    return path


def tiny_constitution(folder: Path) -> Path:
    """Write the three files of the tiny framework; returns their folder."""
    (folder / "tiny").mkdir(exist_ok=True)
    for name, values in (("principles", PRINCIPLES), ("taxonomy", TAXONOMY), ("prompts", PROMPTS)):
        (folder / "tiny" / f"{name}.yaml").write_bytes(orjson.dumps(values))  # JSON is YAML
    return folder / "tiny"


def anthropic_recipe(folder: Path, server: LoopbackServer, *, batches: bool = False, **synthesis: Any) -> Path:
    """Write a recipe that asks the loopback server as if it were Anthropic's."""
    provider = {"base_url": server.url, "batches": batches, "timeout_seconds": 5}
    return write_recipe(folder, **{"budget_usd": 50, "provider": provider, **synthesis})


def openai_recipe(folder: Path, server: LoopbackServer, **synthesis: Any) -> Path:
    """Write a recipe that asks the loopback server as if it were a local one."""
    provider = {"api": "openai", "model": "local-model", "base_url": server.openai_url, "timeout_seconds": 5}
    return write_recipe(folder, **{"provider": provider, **synthesis})


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of a command; a value of ``None`` takes a variable away."""
    names = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": None, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    wanted = {**os.environ, **names, **changes}
    return {name: value for name, value in wanted.items() if value is not None}


def synthesize(*arguments: object, timeout: float = 120, **env: str | None) -> Result:
    """Run the command to its end."""
    return run_program("synthesize", *arguments, env=environment(**env), timeout=timeout)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "genesis_sft", "synthesize", *map(str, arguments)]


def succeed(*arguments: object, **env: str | None) -> Result:
    """Run the command; it must end with status 0."""
    result = synthesize(*arguments, **env)
    assert result.returncode == 0, result.stderr
    return result


def answer_json(*arguments: object, **env: str | None) -> dict[str, Any]:
    """Run the command with --json, and return what it printed."""
    printed: dict[str, Any] = orjson.loads(succeed(*arguments, "--json", **env).stdout)
    return printed


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
