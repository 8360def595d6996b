"""What the tests of benchmarks share."""

import pytest

from nftbench.benchmark import places


@pytest.fixture(autouse=True)
def nothing_added(monkeypatch):
    """Folders that one test adds are gone in the next."""
    monkeypatch.setattr(places, "_added", [])
    monkeypatch.delenv(places.ENVIRONMENT, raising=False)
