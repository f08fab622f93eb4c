"""Fetch a model from the Hugging Face Hub: weights in safetensors, config and tokenizer, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from genesis_sft.checkpoint.quiet import quiet_hub_in_logs
from genesis_sft.console import say
from genesis_sft.errors import AssetError, ModelError

ALLOWED_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt")


def fetch_snapshot(repository: str, revision: str) -> Path:
    """Return the folder of a Hub model at a revision; from the Hub's own cache where it is complete.

    Args:
        repository: ``"owner/name"``.
        revision: Commit, tag or branch.

    Raises:
        ModelError: The name cannot be one of the Hub.
        AssetError: The Hub is out of reach and the model is not in its cache, or it has no such model or revision.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ModelError(f"expected hub:owner/name; found hub:{repository}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,  # of whichever HTTP library this version is built on
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    say(f"fetching {repository} at {revision} from the Hugging Face Hub, unless it is in the Hub's cache")
    try:
        with quiet_hub_in_logs():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=list(ALLOWED_FILES)))
    except HFValidationError as error:
        raise ModelError(f"hub:{repository} is no name of the Hub: {error}") from None
    except GatedRepoError:
        raise _unavailable(repository, revision, "its owner has to grant access; log in with: hf auth login") from None
    except RepositoryNotFoundError:
        raise _unavailable(repository, revision, "the Hub knows no such model, or it is private") from None
    except RevisionNotFoundError:
        raise _unavailable(repository, revision, "the model has no such revision") from None
    except (OSError, HTTPError):  # their texts name hosts and proxies
        raise _unavailable(
            repository, revision, "the Hub is out of reach (or offline mode is on) and its cache has no whole copy"
        ) from None


def download_command(repository: str, revision: str) -> str:
    """Return the command that fetches the same files ahead of time."""
    include = " ".join(f"--include '{pattern}'" for pattern in ALLOWED_FILES)
    return f"hf download {repository} --revision {revision} {include}"


def _unavailable(repository: str, revision: str, why: str) -> AssetError:
    return AssetError(
        f"expected the model {repository} at revision {revision}; {why}",
        hint=f"With network: {download_command(repository, revision)} - on another machine add --local-dir FOLDER, "
        "copy the folder here and name it as base.model.",
    )
