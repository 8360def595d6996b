"""A run that others are compared with."""

import shutil
from pathlib import Path

import pytest

from nftbench.runs.run_folder import Run
from tests.helpers.runs.small_evaluation import evaluated


@pytest.fixture(scope="session")
def whole(tmp_path_factory, policy) -> Run:
    """A run that nobody stopped: three prompts, four images each, batches of five."""
    return evaluated(tmp_path_factory.mktemp("whole") / "run", policy)


@pytest.fixture
def copy(whole, tmp_path) -> Run:
    return Run(Path(shutil.copytree(whole.folder, tmp_path / "copy")))
