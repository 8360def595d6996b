"""A judge in another process; settings of this machine do not count."""

import pytest

from tests.helpers.servers.fake_judge import judging

SETTINGS = ("URL", "KEY", "MODEL", "CONCURRENCY", "TIMEOUT")


@pytest.fixture(scope="module")
def url():
    with judging() as address:
        yield address


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(f"NFTBENCH_JUDGE_{name}", raising=False)
