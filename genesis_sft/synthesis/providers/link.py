"""One client of an SDK, every failure turned into a `Fault`, `Unanswerable` or `ProviderError`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Fault
from genesis_sft.synthesis.providers.address import Address
from genesis_sft.synthesis.providers.bounded_client import Line, lines_of
from genesis_sft.synthesis.providers.clients import (
    fault_of,
    parse_object,
    parsed_or_text,
    status_error,
    with_models,
)
from genesis_sft.synthesis.providers.errors import ProviderError, Unanswerable

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

MODELS_TIMEOUT_SECONDS = 10.0


class Link:
    """Sends through an SDK's client.

    The client's own ``post`` and ``get`` are used rather than its typed methods: the body is already JSON, and the
    answer is kept as it came, which takes a fifth less of the processor's time for each request.

    Args:
        client: The SDK's client.
        section: The recipe's section.
        address: Where it goes, and the key.
        models_path: Where the server lists its models.
    """

    def __init__(
        self, client: AsyncAnthropic | AsyncOpenAI, section: ProviderSection, address: Address, *, models_path: str
    ) -> None:
        self._client: Any = client
        self._section, self._address, self._models_path = section, address, models_path

    async def post(self, path: str, content: bytes, *, key: str | None = None, limited: bool = True) -> dict[str, Any]:
        """Send JSON and return the object that answers.

        Args:
            path: On the server.
            content: The JSON.
            key: For the header ``Idempotency-Key``.
            limited: Whether all of it has to happen within the section's timeout; otherwise each part of it.
        """
        headers = {"content-type": "application/json"} | ({} if key is None else {"idempotency-key": key})
        with self._translated():
            async with asyncio.timeout(self._section.timeout_seconds if limited else None):
                response = await self._client.post(
                    path, content=content, cast_to=httpx2.Response, options={"headers": headers}
                )
        return parse_object(response.content)

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """Return the object at a path."""
        with self._translated():
            async with asyncio.timeout(self._section.timeout_seconds):
                response = await self._client.get(path, cast_to=httpx2.Response, options={"params": dict(params or {})})
        try:
            return parse_object(response.content)
        except Fault as fault:  # looking costs nothing
            raise Fault(fault.kind, str(fault)) from None

    async def lines(self, path: str) -> AsyncIterator[Line]:
        """Yield the lines at a path as they arrive."""
        with self._translated():
            response: httpx2.Response = await self._client.get(path, cast_to=httpx2.Response, stream=True)
            try:
                async for line in lines_of(response, self._address.key):
                    yield line
            finally:
                await response.aclose()

    async def name_models(self, problem: ProviderError) -> ProviderError:
        """Return the error with the models that the server has, where it says so."""
        try:
            async with asyncio.timeout(MODELS_TIMEOUT_SECONDS):
                listed = await self.get(self._models_path)
        except (Fault, Unanswerable, ProviderError, TimeoutError):
            return problem
        entries = listed.get("data")
        names = (
            [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
            if (isinstance(entries, list))
            else []
        )
        return with_models(problem, names, self._section, self._address)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, TimeoutError) as error:
            raise fault_of(error, self._section, self._address) from None
        except Exception as error:
            response = getattr(error, "response", None)
            if isinstance(response, httpx2.Response):  # APIStatusError of either SDK
                raise status_error(
                    response.status_code,
                    response.headers,
                    parsed_or_text(response.content),
                    self._section,
                    self._address,
                ) from None
            if isinstance(error.__cause__, Exception) and type(error).__module__.split(".")[0] in (
                "anthropic",
                "openai",
            ):
                raise fault_of(error, self._section, self._address) from None  # APIConnectionError
            raise
