"""Fetching weights: a real server that cuts, lies and fails; mirrors; nothing wrong under a final name."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from rewards.base import ConfigError, MissingWeights
from rewards.weights import pull as weights
from rewards.weights.pull import pull, state, verified, weight_file
from tests.helpers.servers.pinned_weights import DATA, NAME, SHA256, left, pinned

# --- from an address ------------------------------------------------------------------------------


def test_a_file_comes_once_and_is_checked(server, cache):
    told = []
    weight = pinned(f"{server.url}/plain/{NAME}")
    assert state(weight) == "missing"
    found = pull(weight, progress=lambda *what: told.append(what))
    assert (found.fetched, found.size, found.sha256) == (len(DATA), len(DATA), SHA256)
    assert found.path == cache / NAME and found.path.read_bytes() == DATA
    assert left(cache) == {NAME}
    assert told[-1] == (NAME, len(DATA), len(DATA))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert state(weight) == "cached" and weight_file(weight, reward="thing") == found.path
    assert pull(weight).fetched == 0 and len(server.requests()) == 1


def test_another_folder_may_be_named(server, cache, tmp_path):
    weight, folder = pinned(f"{server.url}/plain/{NAME}"), tmp_path / "elsewhere"
    assert state(weight, folder=folder) == "missing"
    assert pull(weight, folder=folder).path == folder / NAME
    assert state(weight, folder=folder) == "cached" and state(weight) == "missing"
    assert not cache.exists()


def test_a_connection_that_is_cut_goes_on_where_it_stopped(server):
    found = pull(pinned(f"{server.url}/cut-60000/{NAME}"))
    assert found.path.read_bytes() == DATA
    assert server.sent() == found.fetched == len(DATA)  # no byte came twice
    assert [r["range"] for r in server.requests()] == [
        "",
        *(f"bytes={60000 * k}-" for k in (1, 2, 3)),
    ]


def test_a_partial_file_of_an_earlier_process_is_gone_on_with(server, cache):
    part = cache / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:150_000])
    weight = pinned(f"{server.url}/plain/{NAME}")
    assert state(weight) == "partial"
    found = pull(weight)
    assert found.fetched == server.sent() == len(DATA) - 150_000
    assert found.path.read_bytes() == DATA and left(cache) == {NAME}


@pytest.mark.parametrize("held", [DATA, DATA + b"more", b"\0" * 5000], ids=["all", "more", "other"])
def test_a_partial_file_that_is_whole_too_long_or_another(server, cache, held):
    part = cache / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(held)
    found = pull(pinned(f"{server.url}/plain/{NAME}"))
    assert found.path.read_bytes() == DATA and left(cache) == {NAME}
    assert server.sent() == {DATA: 0, DATA + b"more": len(DATA)}.get(held, 2 * len(DATA) - 5000)


def test_a_server_without_ranges_sends_all_again(server, cache):
    part = cache / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1000])
    assert pull(pinned(f"{server.url}/whole/{NAME}")).path.read_bytes() == DATA
    assert server.sent() == len(DATA)


def test_a_server_in_trouble_is_asked_again(server):
    assert pull(pinned(f"{server.url}/once-503/{NAME}")).path.read_bytes() == DATA
    assert [r["code"] for r in server.requests()] == [503, 200]


@pytest.mark.parametrize(
    ("how", "said", "requests"),
    [
        ("status-500", "the server answered 500", weights.ATTEMPTS),
        ("status-429", "the server answered 429", weights.ATTEMPTS),
        (
            "status-403",
            "403, it wants a login: accept its terms there, then run `hf auth login`",
            1,
        ),
        ("status-410", "the server answered 410 Gone", 1),
        ("plain/no", "the server answered 404", 1),
        ("cut-0", "0 of|peer closed|incomplete", weights.ATTEMPTS),
    ],
)
def test_a_server_that_does_not_give_it(server, cache, how, said, requests):
    with pytest.raises(MissingWeights, match=said) as caught:
        pull(pinned(f"{server.url}/{how}/{NAME}"))
    assert "\n" not in str(caught.value) and NAME in str(caught.value)
    assert len(server.requests()) == requests
    assert not (cache / NAME).exists()


def test_a_host_that_is_not_there(server, cache):
    with pytest.raises(MissingWeights, match="cannot be had"):
        pull(pinned(f"http://127.0.0.1:9/{NAME}"))
    assert not left(cache)


# --- wrong bytes ----------------------------------------------------------------------------------


def test_a_wrong_digest_leaves_nothing_under_the_name(server, cache):
    flipped = bytes(byte ^ 255 for byte in DATA)
    with pytest.raises(ConfigError) as caught:
        pull(pinned(f"{server.url}/flipped/{NAME}"))
    said = str(caught.value)
    assert SHA256 in said and hashlib.sha256(flipped).hexdigest() in said
    assert f"set aside as {cache / NAME}.wrong" in said and "\n" not in said
    assert left(cache) == {f"{NAME}.wrong"}
    with pytest.raises(MissingWeights, match="run: nftbench rewards pull thing"):
        weight_file(pinned(""), reward="thing")
    assert pull(pinned(f"{server.url}/plain/{NAME}")).path.read_bytes() == DATA


def test_a_wrong_size(server, cache):
    with pytest.raises(ConfigError, match=f"{len(DATA)} bytes; expected .* {len(DATA) + 1} bytes"):
        pull(pinned(f"{server.url}/plain/{NAME}", size=len(DATA) + 1))
    with pytest.raises(ConfigError, match=r"expected .* 1000 bytes"):
        pull(pinned(f"{server.url}/slow/{NAME}", size=1000))
    assert server.requests()[-1]["sent"] < len(DATA)  # not all of a file that is too long
    assert left(cache) == {f"{NAME}.wrong"}


def test_a_file_that_was_changed_is_not_loaded_and_pulled_anew(server, cache):
    weight = pinned(f"{server.url}/plain/{NAME}")
    path = pull(weight).path
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(ConfigError, match=f"expected {SHA256}; run: nftbench rewards pull thing"):
        weight_file(weight, reward="thing")
    assert pull(weight).fetched == len(DATA)
    assert left(cache) == {NAME, f"{NAME}.wrong"}
    assert weight_file(weight, reward="thing") == path


# --- digests that are not whole -------------------------------------------------------------------


def test_a_prefix_is_enough_and_the_whole_digest_is_recorded(server, cache):
    weight = pinned(f"{server.url}/plain/{NAME}", sha256=SHA256[:8])
    assert pull(weight).sha256 == SHA256
    assert (cache / f"{NAME}.sha256").read_text() == f"{SHA256}  model.safetensors\n"
    check = ["sha256sum", "--check", "model.safetensors.sha256"]
    assert subprocess.run(check, cwd=cache / "things", capture_output=True).returncode == 0
    assert weight_file(weight, reward="thing").read_bytes() == DATA
    with pytest.raises(ConfigError, match=f"expected {'0' * 8}"):
        weight_file(replace(weight, sha256="0" * 8), reward="thing")
    with pytest.raises(ConfigError, match=r"expected 00000000, \d+ bytes"):
        pull(replace(weight, sha256="0" * 8))


def test_without_any_digest_a_file_is_refused_unless_named(server, cache):
    weight = pinned(f"{server.url}/plain/{NAME}", sha256="", size=0)
    with pytest.raises(MissingWeights, match=f"no digest is known.*--accept-digest {NAME}"):
        pull(weight)
    assert not server.requests() and not left(cache)
    assert pull(weight, accept=True).sha256 == SHA256
    path = weight_file(weight, reward="thing")
    path.write_bytes(b"other")
    verified.cache_clear()
    with pytest.raises(ConfigError, match=f"expected {SHA256}"):
        weight_file(weight, reward="thing")


def test_a_file_put_there_by_hand_without_a_digest(server, cache):
    weight = pinned(f"{server.url}/plain/{NAME}", sha256="", size=0)
    (cache / "things").mkdir(parents=True)
    (cache / NAME).write_bytes(DATA)
    with pytest.raises(ConfigError, match="no known sha256"):
        weight_file(weight, reward="thing")
    assert pull(weight, accept=True).fetched == 0 and not server.requests()
    assert weight_file(weight, reward="thing").read_bytes() == DATA


@pytest.mark.parametrize("record", ["", "none", "0" * 63, "\0\xff", "# comment\n"])
def test_a_broken_record_counts_as_none(cache, record):
    (cache / "things").mkdir(parents=True)
    (cache / NAME).write_bytes(DATA)
    (cache / f"{NAME}.sha256").write_text(record, encoding="latin-1")
    assert weight_file(pinned(""), reward="thing").read_bytes() == DATA  # the pin still holds
    with pytest.raises(ConfigError, match="no known sha256"):
        weight_file(pinned("", sha256=""), reward="thing")


# --- processes ------------------------------------------------------------------------------------

PULL = """
import sys
from rewards.base import Weight
from rewards.weights.pull import pull
name, url, sha256, size = sys.argv[1:]
print(pull(Weight(name=name, url=url, sha256=sha256, size=int(size), licence="")).fetched)
"""


def process(url: str, sha256: str = SHA256, size: int = len(DATA), **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, NAME, url, sha256, str(size)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | env,
    )


@pytest.mark.slow
def test_a_killed_process_leaves_a_part_and_the_next_goes_on(server, cache):
    first = process(f"{server.url}/slow/{NAME}")
    part = cache / f"{NAME}.part"
    while first.poll() is None and not (part.is_file() and part.stat().st_size > 8192):
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    held = part.stat().st_size
    assert 8192 < held < len(DATA) and left(cache) == {f"{NAME}.part"}
    found = pull(pinned(f"{server.url}/plain/{NAME}"))
    assert found.fetched == len(DATA) - held and found.path.read_bytes() == DATA


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(server, cache):
    both = [process(f"{server.url}/slow/{NAME}") for _ in range(2)]
    said = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sorted(int(out) for out, _ in said) == [0, len(DATA)]
    assert server.sent() == len(DATA) and (cache / NAME).read_bytes() == DATA


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "revision", "code"),
    [
        (NAME, "a" * 40, 0),
        ("things/vocab.txt", "a" * 40, 0),
        (NAME, "main", 1),
        ("no", "a" * 40, 1),
    ],
    ids=["lfs", "git", "moving", "absent"],
)
def test_the_hub_vouches_for_a_pinned_commit(server, cache, tmp_path, file, revision, code):
    """Where no digest is pinned, the hub's own one of a commit counts; a branch can move."""
    (server.folder / "things" / "vocab.txt").write_bytes(DATA[:3000])
    size = 0 if file != NAME else len(DATA)
    hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    job = process(f"hf://owner/name@{revision}/{file}", "", size, **hub)
    out, err = job.communicate(timeout=120)
    assert job.returncode == code, err
    if code:
        assert ("no digest is known" if revision == "main" else "no: 404") in err
        assert not (cache / NAME).exists()
        return
    data = (server.folder / file).read_bytes()
    assert int(out) == len(data) == server.sent() and (cache / NAME).read_bytes() == data
    recorded = (cache / f"{NAME}.sha256").read_text().split()[0]
    assert recorded == hashlib.sha256(data).hexdigest()
    assert weight_file(pinned("", sha256="", size=size), reward="thing").read_bytes() == data


@pytest.mark.slow
def test_what_the_hubs_library_has_is_taken_from_there(server, cache, tmp_path):
    """Offline as well: its blobs are named by their digests."""
    hub = tmp_path / "hub" / "hub" / "models--owner--name"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / SHA256).write_bytes(DATA)
    (hub / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("a" * 40) / "x.safetensors").symlink_to(hub / "blobs" / SHA256)
    env = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    job = process(f"hf://owner/name@{'a' * 40}/x.safetensors", "", **env)
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert int(out) == len(DATA) and (cache / NAME).read_bytes() == DATA
