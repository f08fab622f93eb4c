"""/v1/messages/batches as Anthropic answers it: create, list, poll, cancel, results in any order."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tests.synthesis.server.answering import broken, canonical
from tests.synthesis.server.http import Reply, Wanted, json_reply
from tests.synthesis.server.messages import (
    check_headers,
    complete,
    error_reply,
    find_problem,
    headers_of,
    status_reply,
)
from tests.synthesis.server.script import REFUSALS, RESULTS, Fault, chance
from tests.synthesis.server.world import World

MOST_REQUESTS = 100_000


@dataclass
class Batch:
    """A batch; its items are worked on when it ends."""

    id: str
    items: list[dict[str, Any]]
    created: datetime
    polls: int = 0
    ended: datetime | None = None
    cancelling: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)
    downloads_to_break: int = 0

    def to_json(self) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if self.ended is None:
            counts["processing"] = len(self.items)
        for line in self.lines:
            counts[line["result"]["type"]] += 1
        state = "ended" if self.ended else "canceling" if self.cancelling else "in_progress"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": state,
            "request_counts": counts,
            "created_at": self.created.isoformat().replace("+00:00", "Z"),
            "ended_at": self.ended and self.ended.isoformat().replace("+00:00", "Z"),
            "expires_at": (self.created + timedelta(days=1)).isoformat().replace("+00:00", "Z"),
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"http://127.0.0.1/v1/messages/batches/{self.id}/results" if self.ended else None,
        }


def handle(world: World, wanted: Wanted, path: str, query: dict[str, str]) -> Reply:
    refused = check_headers(world, wanted)
    if refused is not None:
        return refused
    found = re.fullmatch(r"/v1/messages/batches(?:/([^/]+)(?:/(results|cancel))?)?", path)
    if found is None:
        return error_reply(world, 404, "not_found_error", "no such address")
    name, verb = found.groups()
    if name is None:
        kind = "create" if wanted.method == "POST" else "list"
    else:
        kind = verb or "poll"
        if name not in world.batches:
            return error_reply(world, 404, "not_found_error", f"no batch {name}")
    key = wanted.headers.get("idempotency-key") or name or kind
    fault = world.fault_for(kind, key, wanted.body)
    if fault is not None and fault.fault in REFUSALS:
        reply = status_reply(world, fault)
        world.write_log(n=world.num_requests, path=kind, batch=name, status=reply.status, fault=fault.fault, billed=0)
        return reply
    if kind == "create":
        reply = _create(world, wanted)
    elif kind == "list":
        reply = _list(world, query)
    else:
        assert name is not None
        batch = world.batches[name]
        if kind == "results":
            reply, fault = _results(world, batch, fault)
        elif kind == "cancel":
            batch.cancelling = True
            reply = json_reply(200, batch.to_json(), headers_of(world))
        else:
            reply = _poll(world, batch)
    if kind != "create":
        world.write_log(
            n=world.num_requests, path=kind, batch=name, status=reply.status, fault=fault and fault.fault, billed=0
        )
    return broken(reply, fault)


def _create(world: World, wanted: Wanted) -> Reply:
    try:
        items = orjson.loads(wanted.body).get("requests")
    except orjson.JSONDecodeError:
        items = None
    problem = None
    if not isinstance(items, list) or not 1 <= len(items) <= MOST_REQUESTS:
        problem = f"requests: expected 1 to {MOST_REQUESTS} items"
    elif any(not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", item.get("custom_id", "")) for item in items):
        problem = "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
    elif len({item["custom_id"] for item in items}) < len(items):
        problem = "requests: custom_id has to be unique"
    if problem is not None:
        world.write_log(n=world.num_requests, path="create", status=400, billed=0, message=problem)
        return error_reply(world, 400, "invalid_request_error", problem)
    batch = Batch(
        world.next_id("msgbatch"), items, datetime.now(UTC), downloads_to_break=world.script.batches.break_results
    )
    world.batches[batch.id] = batch
    world.write_log(
        n=world.num_requests,
        path="create",
        batch=batch.id,
        status=200,
        keys=[item["custom_id"] for item in items],
        billed=0,
    )
    return json_reply(200, batch.to_json(), headers_of(world), delay=world.script.latency_seconds)


def _list(world: World, query: dict[str, str]) -> Reply:
    newest_first = list(reversed(world.batches.values()))
    after, limit = query.get("after_id"), int(query.get("limit", "20"))
    if after is not None:
        places = [place for place, batch in enumerate(newest_first) if batch.id == after]
        newest_first = newest_first[places[0] + 1 :] if places else []
    page = newest_first[:limit]
    value = {
        "data": [batch.to_json() for batch in page],
        "has_more": len(newest_first) > limit,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }
    return json_reply(200, value, headers_of(world))


def _poll(world: World, batch: Batch) -> Reply:
    batch.polls += 1
    if batch.ended is None and (batch.cancelling or batch.polls >= world.script.batches.polls):
        batch.ended = datetime.now(UTC)
        batch.lines = [{"custom_id": item["custom_id"], "result": _work(world, batch, item)} for item in batch.items]
        random.Random(f"{world.script.seed} {batch.id}").shuffle(batch.lines)
    return json_reply(200, batch.to_json(), headers_of(world))


def _work(world: World, batch: Batch, item: dict[str, Any]) -> dict[str, Any]:
    script, key, params = world.script, item["custom_id"], item["params"]
    if batch.cancelling:
        return {"type": "canceled"}
    luck = chance(script.seed, "batch", batch.id, key)
    plan = script.batches
    if luck < plan.expired:
        return _unpaid(world, batch, key, "expired", {"type": "expired"})
    if luck < plan.expired + plan.errored:
        return _unpaid(world, batch, key, "api_error", _error("api_error", "Internal server error"))
    # an invalid request is invalid each time
    if chance(script.seed, "invalid", key) < plan.invalid:
        return _unpaid(world, batch, key, "invalid", _error("invalid_request_error", "the script says so"))
    problem = find_problem(script, params)
    if problem is not None:
        return _unpaid(world, batch, key, "invalid", _error(problem[1], problem[2]))
    fault = world.fault_for("messages", key, canonical(params))
    if fault is not None and fault.fault not in RESULTS:
        return _unpaid(world, batch, key, fault.fault, _error("api_error", "Internal server error"))
    message, spent = complete(world, params, fault)
    billed = spent.cost(script.prices, batch=True)
    world.write_log(key=key, path="item", batch=batch.id, status=200, usage=spent.to_json(), billed=billed)
    return {"type": "succeeded", "message": message}


def _unpaid(world: World, batch: Batch, key: str, fault: str, result: dict[str, Any]) -> dict[str, Any]:
    world.write_log(key=key, path="item", batch=batch.id, fault=fault, billed=0)
    return result


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": message}}}


def _results(world: World, batch: Batch, fault: Fault | None) -> tuple[Reply, Fault | None]:
    if batch.ended is None:
        return error_reply(world, 404, "not_found_error", f"batch {batch.id} has no results yet"), None
    if fault is None and batch.downloads_to_break:
        batch.downloads_to_break -= 1
        fault = Fault("cut_off")
    body = b"".join(_line(world, line) + b"\n" for line in batch.lines)
    return Reply(200, body, headers_of(world), content_type="application/x-jsonl"), fault


def _line(world: World, line: dict[str, Any]) -> bytes:
    text, fault = orjson.dumps(line), world.fault_for("line", line["custom_id"], b"")
    if fault is None:
        return text
    return text[: len(text) // 2] if fault.fault == "malformed" else text + b" " * 40_000_000
