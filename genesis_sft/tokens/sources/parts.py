"""A part of a source's store: the conversations of one block of rows, as an Arrow file that `datasets` reads too.

::

    part-00000.arrow             one row a conversation, see `part_schema`
    part-00000.samples.jsonl     some of them as text, evenly spaced
    part-00000.rejects.jsonl     rows that are no conversation
    part-00000.json              counts; written last: a part exists when this does
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from genesis_sft.conversations.clean import Cleaned
from genesis_sft.conversations.identity import digest, held_out_bucket
from genesis_sft.run_dir import replacing

if TYPE_CHECKING:
    from genesis_sft.conversations.conversation import Conversation
    from genesis_sft.conversations.reading import Block
    from genesis_sft.tokens.chatml import EncodedBlock

SAMPLES_PER_PART = 64
SPAN = pa.struct([pa.field("start", pa.int32(), nullable=False), pa.field("stop", pa.int32(), nullable=False)])


def part_schema(vocab_size: int, metadata: Mapping[str, str]) -> Any:
    """Return the Arrow schema of a part.

    - ``input_ids`` list<uint16>, or list<uint32> for vocabularies over 65,536
    - ``trained`` list<struct<start: int32, stop: int32>>: ``[start, stop)`` positions of labels in ``input_ids``
    - ``row`` int64: row in the source, from 0, through its files in order of name
    - ``num_tokens``, ``num_trained`` int32
    - ``digest`` fixed_size_binary(16): equal for equal conversations
    - ``bucket`` int32: 0 to 9,999, by the first user message; the lowest ones are held out
    """
    fields = [
        ("input_ids", pa.list_(pa.field("item", id_type(vocab_size), nullable=False))),
        ("trained", pa.list_(pa.field("item", SPAN, nullable=False))),
        ("row", pa.int64()),
        ("num_tokens", pa.int32()),
        ("num_trained", pa.int32()),
        ("digest", pa.binary(16)),
        ("bucket", pa.int32()),
    ]
    return pa.schema([pa.field(name, type, nullable=False) for name, type in fields], metadata=dict(metadata))


def id_type(vocab_size: int) -> Any:
    """Return the Arrow type of token ids: 16 bits where the vocabulary allows."""
    return pa.uint16() if vocab_size <= 65_536 else pa.uint32()


def part_name(number: int) -> str:
    """Return the name that the files of a part begin with, e.g. ``"part-00000"``."""
    return f"part-{number:05}"


def is_whole(folder: Path, block: Block) -> bool:
    """Say whether the part of a block was written to its end, and from the same rows."""
    try:
        counts = json.loads((folder / f"{part_name(block.number)}.json").read_text(encoding="utf-8"))
        return bool(counts["rows_sha256"] == rows_sha256(block))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def rows_sha256(block: Block) -> str:
    """Return the hex SHA-256 of the raw rows of a block."""
    rows = block.payload if isinstance(block.payload, bytes) else repr(block.payload).encode("utf-8", "surrogatepass")
    return hashlib.sha256(rows).hexdigest()


def write_part(folder: Path, block: Block, cleaned: Cleaned, encoded: EncodedBlock, schema: Any) -> dict[str, Any]:
    """Write a part; return its counts.

    Args:
        folder: Of the store.
        block: The rows.
        cleaned: Conversations and rejects of the block.
        encoded: The conversations as ids.
        schema: As `part_schema` gives it.
    """
    name = part_name(block.number)
    _write(folder / f"{name}.arrow", _as_arrow(cleaned.conversations, encoded, schema))
    samples = "".join(f"{one.to_json()}\n" for one in sample(cleaned.conversations))
    _write(folder / f"{name}.samples.jsonl", samples.encode())
    rejects = "".join(json.dumps(asdict(reject), ensure_ascii=True) + "\n" for reject in cleaned.rejects)
    _write(folder / f"{name}.rejects.jsonl", rejects.encode())
    counts = {
        "rows_sha256": rows_sha256(block),
        "rows_read": cleaned.rows_read,
        "rejected": dict(sorted(Counter(reject.reason for reject in cleaned.rejects).items())),
        "repaired": dict(sorted(cleaned.repaired.items())),
        "conversations": len(cleaned.conversations),
        "tokens": len(encoded.ids),
        "trained_tokens": _count_trained(encoded),
    }
    _write(folder / f"{name}.json", json.dumps(counts).encode())
    return counts


def sample(conversations: Sequence[Conversation]) -> Sequence[Conversation]:
    """Return up to ``SAMPLES_PER_PART`` conversations, evenly spaced, the first among them."""
    step = max(1, -(-len(conversations) // SAMPLES_PER_PART))
    return conversations[::step]


def _as_arrow(conversations: Sequence[Conversation], encoded: EncodedBlock, schema: Any) -> bytes:
    ids = encoded.ids.astype(schema.field("input_ids").type.value_type.to_pandas_dtype())
    spans = np.ascontiguousarray(encoded.spans, dtype=np.int32)
    digests = b"".join(digest(one.messages) for one in conversations)
    columns = [
        pa.ListArray.from_arrays(_offsets(encoded.num_tokens), pa.array(ids), type=schema.field("input_ids").type),
        pa.ListArray.from_arrays(
            _offsets(encoded.num_spans),
            pa.StructArray.from_arrays([pa.array(spans[:, 0]), pa.array(spans[:, 1])], fields=list(SPAN)),
            type=schema.field("trained").type,
        ),
        pa.array([one.row for one in conversations], pa.int64()),
        pa.array(encoded.num_tokens.astype(np.int32)),
        pa.array(_trained_per_conversation(encoded).astype(np.int32)),
        pa.Array.from_buffers(pa.binary(16), len(conversations), [None, pa.py_buffer(digests)]),
        pa.array([held_out_bucket(one.first_user_text) for one in conversations], pa.int32()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def _trained_per_conversation(encoded: EncodedBlock) -> np.ndarray[Any, np.dtype[np.int64]]:
    lengths = np.append(encoded.spans[:, 1].astype(np.int64) - encoded.spans[:, 0], 0)
    sums = np.concatenate([[0], np.cumsum(lengths)])
    stops = np.cumsum(encoded.num_spans)
    return np.asarray(sums[stops] - sums[stops - encoded.num_spans], dtype=np.int64)


def _count_trained(encoded: EncodedBlock) -> int:
    return int((encoded.spans[:, 1].astype(np.int64) - encoded.spans[:, 0]).sum())


def _offsets(lengths: np.ndarray[Any, Any]) -> Any:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
