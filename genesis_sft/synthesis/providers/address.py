"""Where requests go, and the key that goes with them. Both come from the recipe and from nowhere else."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Fault
from genesis_sft.synthesis.providers.errors import ProviderError

_DEFAULT_URLS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
_DEFAULT_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_LOCAL_NAMES = (".local", ".lan", ".internal", ".localhost", ".home.arpa")
_LOCAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "0.0.0.0/32"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
# a name of one part; 134744072 and 0x08080808 are none: resolvers take them for 8.8.8.8
_PLAIN_NAME = re.compile(r"(?!0x|[0-9]+\Z)[a-z0-9_-]+")


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


def nobody_there(section: ProviderSection, fault: Fault) -> ProviderError:
    """Return what is told of a server that could not even be connected to."""
    url = url_of(section)
    hint = "Is the server running" if is_local(url) else "Is this machine online"
    return ProviderError(f"expected a server at {url}: {fault}", hint=f"{hint}, and synthesis.provider.base_url right?")


def is_local(url: str) -> bool:
    """Say whether an address is on this machine or its own network, where nobody bills; what is unclear is not.

    Example:
        >>> is_local("http://192.168.1.4:8000/v1"), is_local("http://134744072/v1")
        (True, False)
    """
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _PLAIN_NAME.fullmatch(host) is not None or host.endswith(_LOCAL_NAMES)
    return any(address in network for network in _LOCAL_NETWORKS)
