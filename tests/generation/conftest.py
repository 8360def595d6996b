"""A checkpoint that tests may break."""

import shutil
from pathlib import Path

import pytest

from nftbench.generation.sources.packaged import packaged


@pytest.fixture
def copied(tmp_path):
    """A copy of the packaged checkpoint that may be broken."""
    return Path(shutil.copytree(packaged()["pocket"], tmp_path / "copy"))
