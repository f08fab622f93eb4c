"""Rows of data sets on the Hugging Face Hub, always of a pinned revision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genesis_sft.conversations.reading.arrow_rows import batch_rows, pack
from genesis_sft.conversations.reading.block import Chunk
from genesis_sft.errors import AssetError, DataError
from genesis_sft.recipe import SourceSection


def load_table(section: SourceSection) -> Any:
    """Return a split of a Hub data set, a `datasets.Dataset`; without network, from what ``hf download`` fetched ahead.

    The revision is looked up before anything is read. `datasets` alone would, without network, quietly take the version
    that it cached last, of whatever revision.

    Raises:
        AssetError: The Hub is out of reach and nothing was fetched ahead, or there is no such data set or revision.
        DataError: The data set has no such configuration or split.
    """
    import datasets

    try:
        return _load(section)
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"source {section.name}: expected configuration {section.config or 'default'}, split {section.split} "
            f"of {section.hub}, found: {error}"
        ) from None


def read_table(table: Any, block_bytes: int) -> Iterator[Chunk]:
    """Yield the rows of a data set that `load_table` gave, about ``block_bytes`` at a time."""
    num_bytes = table.data.nbytes
    arrow = table.with_format("arrow").iter(batch_size=batch_rows(num_bytes, len(table), block_bytes // 4))
    batches = (batch for part in arrow for batch in part.to_batches())
    return pack(batches, len(table), num_bytes, block_bytes)


def _load(section: SourceSection) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    assert section.hub is not None
    try:
        commit = _find_commit(section.hub, section.revision)
        location = section.hub if commit else _find_fetched_ahead(section.hub, section.revision)
        return datasets.load_dataset(
            location, name=section.config, split=section.split, revision=commit, streaming=False
        )
    except (OSError, HfHubHTTPError) as error:
        revision = f" --revision {section.revision}" if section.revision else ""
        raise AssetError(
            f"source {section.name}: expected {section.hub} at revision {section.revision} from the Hugging Face Hub, "
            f"found: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint=f"Fetch it ahead where there is network: hf download --repo-type dataset {section.hub}{revision}",
        ) from None


def _find_commit(hub: str, revision: str | None) -> str | None:
    """Return the commit that a revision stands for, or ``None`` when the Hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().dataset_info(hub, revision=revision, timeout=30).sha
    except HfHubHTTPError:  # the Hub was reached and said no
        raise
    except Exception:
        # offline mode, no route, time-out, proxy: the errors are those of huggingface_hub's HTTP client, which differs
        # from version to version, so they cannot be named here
        return None


def _find_fetched_ahead(hub: str, revision: str | None) -> str:
    """Return the folder that ``hf download`` filled; raises an OSError when there is none."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(hub, repo_type="dataset", revision=revision, local_files_only=True))
