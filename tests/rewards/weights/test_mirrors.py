"""Weights from mirrors, without a network, and from other caches."""

from pathlib import Path

import pytest

from rewards.base import ConfigError, MissingWeights
from rewards.weights import pull as weights
from rewards.weights.pull import pull
from tests.helpers.servers.pinned_weights import DATA, NAME, SHA256, left, pinned


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "mirror" / "things").mkdir(parents=True)
    (tmp_path / "mirror" / NAME).write_bytes(DATA)
    return tmp_path / "mirror"


@pytest.mark.parametrize("form", [str, Path.as_uri, lambda path: f"{path}/"])
def test_offline_a_folder_serves(server, cache, mirror, form):
    found = pull(pinned(f"{server.url}/plain/{NAME}"), offline=True, mirrors=[form(mirror)])
    assert found.path.read_bytes() == DATA and Path(found.source) == mirror / NAME
    assert not server.requests() and left(cache) == {NAME}


def test_offline_without_a_mirror_says_what_to_do(server, cache, tmp_path):
    weight = pinned(f"{server.url}/plain/{NAME}")
    with pytest.raises(MissingWeights, match=f"offline.*put it as {NAME} below a folder"):
        pull(weight, offline=True)
    with pytest.raises(MissingWeights, match="offline"):
        pull(weight, offline=True, mirrors=[f"{server.url}/plain"])  # is network as well
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match=r"empty/things/model\.safetensors: no such file"):
        pull(weight, offline=True, mirrors=[str(tmp_path / "empty")])
    assert not server.requests() and not left(cache)


def test_the_environment_names_mirror_and_offline(server, mirror, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weight = pinned(f"{server.url}/plain/{NAME}")
    with pytest.raises(MissingWeights, match="offline"):
        pull(weight)
    monkeypatch.setenv("NFTBENCH_MIRROR", mirror.as_uri())
    assert pull(weight).path.read_bytes() == DATA
    assert not server.requests()


def test_the_cache_lies_with_the_hubs(tmp_path, monkeypatch):
    monkeypatch.delenv("NFTBENCH_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert weights.cache() == tmp_path / "hub" / "nftbench"
    monkeypatch.delenv("HF_HOME")
    assert weights.cache() == Path.home() / ".cache" / "huggingface" / "nftbench"


def test_mirrors_are_asked_in_order_then_the_address(server, tmp_path):
    (tmp_path / "empty").mkdir()
    weight = pinned(f"{server.url}/plain/{NAME}")
    nowhere = f"{server.url}/status-404"
    assert pull(weight, mirrors=[str(tmp_path / "empty"), nowhere]).source == weight.url
    assert [r["path"].split("/")[0] for r in server.requests()] == ["status-404", "plain"]


def test_a_mirror_goes_on_with_what_the_address_began(server, cache, mirror):
    part = cache / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:150_000])
    found = pull(pinned(f"{server.url}/plain/{NAME}"), offline=True, mirrors=[str(mirror)])
    assert found.fetched == len(DATA) - 150_000 and found.path.read_bytes() == DATA


def test_a_mirror_with_wrong_bytes_is_named_and_the_address_not_asked(server, cache, mirror):
    (mirror / NAME).write_bytes(DATA[1:])
    with pytest.raises(ConfigError, match=f"{mirror / NAME} is not {NAME}"):
        pull(pinned(f"{server.url}/plain/{NAME}"), mirrors=[str(mirror)])
    assert not server.requests() and left(cache) == {f"{NAME}.wrong"}


def test_another_machines_cache_is_a_mirror_with_its_digests(server, cache, tmp_path, monkeypatch):
    weight = pinned(f"{server.url}/plain/{NAME}", sha256="", size=0)
    pull(weight, accept=True)
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "other"))
    assert pull(weight, offline=True, mirrors=[str(cache)]).sha256 == SHA256
    (server.folder / f"{NAME}.sha256").write_text(f"{SHA256}  model.safetensors\n")
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "third"))
    assert pull(weight, mirrors=[f"{server.url}/plain"]).sha256 == SHA256
    (server.folder / f"{NAME}.sha256").write_text(f"{'0' * 64}  model.safetensors\n")
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "fourth"))
    with pytest.raises(ConfigError, match=f"expected {'0' * 64}"):
        pull(weight, mirrors=[f"{server.url}/plain"])


@pytest.mark.parametrize(
    ("mirror", "said"),
    [
        ("none/such", "is not a folder"),
        ("ftp://host/x", "expected a path"),
        ("s3://b", "got 's3://b'"),
    ],
)
def test_a_mirror_that_is_none(server, mirror, said):
    with pytest.raises(ConfigError, match=said):
        pull(pinned(f"{server.url}/plain/{NAME}"), mirrors=[mirror])
    assert not server.requests()
