"""A server on this machine that speaks the protocols of Anthropic and OpenAI, breaks them by script, and bills.

    python -m tests.synthesis.server --port-file PORT --log LOG.jsonl [--script SCRIPT.json]

It lives in a process of its own, so that a test may kill its client and read afterwards what was asked and billed:
every request is one line of the log, written before its answer goes out. What the script may say: `script.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.synthesis.server import batches, chat, messages
from tests.synthesis.server.answering import post_request
from tests.synthesis.server.http import Connection, Reply, Wanted, json_reply
from tests.synthesis.server.script import Script
from tests.synthesis.server.world import World


def answer(world: World, wanted: Wanted) -> Reply:
    """What the server does about one HTTP request."""
    world.num_requests += 1
    path = urlsplit(wanted.target).path
    query = {name: values[-1] for name, values in parse_qs(urlsplit(wanted.target).query).items()}
    for prefix in world.script.path_prefixes:
        path = path.removeprefix(prefix)
    if wanted.method == "POST" and path == "/v1/messages":
        return post_request(world, wanted, messages.ENDPOINT)
    if path.startswith("/v1/messages/batches"):
        return batches.handle(world, wanted, path, query)
    if wanted.method == "POST" and path == "/v1/chat/completions":
        return post_request(world, wanted, chat.ENDPOINT)
    if wanted.method == "GET" and path == "/v1/models":
        return chat.get_models(world, wanted)
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


if __name__ == "__main__":
    main()
