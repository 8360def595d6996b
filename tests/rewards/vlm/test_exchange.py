"""A judge that fails, hangs, babbles or pours: every picture gets a mark or a reason, in bounded time."""

import asyncio
import gzip
import re
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rewards import load_reward
from rewards.base import ConfigError
from rewards.vlm.chat import MAX_BYTES, Endpoint, ask
from rewards.vlm.unifiedreward import (
    OFFICIAL,
    UnifiedReward,
    official,
)
from tests.helpers.servers.fake_judge import mark
from tests.helpers.servers.judged import pictures, prompts, reward


def test_trouble_is_told_and_left_with_its_image(url):
    texts = ["x nonsense", "x fail", "x refuse", "x empty", "x fail-once", "x"]
    scores = reward(url, attempts=2).score(pictures(6), prompts(*texts))
    assert np.isnan(scores.values).tolist() == [True] * 4 + [False] * 2
    assert "holds no mark" in scores.reasons[0]
    assert "in 2 attempts: status 500" in scores.reasons[1]
    assert "in 1 attempts: status 400" in scores.reasons[2]  # asking again would not help
    assert "not a chat completion" in scores.reasons[3]
    assert [each["attempts"] for each in scores.evidence] == [1, 2, 1, 2, 2, 1]
    assert scores.evidence[0]["reply"] == "What a lovely picture."


def test_an_endless_answer_is_cut_off(url):
    judge = Endpoint(url=url, key="flowgrpo", timeout=20.0, attempts=1)
    body = {"messages": [{"content": [{}, {"text": "Text Caption: [endless]"}]}]}
    start = time.monotonic()
    (reply,) = ask(judge, [lambda: body])
    assert reply.failure.startswith(f"an answer of more than {MAX_BYTES} bytes")
    assert time.monotonic() - start < 15


def test_nobody_there(monkeypatch):
    lost = reward("http://127.0.0.1:9/v1", attempts=2)
    scores = lost.score(pictures(2), prompts("a", "b"))
    assert np.isnan(scores.values).all() and "ConnectError" in scores.reasons[0]
    with pytest.raises(
        ConfigError, match=r"no judge answers at http://127.0.0.1:9/v1.*NFTBENCH_JUDGE_URL"
    ):
        lost.check(prompts("a"))


def test_check_finds_the_server_and_the_key(url):
    reward(url).check(prompts("a"))
    with pytest.raises(ConfigError, match=r"does not take the key: status 401.*NFTBENCH_JUDGE_KEY"):
        reward(url, key="wrong").check(prompts("a"))


@contextmanager
def hostile(answer):
    """A server that answers every request by writing what `answer` yields, as long as somebody listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with suppress(OSError):
                for data in answer(self.headers):
                    self.wfile.write(data)
                    self.wfile.flush()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def pours(_):
    yield HEAD
    while True:
        yield b"x" * 65536


def drips(_):
    yield HEAD
    while True:
        yield b"x"
        time.sleep(0.05)


def drips_headers(_):
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-A: b\r\n"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [pours, drips])
def test_models_that_never_end_do_not_hold_up_the_check(how):
    with hostile(how) as address:
        begun = time.monotonic()
        reward(address).check(prompts("a cat"))
        assert time.monotonic() - begun < 5


def test_headers_without_an_end_are_nobody_there(monkeypatch):
    monkeypatch.setattr("rewards.vlm.exchange.PROBE_TIMEOUT", 0.5)
    with hostile(drips_headers) as address, pytest.raises(ConfigError, match="no judge answers"):
        reward(address).check(prompts("a cat"))


def test_a_packed_answer_is_not_unpacked():
    bomb = gzip.compress(b"x" * 10_000_000)

    def packed(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
        yield bomb

    with hostile(packed) as address:
        scores = reward(address, attempts=1).score(pictures(1), prompts("a cat"))
    assert np.isnan(scores.values).all() and "packed by 'gzip'" in scores.reasons[0]


def test_brackets_without_an_end_are_no_answer():
    with hostile(lambda _: iter([HEAD, b"[" * 200_000])) as address:
        scores = reward(address, attempts=1).score(pictures(1), prompts("a cat"))
    assert "not a chat completion" in scores.reasons[0]


def test_a_key_that_is_echoed_stays_hidden():
    def echo(headers):
        yield b"HTTP/1.1 401 No\r\n\r\n" + headers["Authorization"].encode()

    with hostile(echo) as address:
        secret = reward(address.replace("//", "//user:pass@"), key="sk-secret", attempts=1)
        scores = secret.score(pictures(1), prompts("a cat"))
        with pytest.raises(ConfigError, match="does not take the key") as refused:
            secret.check([])
    text = f"{scores} {refused.value}"
    assert "sk-secret" not in text and "user:pass" not in text and "401" in text


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines", "with blank"])
def test_a_key_that_no_header_carries_is_refused_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("NFTBENCH_JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="NFTBENCH_JUDGE_KEY") as refused:
        load_reward("unifiedreward")
    assert key not in str(refused.value)


def test_a_server_is_asked_once_whether_it_is_there():
    connections = []
    with hostile(lambda headers: connections.append(1) or iter([HEAD])) as address:
        one = reward(address)
        for i in range(30):
            one.check(prompts(f"question {i}"))
    assert len(connections) == 1


def test_no_images_ask_nothing(url):
    assert len(reward(url).score(np.zeros((0, 8, 8, 3), np.uint8), []).values) == 0


def test_inside_a_running_loop(url):
    """As in a notebook."""

    async def cell():
        return reward(url).score(pictures(2), prompts("a", "b")).values

    assert np.isfinite(asyncio.run(cell())).all()


@pytest.mark.thorough
@pytest.mark.slow
def test_sixty_four_at_once(url, capsys):
    """One in ten fails, one in ten hangs, one in ten babbles; others only at first: all end in bounded time."""
    troubles = ["", "fail", "", "hang", "nonsense", "", "fail-once", "", "hang-once", ""]
    texts = [f"picture {i} {troubles[i % 10]}".strip() for i in range(64)]
    judge = Endpoint(url=url, key="flowgrpo", concurrency=64, timeout=4.0, attempts=2, backoff=0.2)
    images = np.arange(64, dtype=np.uint8)[:, None, None, None] * 4 + np.zeros((8, 8, 3), np.uint8)
    start = time.monotonic()
    scores = UnifiedReward(judge, style=OFFICIAL, info=official.info).score(images, prompts(*texts))
    seconds = time.monotonic() - start
    ended = Counter(
        re.sub(r"[\d.]+ s$", "n s", reason).partition(":")[0] or "scored"
        for reason in (re.sub(r"^.*attempts: ", "", reason) for reason in scores.reasons)
    )
    with capsys.disabled():
        sys.stdout.write(
            f"\n64 at once: {dict(ended)} in {seconds:.1f} s, bound {judge.bound(64):.1f} s\n"
        )
    for i, text in enumerate(texts):
        if text.endswith(("fail", "hang", "nonsense")):
            assert np.isnan(scores.values[i]) and scores.reasons[i], text
        else:
            assert scores.values[i] == np.float32(mark(images[i])), text
    assert ended == {
        "scored": 44,
        "status 500": 7,
        "no answer within n s": 7,
        "the judge's reply holds no mark": 6,
    }
    assert 8 <= seconds < judge.bound(64) + 10  # the pictures are encoded in between


def test_bound_of_fewer_at_once(url):
    """Ten that hang, four at once: three rounds."""
    judge = Endpoint(url=url, key="flowgrpo", concurrency=4, timeout=0.3, attempts=2, backoff=0.1)
    assert judge.bound(10) == pytest.approx(3 * (2 * 0.3 + 0.1))
    body = {"messages": [{"content": [{}, {"text": "Text Caption: [hang]"}]}]}
    start = time.monotonic()
    replies = ask(judge, [lambda: body] * 10)
    seconds = time.monotonic() - start
    assert [reply.failure for reply in replies] == ["no answer within 0.3 s"] * 10
    assert 3 * 2 * 0.3 <= seconds < judge.bound(10) + 2
