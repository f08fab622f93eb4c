"""Session-wide tiny models; trained when a test first asks for one, gone with the session."""

from __future__ import annotations

import pytest

from tests.checkpoint.genesis.train import TinyGenesis, train_tiny
from tests.checkpoint.genesis.training_code import ModelArgs


@pytest.fixture(scope="session")
def tiny_genesis(tmp_path_factory: pytest.TempPathFactory) -> TinyGenesis:
    """Genesis's shape: 4 query heads on 2 key heads, untied head. Shared: do not change it, copy it."""
    return train_tiny(tmp_path_factory.mktemp("genesis") / "run")


@pytest.fixture(scope="session")
def tiny_genesis_mha(tmp_path_factory: pytest.TempPathFactory) -> TinyGenesis:
    """As many key heads as query heads, so that q and k have one shape. Shared: do not change it, copy it."""
    return train_tiny(tmp_path_factory.mktemp("genesis_mha") / "run", ModelArgs(n_kv_heads=4), steps=150)


@pytest.fixture(scope="session")
def tiny_genesis_tied(tmp_path_factory: pytest.TempPathFactory) -> TinyGenesis:
    """The head is the embedding. Shared: do not change it, copy it."""
    return train_tiny(tmp_path_factory.mktemp("genesis_tied") / "run", ModelArgs(tied=True), steps=150)
