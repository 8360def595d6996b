"""UnifiedReward: replies, questions, settings, and a judge in another process that fails, hangs and babbles."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import re
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewards import load_reward, resolve
from rewards.base import ConfigError, Prompt
from rewards.certify import unifiedreward as certify
from rewards.vlm.chat import MAX_BYTES, Endpoint, ask
from rewards.vlm.unifiedreward import (
    NFT,
    OFFICIAL,
    V2_0,
    UnifiedReward,
    axis_scores,
    endpoint,
    final_score,
    jpeg_95,
    nft,
    official,
    png_512,
    png_as_is,
    v2_0,
)
from tests.helpers.fake_judge import judging, mark
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN
SETTINGS = ("URL", "KEY", "MODEL", "CONCURRENCY", "TIMEOUT")


@pytest.fixture(scope="module")
def url():
    with judging() as address:
        yield address


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(f"NFTBENCH_JUDGE_{name}", raising=False)


def reward(url: str, style=NFT, info=nft.info, **more) -> UnifiedReward:
    more = {"key": "flowgrpo", "timeout": 20.0, "backoff": 0.01} | more
    return UnifiedReward(Endpoint(url=url, **more), style=style, info=info)


def pictures(count: int) -> np.ndarray:
    """Of different brightness."""
    levels = np.linspace(20, 230, count).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 20, (count, 24, 32, 3), dtype=np.uint8)
    return noise + levels[:, None, None, None]


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=str(i), text=text) for i, text in enumerate(texts)]


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Final Score: 4", 4),
        ("good\nFinal Score:\n 3.25 of 5", 3.25),
        ("Final Score: 2. Final Score: 3", 2),
        ("Final Score: 10", 1),
        ("Final Score: 5.5", 5.5),
        ("**Final Score:** 4", None),
        ("final score: 4", None),
        ("Final Score: 0", None),
        ("Final Score: 0.9", None),
        ("Final Score: 6", None),
        ("", None),
    ],
)
def test_final_score(reply, value):
    assert final_score(reply) == ({} if value is None else {"final": value})


@given(st.floats(1, 5), st.text(max_size=20).filter(lambda text: "Final Score" not in text))
def test_any_mark_is_read_back(value, before):
    text = f"{value:.6f}"
    assert final_score(f"{before}Final Score: {text}") == {"final": float(text)}


def test_axis_scores():
    reply = "Alignment Score (1-5): 2.69\nCoherence Score (1-5): 2.37\n\nStyle Score (1-5): 2.8025000095"
    assert axis_scores(reply) == {"alignment": 2.69, "coherence": 2.37, "style": 2.8025000095}
    assert axis_scores(reply.replace("Style", "Taste")) == {}
    assert axis_scores(reply.replace("2.37", "7")) == {}
    assert axis_scores(reply.replace("2.37", "0.5")) == {}
    assert axis_scores("") == {}


def test_golden_replies():
    checks = list(certify.replies("unifiedreward@nft", FOLDER))
    assert [check.name for check in checks if not check.passed] == []
    assert checks[0].cases == 23 and checks[1].cases == checks[2].cases > 10


# --- pictures and questions -----------------------------------------------------------------------


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_pictures():
    image = pictures(1)[0]
    np.testing.assert_array_equal(decoded(png_as_is(image)), image)
    resized = Image.fromarray(image).resize((512, 512), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decoded(png_512(image)), np.asarray(resized))
    assert png_512(image).startswith("data:image/png;") and decoded(png_512(image)).shape[0] == 512
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    assert jpeg_95(image) == (
        "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    )


@pytest.mark.parametrize(
    ("style", "start", "digest"),
    [
        (NFT, "<image>\nYou are given", "d68ab1dcf4dc3a39"),
        (OFFICIAL, "You are given", "f56f919ce3bc6aab"),
        (V2_0, "You are presented", "75d52d3ae771f89b"),
    ],
)
def test_questions_are_the_authors_to_the_letter(style, start, digest):
    assert style.question.startswith(start)
    assert style.question.endswith("\nText Caption: [{prompt}]")
    assert hashlib.sha256(style.question.encode()).hexdigest().startswith(digest)


def test_what_a_server_gets(url):
    image, text = pictures(1), 'a {sign} that says "{prompt}"'
    reward(url).score(image, prompts(text))
    reward(url, V2_0, v2_0.info).score(image, prompts(text))
    first, second = httpx2.get(f"{url}/log").json()["asked"][-2:]
    assert first["messages"] == NFT.question.replace("{prompt}", text)
    assert first["headers"]["Authorization"] == "Bearer flowgrpo"
    assert {k: v for k, v in first.items() if k not in {"messages", "headers"}} == {
        "model": "UnifiedReward-7b-v1.5",
        "temperature": 0,
    }
    assert (second["model"], second["temperature"], second["max_tokens"]) == (
        "UnifiedReward",
        0,
        4096,
    )


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "info"), [(NFT, nft.info), (OFFICIAL, official.info)])
def test_marks_are_those_of_the_pictures_sent(url, style, info):
    images = pictures(5)
    scores = reward(url, style, info).score(images, prompts(*"abcde"))
    expected = [mark(decoded(style.picture(image))) for image in images]
    np.testing.assert_array_equal(scores.values, np.float32(expected))
    assert scores.parts == {} and len(set(expected)) == 5
    assert scores.evidence[0] == {
        "reply": f"A picture.\nFinal Score: {expected[0]}",
        "attempts": 1,
        "model": style.model,
    }


def test_three_marks_and_their_mean(url):
    images = pictures(3)
    scores = reward(url, V2_0, v2_0.info).score(images, prompts("a", "b nonsense", "c"))
    first = mark(decoded(jpeg_95(images[0])))
    np.testing.assert_allclose(scores.values, [3, np.nan, 3])
    assert scores.parts["alignment"][0] == np.float32(first)
    assert scores.parts["coherence"][0] == np.float32(6 - first)
    assert np.isnan(scores.parts["style"][1]) and scores.parts["style"][2] == 3
    assert "holds no mark: 'What a lovely picture.'" in scores.reasons[1]


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
    asked = []
    with hostile(lambda headers: asked.append(1) or iter([HEAD])) as address:
        one = reward(address)
        for i in range(30):
            one.check(prompts(f"question {i}"))
    assert len(asked) == 1


def test_no_images_ask_nothing(url):
    assert len(reward(url).score(np.zeros((0, 8, 8, 3), np.uint8), []).values) == 0


def test_inside_a_running_loop(url):
    """As in a notebook."""

    async def cell():
        return reward(url).score(pictures(2), prompts("a", "b")).values

    assert np.isfinite(asyncio.run(cell())).all()


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


# --- settings -------------------------------------------------------------------------------------


def test_the_plain_name_means_the_paper_s():
    assert resolve("unifiedreward") == "unifiedreward@nft"


def test_settings_from_the_environment(monkeypatch, url):
    assert endpoint("nft") == Endpoint(url="http://127.0.0.1:17140/v1", key="flowgrpo")
    monkeypatch.setenv("NFTBENCH_JUDGE_URL", f"{url}/")
    monkeypatch.setenv("NFTBENCH_JUDGE_URL_2_0", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("NFTBENCH_JUDGE_MODEL", "mine")
    monkeypatch.setenv("NFTBENCH_JUDGE_CONCURRENCY", "4")
    monkeypatch.setenv("NFTBENCH_JUDGE_TIMEOUT", "2.5")
    assert endpoint("nft") == Endpoint(url=url, key="flowgrpo", concurrency=4, timeout=2.5)
    assert endpoint("2.0").url == "http://127.0.0.1:9/v1"
    scores = load_reward("unifiedreward").score(pictures(1), prompts("a"))
    assert scores.evidence[0]["model"] == "mine" and np.isfinite(scores.values[0])
    json.dumps(scores.evidence)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("NFTBENCH_JUDGE_TIMEOUT", text)
    with pytest.raises(ConfigError, match=f"NFTBENCH_JUDGE_TIMEOUT.*got '{text}'"):
        load_reward("unifiedreward@official")
