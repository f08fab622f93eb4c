"""Synthesis: requests a second through the whole path, memory by size of the plan, commits of the job store.

    python bench/synthesis.py --out bench/results/synthesis_cpu.json

The command itself, `genesis-sft synthesize`, in a process of its own with the official SDK, against the test server of
`tests/synthesis/server/` in another one, over loopback: with all steps until about 10,000 requests are answered, and
with one request a conversation for plans of two sizes. The rate is taken from the server's log, from the first request
to the last; memory is the peak of the process as the kernel counts it. The store alone is measured with one and with
32 workers that record, reserve and answer: what a commit for each change would bound, a commit for many does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import yaml
from machine import origin

from genesis_sft.run_dir import write_json
from genesis_sft.synthesis.asking.request import Answer, Request, Usage
from genesis_sft.synthesis.store.job_store import JobStore

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from tests.synthesis.conftest import start_loopback_server  # noqa: E402 - of the checkout, not of the package

TARGET = 300
"""Requests a second, below which this client would hold up a provider."""


def main() -> int:
    """Measure, print, write; 1 if the whole path is slower than `TARGET`."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        runs = [measure(folder / "steps", arguments.conversations, "steps", arguments.concurrency)]
        for count in (1_000, 10_000):
            runs.append(measure(folder / f"{count}", count, "one_request", arguments.concurrency))
        store = {f"{workers} workers": store_rate(folder, workers) for workers in (1, 32)}
    result = {"benchmark": "synthesis", "runs": runs, "store_records_and_answers_per_second": store} | origin(
        arguments.commit
    )
    for run in runs:
        print(
            f"{run['mode']}: {run['conversations']:,} conversations, {run['requests']:,} requests, "
            f"{run['requests_per_second']:.0f} requests/s, {run['peak_memory_mb']:.0f} MB at most"
        )
    for workers, rate in store.items():
        print(f"the store alone, {workers}: {rate:.0f} requests recorded and answered a second")
    write_json(arguments.out, result)
    print(f"\nwritten: {arguments.out}")
    return 0 if runs[0]["requests_per_second"] >= TARGET else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "synthesis_cpu.json", help="file to write")
    parser.add_argument("--conversations", type=int, default=1_700, help="of the run with all steps")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--scratch", type=Path, help="folder for the store: its disk decides how long commits take")
    parser.add_argument("--commit", help="of the measured tree, where there is no git")
    return parser.parse_args()


def measure(folder: Path, conversations: int, mode: str, concurrency: int) -> dict[str, Any]:
    """Run the command once; returns rate and peak memory."""
    folder.mkdir()
    server = start_loopback_server(folder / "server", {})
    try:
        recipe = folder / "recipe.yaml"
        provider = {"base_url": server.url, "concurrency": concurrency}
        section = {
            "constitution": str(ROOT / "constitution"),
            "out": "out",
            "conversations": conversations,
            "budget_usd": 1000,
            "provider": provider,
            "steps": {"mode": mode, "critique": mode == "steps"},
        }
        recipe.write_text(yaml.safe_dump({"synthesis": section}), encoding="utf-8")
        command = [sys.executable, "-m", "genesis_sft", "synthesize", str(recipe)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": ""})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        asked = [entry for line in server.log_path.read_bytes().splitlines() if "key" in (entry := orjson.loads(line))]
    finally:
        server.process.kill()
        server.process.wait()
    seconds = asked[-1]["time"] - asked[0]["time"]
    return {
        "mode": mode,
        "conversations": conversations,
        "exit_status": process.returncode,
        "requests": len(asked),
        "seconds": round(seconds, 2),
        "requests_per_second": round(len(asked) / seconds, 1),
        "peak_memory_mb": round(used.ru_maxrss / 1024, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
    }


def store_rate(folder: Path, workers: int, seconds: float = 5.0) -> float:
    """Return how many requests a second are recorded, reserved for and answered."""

    async def run() -> float:
        with JobStore.open(folder / f"store{workers}.sqlite", budget=None) as store:
            started, done = time.perf_counter(), 0

            async def work(worker: int) -> None:
                nonlocal done
                while time.perf_counter() - started < seconds:
                    asked = Request(worker, done, "draft", "m", "shared " * 2500, "s", (("user", "word " * 200),), 500)
                    done += 1
                    attempt = await store.reserve(asked, 1000)
                    answer = Answer("word " * 150, "end", Usage(10, 0, 4000, 200), "m", raw={"text": "word " * 150})
                    await store.answered(attempt, answer, 10)

            await asyncio.gather(*(work(worker) for worker in range(workers)))
            return done / (time.perf_counter() - started)

    return round(asyncio.run(run()), 1)


if __name__ == "__main__":
    sys.exit(main())
