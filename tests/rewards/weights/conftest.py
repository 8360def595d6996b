"""A cache of the test's own, and a server."""

import pytest

from rewards.weights import pull as weights
from tests.helpers.servers.file_server import online
from tests.helpers.servers.pinned_weights import DATA, NAME


@pytest.fixture
def server(rooms, monkeypatch):
    """A folder that another process serves; the network is on."""
    return online(next(rooms), monkeypatch, {NAME: DATA})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NFTBENCH_MIRROR", raising=False)
    monkeypatch.setattr(weights, "PAUSE", 0.001)
    return tmp_path / "cache"
