"""UnifiedReward: replies, questions, settings, and a judge in another process that fails, hangs and babbles."""

import base64
import hashlib
import io
import json

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewards import load_reward, resolve
from rewards.base import ConfigError
from rewards.certify import unifiedreward as certify
from rewards.vlm.chat import Endpoint
from rewards.vlm.unifiedreward import (
    NFT,
    OFFICIAL,
    V2_0,
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
from tests.helpers.paths import GOLDEN
from tests.helpers.servers.fake_judge import mark
from tests.helpers.servers.judged import decoded, pictures, prompts, reward

FOLDER = GOLDEN
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
    assert {k: v for k, v in first.items() if k not in {"messages", "headers", "path"}} == {
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


@pytest.mark.parametrize("behind", ["?api-version=2024-02-01", "/?api-version=2024-02-01"])
def test_a_query_of_the_judge_s_address_stays_behind_the_path(monkeypatch, url, behind):
    monkeypatch.setenv("NFTBENCH_JUDGE_URL", f"{url}{behind}")
    assert np.isfinite(load_reward("unifiedreward").score(pictures(1), prompts("q")).values[0])
    asked = httpx2.get(f"{url}/log").json()["asked"][-1]
    assert asked["path"] == "/v1/chat/completions?api-version=2024-02-01"
    assert endpoint("nft").address("/models") == f"{url}/models?api-version=2024-02-01"


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("NFTBENCH_JUDGE_TIMEOUT", text)
    with pytest.raises(ConfigError, match=f"NFTBENCH_JUDGE_TIMEOUT.*got '{text}'"):
        load_reward("unifiedreward@official")
