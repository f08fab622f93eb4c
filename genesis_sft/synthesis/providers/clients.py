"""The SDKs' clients, and what their exceptions mean."""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import orjson

from genesis_sft.recipe.synthesis import ProviderSection
from genesis_sft.synthesis.asking.request import Fault, FaultKind
from genesis_sft.synthesis.providers.address import Address
from genesis_sft.synthesis.providers.bounded_client import BoundedClient
from genesis_sft.synthesis.providers.errors import ProviderError, Unanswerable, clean, from_status
from genesis_sft.synthesis.providers.pools import Pools

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

CONNECT_SECONDS = 10.0
"""How long a connection may take at most; see `connect_seconds`."""

NO_KEY = "none"
"""What is sent where no key is needed: the SDKs insist on one."""

_environment = threading.Lock()


def open_anthropic(section: ProviderSection, address: Address) -> AsyncAnthropic:
    """Return a client of the Anthropic API."""
    with _no_ambient_settings():
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(**_settings(section, address), open_telemetry=False)


def open_openai(section: ProviderSection, address: Address) -> AsyncOpenAI:
    """Return a client of a server that speaks OpenAI's protocol."""
    with _no_ambient_settings():
        from openai import AsyncOpenAI

        return AsyncOpenAI(**_settings(section, address))


def _settings(section: ProviderSection, address: Address) -> dict[str, Any]:
    """Return what the clients of both SDKs are made with."""
    timeout = httpx2.Timeout(section.timeout_seconds, connect=connect_seconds(section))
    # no proxy from the environment, no redirect: requests and key go where the recipe says
    http_client = BoundedClient(
        key=address.key,
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        transport=Pools(
            section.concurrency,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=section.concurrency),
        ),
    )
    return {
        "api_key": address.key or NO_KEY,
        "base_url": address.url,
        "max_retries": 0,
        "timeout": timeout,
        "http_client": http_client,
    }


def connect_seconds(section: ProviderSection) -> float:
    """Return how long a connection may take, and its encryption as long again.

    Both together take less than a whole request may: what never was sent is not to be taken for what was not answered.
    """
    return min(CONNECT_SECONDS, section.timeout_seconds / 3)


@contextmanager
def _no_ambient_settings() -> Iterator[None]:
    """Hide what the SDKs would read from the environment: other addresses, keys, headers, organizations, logging."""
    with _environment:
        hidden = {name: value for name, value in os.environ.items() if name.startswith(("ANTHROPIC_", "OPENAI_"))}
        try:
            for name in hidden:
                del os.environ[name]
            yield
        finally:
            os.environ.update(hidden)


def fault_of(error: Exception, section: ProviderSection, address: Address) -> Fault:
    """Return what it means that no whole response came.

    Args:
        error: `APIConnectionError` of an SDK, an exception of the HTTP client, or a ``TimeoutError``.
        section: For the timeout.
        address: Where the request went.
    """
    cause: BaseException = error
    while not isinstance(cause, httpx2.HTTPError | TimeoutError) and cause.__cause__ is not None:
        cause = cause.__cause__
    where = urlsplit(address.url).netloc
    detail = clean(str(cause), address.key)
    if isinstance(cause, httpx2.ConnectTimeout):
        return Fault("no connection", f"no connection to {where} within {connect_seconds(section):g} s")
    if isinstance(cause, httpx2.PoolTimeout):
        return Fault("timeout", f"no connection to {where} within {section.timeout_seconds:g} s")
    if isinstance(cause, httpx2.TimeoutException | TimeoutError):
        return Fault("timeout", f"no answer from {where} within {section.timeout_seconds:g} s", maybe_paid=True)
    if isinstance(cause, httpx2.ConnectError | httpx2.UnsupportedProtocol):
        return Fault("no connection", f"no connection to {where}: {detail}")
    if isinstance(cause, httpx2.DecodingError):
        return Fault("malformed", f"the answer of {where} cannot be read: {detail}", maybe_paid=True)
    kind: FaultKind = "connection"
    if isinstance(cause, httpx2.RemoteProtocolError) and "without sending complete message body" in detail:
        kind = "cut off"
    return Fault(kind, f"the connection to {where} broke: {detail or type(cause).__name__}", maybe_paid=True)


def status_error(
    status: int, headers: Mapping[str, str], body: object, section: ProviderSection, address: Address
) -> Fault | Unanswerable | ProviderError:
    """Return what a response that is no success means, with a hint where the user has to do something."""
    problem = from_status(status, headers, body, key=address.key)
    if not isinstance(problem, ProviderError):
        return problem
    hint = None
    if status in (401, 403):
        hint = (
            f"Set the environment variable {address.key_from} to a key of {urlsplit(address.url).hostname}."
            if address.key is None
            else f"The key comes from the environment variable {address.key_from}: is it for this provider, and valid?"
        )
    elif 300 <= status < 400:
        hint = f"The server sends requests on to {clean(headers.get('location', '?'), address.key)}: is that base_url?"
    elif status in (402, 429):
        hint = "Add credit at the provider; the same command goes on from here."
    elif status in (404, 405, 410):
        hint = f"Is {section.model!r} a model of this server, and {address.url} its address?"
        if section.api == "openai" and not address.url.endswith("/v1"):
            hint += " Addresses of OpenAI-compatible servers mostly end in /v1."
    return ProviderError(str(problem), hint=hint, is_not_found=status in (404, 410))


def with_models(problem: ProviderError, names: list[str], section: ProviderSection, address: Address) -> ProviderError:
    """Return the error with the models that the server has, the nearest names first."""
    if not names or section.model in names:
        return problem
    nearest = difflib.get_close_matches(section.model, names, n=8, cutoff=0.0)
    more = f" and {len(names) - len(nearest)} more" if len(names) > len(nearest) else ""
    shown = clean(", ".join(nearest), address.key)
    return ProviderError(str(problem), hint=f"Models of this server: {shown}{more}. Set provider.model to one of them.")


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that a response holds.

    Raises:
        Fault: It holds something else.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Fault("malformed", f"the answer is no JSON: {error}", maybe_paid=True) from None
    if not isinstance(value, dict):
        raise Fault("malformed", f"the answer is {type(value).__name__}, not an object", maybe_paid=True)
    return value


def parsed_or_text(content: bytes) -> object:
    """Return the body of an error: JSON where it is some, else text."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content[:10_000].decode(errors="replace")
