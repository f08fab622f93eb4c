"""Tokens a second from JSON lines on disk to a finished store, against TRL's and axolotl's own preparation.

    python bench/prepare.py --data DATA --model runs/quickstart/base/model
    python bench/prepare.py --data DATA --model runs/quickstart/base/model --rows 500000 --peer-rows 12321

DATA is a folder of .jsonl.gz files of conversations in any format. All rows are first written as one file of
`messages`, which each tool then reads. `--rows` repeats them to that many, each made different, so that none is a
duplicate. The peers live in environments of their own, made on the first run in bench/.peers (a few GB);
`--peers none` leaves them out.

Times are from the file to the finished data, without imports and without loading the tokenizer, for everyone; ours is
with starting the workers, the trial of the tokenizer engine where the tokenizer is new, exact deduplication, the index
and the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genesis_sft.conversations.clean import read_conversations
from genesis_sft.conversations.conversation import Conversation
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import SourceSection
from genesis_sft.tokens.show import load_tokenizer

HERE = Path(__file__).resolve().parent
PEERS = {"trl": "trl==1.16.0", "axolotl": "axolotl==0.19.0"}
TORCH = "torch==2.13.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .jsonl.gz files")
    parser.add_argument("--model", type=Path, required=True, help="model folder with the control tokens")
    parser.add_argument("--rows", type=int, help="repeat the rows to this many")
    parser.add_argument("--peers", default="trl,axolotl", help="trl, axolotl, both with a comma, or none")
    parser.add_argument("--peer-rows", type=int, help="give the peers the first so many rows only")
    parser.add_argument("--processes", default=f"1,{os.cpu_count()}", help="processes of the peers; the faster counts")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts")
    arguments = parser.parse_args()
    peers = [] if arguments.peers == "none" else arguments.peers.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = folder / "rows.jsonl"
        num_rows = write_rows(arguments.data, rows, arguments.rows)
        for_peers = rows if arguments.peer_rows is None else head(rows, folder / "peer_rows.jsonl", arguments.peer_rows)
        print(f"{num_rows:,} rows, {rows.stat().st_size / 1e6:.1f} MB; {os.cpu_count()} cores")
        first = ours_once(rows, arguments.model, folder, folder / "cache")
        show("genesis-sft, the first time with this tokenizer", first)
        again = (ours_once(rows, arguments.model, folder, folder / "cache") for _ in range(arguments.repeat))
        ours = min(again, key=seconds)
        show("genesis-sft, a tokenizer that was met before", ours)
        for peer in peers:
            theirs = min(
                (
                    peer_once(peer, for_peers, arguments.model, folder, int(processes))
                    for _ in range(arguments.repeat)
                    for processes in arguments.processes.split(",")
                ),
                key=seconds,
            )
            show(PEERS[peer], theirs)
            print(
                f"  genesis-sft is {rate(ours) / rate(theirs):.1f} times as fast "
                f"({rate(first) / rate(theirs):.1f} times the first time)"
            )
        if (folder / "trl.json.ids").exists():  # not written for very many rows
            compare_ids(for_peers, folder / "store", folder / "trl.json.ids", arguments.model)


def write_rows(data: Path, out: Path, num_rows: int | None) -> int:
    """Write all conversations of a folder as `messages`; repeats differ in the first user message."""
    conversations = [
        conversation
        for path in sorted(data.glob("*.jsonl.gz"))
        for conversation in read_conversations(SourceSection(name="rows", path=str(path)))
    ]
    wanted = num_rows or len(conversations)
    with open(out, "w", encoding="utf-8") as lines:
        for number in range(wanted):
            repeat, place = divmod(number, len(conversations))
            lines.write(json.dumps({"messages": messages(conversations[place], repeat)}, ensure_ascii=False) + "\n")
    return wanted


def messages(conversation: Conversation, repeat: int) -> list[dict[str, str]]:
    found = [{"role": message.role, "content": message.content} for message in conversation.messages]
    if repeat:
        first = next(message for message in found if message["role"] == "user")
        first["content"] += f" ({repeat})"
    return found


def head(rows: Path, out: Path, count: int) -> Path:
    with open(rows, encoding="utf-8", newline="\n") as lines, open(out, "w", encoding="utf-8") as some:
        for _, line in zip(range(count), lines, strict=False):
            some.write(line)
    return out


def ours_once(rows: Path, model: Path, folder: Path, cache: Path) -> dict[str, Any]:
    """Prepare in a process of its own, without anything of an earlier run but what it knows of the tokenizer."""
    for earlier in (cache / "sources", folder / "store"):
        shutil.rmtree(earlier, ignore_errors=True)
    command = [sys.executable, "-m", "genesis_sft", "data", "prepare", str(rows), "--tokenizer", str(model)]
    command += ["--out", str(folder / "store"), "--json", "--set", "tokens.max_length=1000000"]
    environ = os.environ | {"GENESIS_SFT_CACHE": str(cache)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ)
    peak = PeakMemory(process.pid)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    answer = json.loads(output)
    return {
        "seconds": answer["seconds"],
        "tokens": answer["tokens_encoded"],
        "rows": answer["total"]["kept"],
        "peak_mb": peak.stop(),
    }


def peer_once(peer: str, rows: Path, model: Path, folder: Path, num_processes: int) -> dict[str, Any]:
    """Prepare with another tool, with an empty cache."""
    out = folder / f"{peer}.json"
    script, offline = HERE / "peers" / f"{peer}_prepare.py", {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        process = subprocess.Popen(
            [str(environment(peer)), str(script), str(rows), str(model), str(out), str(num_processes)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | offline | {"HF_HOME": cache, "CUDA_VISIBLE_DEVICES": ""},
        )
        peak = PeakMemory(process.pid)
        _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return json.loads(out.read_text()) | {"peak_mb": peak.stop(), "processes": num_processes}


def environment(peer: str) -> Path:
    """Return the Python of an environment that has the peer; make it when it is not there."""
    folder = HERE / ".peers" / peer
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        print(f"installing {PEERS[peer]} into {folder.relative_to(HERE.parent)} ...")
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", TORCH, PEERS[peer]], check=True)
        (folder / "made").touch()
    return python


class PeakMemory:
    """The largest resident memory of a process and its children together, looked at 20 times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak_kb, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak in MB."""
        self._ended.set()
        self._thread.join()
        return self._peak_kb / 1024

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._peak_kb = max(self._peak_kb, sum(map(private_kb, family(self._pid))))


def family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def private_kb(pid: int) -> int:
    """Proportional set size: pages that processes share are counted once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def compare_ids(rows: Path, store: Path, theirs: Path, model: Path) -> None:
    """Compare ids and labels with TRL's, row by row, and list where and why they differ."""
    table = TokenStore.open(store).train
    ours = {table.row(index): index for index in range(len(table))}
    tokenizer = load_tokenizer(model)
    control = [token.content for token in tokenizer.added_tokens_decoder.values()]
    equal = equal_labels = 0
    reasons: dict[str, list[int]] = {}
    with open(rows, encoding="utf-8", newline="\n") as lines, open(theirs, encoding="utf-8") as answers:
        for row, (line, answer) in enumerate(zip(lines, answers, strict=True)):
            if row not in ours:
                reasons.setdefault("left out here (duplicate)", []).append(row)
                continue
            index, (ids, labels) = ours[row], json.loads(answer)
            if table.input_ids(index).tolist() == ids:
                equal += 1
                equal_labels += labels == as_labels(ids, table.trained(index))
            else:
                reasons.setdefault(why_different(json.loads(line)["messages"], control), []).append(row)
    print(f"\nids equal to TRL's on {equal:,} rows, labels too on {equal_labels:,} of them")
    for reason, those in reasons.items():
        print(
            f"  {reason}: {len(those):,} rows: {', '.join(map(str, those[:200]))}{' ...' if len(those) > 200 else ''}"
        )


def as_labels(ids: list[int], spans: list[tuple[int, int]]) -> list[int]:
    labels = [-100] * len(ids)
    for start, stop in spans:
        labels[start:stop] = ids[start:stop]
    return labels


def why_different(messages: list[dict[str, str]], control: list[str]) -> str:
    if any(name in message["content"] for message in messages for name in control):
        return "differ: the text holds a control token, which TRL lets through"
    if any(message["content"][:1].isspace() for message in messages):
        return "differ: content begins with white space, which TRL merges with the template's line break"
    return "DIFFER FOR NO KNOWN REASON"


def seconds(answer: dict[str, Any]) -> float:
    return float(answer["seconds"])


def rate(answer: dict[str, Any]) -> float:
    return float(answer["tokens"]) / float(answer["seconds"])


def show(name: str, answer: dict[str, Any]) -> None:
    extra = f", {answer['processes']} processes" if "processes" in answer else ""
    print(
        f"{name}: {answer['tokens']:,} tokens of {answer['rows']:,} rows in {answer['seconds']:.2f} s: "
        f"{rate(answer) / 1e6:.2f} million tokens/s, peak {answer['peak_mb']:,.0f} MB{extra}"
    )


if __name__ == "__main__":
    main()
