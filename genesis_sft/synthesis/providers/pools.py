"""Connections in several small pools: for each request the client's pool looks at every idle connection it has."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2

CONNECTIONS_OF_A_POOL = 4
"""About so many are in a pool: with 32 in one, half of the time for a request goes into looking at idle ones."""


class Pools(httpx2.AsyncBaseTransport):
    """Hands requests to several pools in turn.

    Args:
        concurrency: Requests under way at once, at most.
        more: As for ``httpx2.AsyncHTTPTransport``, for each pool.
    """

    def __init__(self, concurrency: int, **more: Any) -> None:
        count = max(1, concurrency // CONNECTIONS_OF_A_POOL)
        self._pools = [httpx2.AsyncHTTPTransport(**more) for _ in range(count)]
        self._turns = itertools.cycle(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request through the pool whose turn it is."""
        return await next(self._turns).handle_async_request(request)

    async def aclose(self) -> None:
        """Close all pools."""
        for pool in self._pools:
            await pool.aclose()
