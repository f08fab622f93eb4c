"""Anthropic's Messages API, one request at a time."""

from __future__ import annotations

import orjson

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Answer, Request
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.providers.clients import open_anthropic
from genesis_sft.synthesis.providers.errors import ProviderError
from genesis_sft.synthesis.providers.link import Link
from genesis_sft.synthesis.providers.message_format import message_body, read_message


class AnthropicProvider:
    """See `genesis_sft.synthesis.providers.protocols.Provider`.

    Raises:
        ProviderError: See `address_of`.
    """

    def __init__(self, section: ProviderSection) -> None:
        address = address_of(section)
        self._link = Link(open_anthropic(section, address), section, address, models_path="/v1/models")

    async def ask(self, request: Request) -> Answer:
        """Return the answer; see `Provider.ask`."""
        try:
            value = await self._link.post("/v1/messages", orjson.dumps(message_body(request)), key=request.key)
        except ProviderError as problem:
            raise await self._link.name_models(problem) if problem.is_not_found else problem from None
        return read_message(value, request)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
