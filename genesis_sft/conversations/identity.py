"""What tells conversations apart: a digest for exact duplicates, a bucket for what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from genesis_sft.conversations.conversation import Message

DIGEST_BYTES = 16
HELD_OUT_BUCKETS = 10_000


def digest(messages: Sequence[Message]) -> bytes:
    """Return 16 bytes that are equal for equal messages, and for no others (BLAKE2b).

    Role, content, reasoning and ``train`` of every message count, as they stand: no white space is evened out.

    Example:
        >>> digest((Message("user", "a"), Message("assistant", "b"))).hex()
        '74e8330947ccd0a2cf3e63007f3abac3'
    """
    parts = []
    for message in messages:
        # lengths go ahead of texts: where one ends and the next begins is never in doubt
        reasoning = message.reasoning
        size = -1 if reasoning is None else len(reasoning)
        parts.append(
            f"{message.role} {message.train} {len(message.content)} {size}\n{message.content}{reasoning or ''}"
        )
    return hashlib.blake2b("".join(parts).encode(), digest_size=DIGEST_BYTES).digest()


def held_out_bucket(text: str) -> int:
    r"""Return the bucket, 0 to 9,999, of a conversation's first user message.

    The text, its runs of white space made one space, stripped and lower-cased, is hashed (SHA-256); the first 8 hex
    digits as a number, modulo 10,000, are the bucket. A share of 0.02 holds out the buckets below 200. Conversations
    that begin with the same question therefore fall on the same side, whatever their source.

    Example:
        >>> held_out_bucket("What is  2+2?\n") == held_out_bucket("what is 2+2?")
        True
    """
    plain = " ".join(text.split()).lower()
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:4]) % HELD_OUT_BUCKETS
