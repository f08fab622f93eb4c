"""Who answers requests: the Anthropic API, one by one or in batches, and servers that speak OpenAI's protocol.

The official SDKs do the talking, without their own retries and without any setting from outside the recipe but the key.
Every failure is one of four things::

    Fault           no answer came, and asking again may help
    Unanswerable    this one request will never be answered, the others may
    ProviderError   no request will be answered before something is set right: wrong key, unknown model, bad request
    (an Answer)     also a refusal or an answer that was cut off
"""

from __future__ import annotations

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Request
from genesis_sft.synthesis.providers.errors import ProviderError, Unanswerable
from genesis_sft.synthesis.providers.message_format import batch_item
from genesis_sft.synthesis.providers.protocols import Batch, Batches, Provider

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_REQUESTS",
    "Batch",
    "Batches",
    "Provider",
    "ProviderError",
    "Unanswerable",
    "batch_item_bytes",
    "open_batches",
    "open_provider",
]

MAX_BATCH_REQUESTS = 100_000
"""Most requests of one batch (Anthropic's limit)."""

MAX_BATCH_BYTES = 256_000_000
"""Longest body that creates a batch, in bytes (Anthropic's limit); `batch_item_bytes` says what a request adds."""


def open_provider(section: ProviderSection) -> Provider:
    """Return the provider that a recipe names. Nothing is sent yet. Close it in the event loop it was used in.

    Raises:
        ProviderError: A key is needed and the environment has none, or it would travel unencrypted.
    """
    # the SDKs take a second to import: only who asks pays
    if section.api == "anthropic":
        from genesis_sft.synthesis.providers.messages import AnthropicProvider

        return AnthropicProvider(section)
    from genesis_sft.synthesis.providers.chat import OpenAIProvider

    return OpenAIProvider(section)


def open_batches(section: ProviderSection) -> Batches:
    """Return Anthropic's Message Batches, for a section with ``api: anthropic``.

    Raises:
        ProviderError: As for `open_provider`.
    """
    from genesis_sft.synthesis.providers.batches import AnthropicBatches

    return AnthropicBatches(section)


def batch_item_bytes(request: Request) -> int:
    """Return how many bytes a request adds to the body that creates a batch."""
    return len(batch_item(request)) + 1
