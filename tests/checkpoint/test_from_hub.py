"""Promises of Hub intake: nothing but config, weights and tokenizer, and offline the command to fetch ahead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from genesis_sft.checkpoint.from_hub import download_command, fetch_snapshot
from genesis_sft.errors import AssetError, ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_offline_the_error_names_the_command_to_fetch_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        AssetError, match="expected the model owner/name at revision v1; the Hub is out of reach"
    ) as caught:
        fetch_snapshot("owner/name", "v1")
    assert caught.value.hint is not None
    assert "hf download owner/name --revision v1 --include '*.json' --include '*.safetensors'" in caught.value.hint
    assert "http" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("name", ["name", "a/b/c", "../secret", "owner/", "owner/na me"])
def test_a_name_that_the_hub_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="hub:"):
        fetch_snapshot(name, "v1")


def test_a_copy_in_the_hub_cache_serves_offline(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    shutil.copytree(tiny_folder, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "v1").write_text(COMMIT)
    assert fetch_snapshot("owner/name", "v1") == snapshot
    assert fetch_snapshot("owner/name", COMMIT) == snapshot


def test_no_pickle_is_asked_for() -> None:
    command = download_command("owner/name", COMMIT)
    assert not any(ending in command for ending in (".bin", ".pt", ".pkl", ".py", "'*'"))
