"""Where requests go, and the key that goes with them. Both come from the recipe and from nowhere else."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.providers.errors import ProviderError

_DEFAULT_URLS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
_DEFAULT_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_LOCAL_NAMES = (".local", ".lan", ".internal", ".localhost", ".home.arpa")


@dataclass(frozen=True, slots=True)
class Address:
    """A provider's address and key.

    Attributes:
        url: As the SDK takes it.
        key: The API key, or ``None``; not shown.
        key_from: The environment variable that it comes from, or would.
    """

    url: str
    key: str | None = field(repr=False)
    key_from: str


def address_of(section: ProviderSection) -> Address:
    """Return address and key of a provider.

    Raises:
        ProviderError: A server elsewhere needs a key and there is none, or the key would travel unencrypted.
    """
    url = url_of(section)
    key_from = section.key_from or _DEFAULT_KEYS[section.api]
    key = os.environ.get(key_from, "").strip() or None
    host = urlsplit(url).hostname
    if key is None and (section.key_from is not None or not is_local(url)):
        raise ProviderError(
            f"expected the key for {host} in the environment variable {key_from}, found none",
            hint=f"Set it in the shell, e.g. `read -rs {key_from} && export {key_from}`. It is written nowhere.",
        )
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ProviderError(
            f"expected a key in the environment variable {key_from}, found white space or other characters "
            "that no key has"
        )
    if key is not None and urlsplit(url).scheme == "http" and not is_local(url):
        raise ProviderError(
            f"expected an address with https, found {url}: the key in {key_from} would travel unencrypted",
            hint="Write https:// in provider.base_url.",
        )
    return Address(url, key, key_from)


def url_of(section: ProviderSection) -> str:
    """Return the address as the SDKs take it: OpenAI's ends in ``/v1``, to Anthropic's the SDK adds it."""
    url = (section.base_url or _DEFAULT_URLS[section.api]).rstrip("/")
    return url.removesuffix("/v1") if section.api == "anthropic" else url


def is_local(url: str) -> bool:
    """Say whether an address is on this machine or its own network, where nobody bills."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
    return address.is_loopback or address.is_private
