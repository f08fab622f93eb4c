"""Whether the Hugging Face Hub can be reached, asked once; where not, its local cache is read without asking again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import datasets.config
import huggingface_hub.constants

_LOGGERS = ("huggingface_hub", "datasets")
_WAIT_SECONDS = 5.0
"""For a connection, and then for an answer of some hundred bytes."""


@functools.cache
def hub_is_reached() -> bool:
    """Return whether the Hub (``HF_ENDPOINT``) answers, itself and not a proxy in its place; asked once a process."""
    if huggingface_hub.constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return False
    try:
        answer = huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_WAIT_SECONDS)
    except Exception:  # no route, no such name, time-out, proxy: which errors these are depends on the HTTP client
        return False
    return int(answer.status_code) < 500


@contextmanager
def offline_unless_reached() -> Iterator[None]:
    """Switch the Hub's libraries to their offline mode while the block runs, unless the Hub is reached.

    They would ask for each file again, with half a minute of retries and a warning for every one.
    """
    if hub_is_reached():
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    switches = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = switches
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
