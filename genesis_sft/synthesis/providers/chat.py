"""OpenAI's chat completions, as many servers speak them."""

from __future__ import annotations

from urllib.parse import urlsplit

import orjson

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Answer, Request
from genesis_sft.synthesis.providers.address import address_of
from genesis_sft.synthesis.providers.chat_format import completion_body, read_completion
from genesis_sft.synthesis.providers.clients import open_openai
from genesis_sft.synthesis.providers.errors import ProviderError
from genesis_sft.synthesis.providers.link import Link

# OpenAI's newer models refuse max_tokens; vLLM, llama.cpp, Ollama and others have long known only that name
_KNOWS_MAX_COMPLETION_TOKENS = ("api.openai.com", ".api.openai.com", ".openai.azure.com")


class OpenAIProvider:
    """See `genesis_sft.synthesis.providers.protocols.Provider`.

    Raises:
        ProviderError: See `address_of`.
    """

    def __init__(self, section: ProviderSection) -> None:
        address = address_of(section)
        self._link = Link(open_openai(section, address), section, address, models_path="/models")
        host = urlsplit(address.url).hostname or ""
        self._key = address.key
        self._limit_name = "max_completion_tokens" if host.endswith(_KNOWS_MAX_COMPLETION_TOKENS) else "max_tokens"

    async def ask(self, request: Request) -> Answer:
        """Return the answer; see `Provider.ask`."""
        body = completion_body(request, limit_name=self._limit_name)
        try:
            value = await self._link.post("/chat/completions", orjson.dumps(body), key=request.key)
        except ProviderError as problem:
            raise await self._link.name_models(problem) if problem.is_not_found else problem from None
        return read_completion(value, request, self._key)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
