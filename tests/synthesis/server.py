"""A server on this machine that speaks the protocols of Anthropic and OpenAI, breaks them by script, and bills.

    python -m tests.synthesis.server --port-file PORT --log LOG.jsonl [--script SCRIPT.json]

It lives in a process of its own, so that a test may kill its client and read afterwards what was asked and billed:
every request is one line of the log, written before its answer goes out. What the script may say: `server_script.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.synthesis import server_batches, server_chat, server_messages
from tests.synthesis.server_http import Connection, Reply, Wanted, json_reply
from tests.synthesis.server_script import Fault, Script, Spent


@dataclass
class World:
    """All that the server knows: its script, what it was asked, its prompt cache and its batches."""

    script: Script
    log_file: int
    num_requests: int = 0
    under_way: int = 0
    tries: dict[tuple[str, str], int] = field(default_factory=dict)
    fault_counts: dict[int, int] = field(default_factory=dict)
    cache: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    batches: dict[str, server_batches.Batch] = field(default_factory=dict)

    def next_id(self, prefix: str) -> str:
        return f"{prefix}_{self.num_requests:024d}"

    def write_log(self, **entry: Any) -> None:
        os.write(self.log_file, orjson.dumps({"time": time.time(), **entry}) + b"\n")

    def fault_for(self, path: str, key: str, body: bytes) -> Fault | None:
        """The first fault of the script that strikes this request, if any."""
        tried = self.tries[path, key] = self.tries.get((path, key), 0) + 1
        for place, fault in enumerate(self.script.faults):
            if fault.strikes(path, key, body, tried, self.num_requests, self.script.seed):
                if fault.at_most is not None and self.fault_counts.get(place, 0) >= fault.at_most:
                    continue
                self.fault_counts[place] = self.fault_counts.get(place, 0) + 1
                return fault
        return None


def answer(world: World, wanted: Wanted) -> Reply:
    """What the server does about one HTTP request."""
    world.num_requests += 1
    path = urlsplit(wanted.target).path
    query = {name: values[-1] for name, values in parse_qs(urlsplit(wanted.target).query).items()}
    for prefix in world.script.path_prefixes:
        path = path.removeprefix(prefix)
    if wanted.method == "POST" and path == "/v1/messages":
        return server_messages.with_key(world, wanted, server_messages.post_message(world, wanted))
    if path.startswith("/v1/messages/batches"):
        return server_batches.handle(world, wanted, path, query)
    if wanted.method == "POST" and path == "/v1/chat/completions":
        return server_messages.with_key(world, wanted, server_chat.post_completion(world, wanted))
    if wanted.method == "GET" and path == "/v1/models":
        return server_chat.get_models(world, wanted)
    world.write_log(n=world.num_requests, path=path, status=404, headers=wanted.headers, billed=0)
    return json_reply(404, {"type": "error", "error": {"type": "not_found_error", "message": "no such address"}})


async def serve(script: Script, port_file: Path, log: Path) -> None:
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    world = World(script, log_file)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(lambda wanted: answer(world, wanted), world), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    temporary = port_file.with_suffix(".part")
    temporary.write_text(str(port))
    temporary.replace(port_file)  # a reader never sees half a number
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--script", type=Path)
    options = parser.parse_args()
    script = Script.read(options.script) if options.script else Script()
    asyncio.run(serve(script, options.port_file, options.log))


__all__ = ["Spent", "World", "answer", "main", "serve"]

if __name__ == "__main__":
    main()
