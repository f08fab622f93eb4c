"""The tiny Genesis, its checkpoint as two ranks leave it, and the folder that a right conversion makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from genesis_sft.checkpoint.convert import Converted, convert
from tests.checkpoint.genesis.fixtures import tiny_genesis, tiny_genesis_mha, tiny_genesis_tied
from tests.checkpoint.genesis.save_two_ranks import save_dcp
from tests.checkpoint.genesis.sections import section_of
from tests.checkpoint.genesis.train import TinyGenesis

__all__ = ["tiny_genesis", "tiny_genesis_mha", "tiny_genesis_tied"]


@pytest.fixture(scope="session")
def genesis_dcp(tiny_genesis: TinyGenesis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What FSDP2 leaves on two ranks, with AdamW's state. Shared: do not change it, copy it."""
    folder = tmp_path_factory.mktemp("genesis_dcp") / "step_40000"
    return save_dcp(tiny_genesis, folder, ranks=2, prefix="app.model", wrapper="_orig_mod.")


@pytest.fixture(scope="session")
def genesis_converted(tiny_genesis: TinyGenesis, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The folder made of the tiny Genesis with everything stated rightly. Shared: do not change it, copy it."""
    out = tmp_path_factory.mktemp("genesis_hf") / "model"
    return convert(section_of(tiny_genesis), out)


@pytest.fixture
def output_of(tmp_path: Path) -> Callable[[], list[str]]:
    """The names of what lies in ``tmp_path / "out"``, hidden ones too."""
    (tmp_path / "out").mkdir()
    return lambda: sorted(path.name for path in (tmp_path / "out").iterdir())
