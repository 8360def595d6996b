"""An image service as a checkpoint, asked by the command over a real connection."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nftbench.benchmark.samples import Sample
from nftbench.generation.image_service import draw, load_service
from rewards.base import ConfigError, Prompt
from tests.helpers.commands import run_here
from tests.helpers.servers.asked import ARGUMENTS, log, refused
from tests.helpers.servers.fake_images import colour, serving_images

KEY = "a-secret-of-mine"


@pytest.fixture(scope="module")
def service():
    with serving_images() as url:
        yield url


def drawn(url: str, text: str, model: str = "fake"):
    """What comes of a prompt, beside one that is drawn well."""
    batch = [Sample(Prompt(id=i, text=t), 0) for i, t in (("a", "a red cube"), ("b", text))]
    return draw(load_service(f"api:{url}#{model}"), batch, (64, 64))


def test_a_run_by_the_command_resumed_scored_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_IMAGES_KEY", KEY)
    (tmp_path / "mine.txt").write_text("a red cube\na small cat\na busy-once dog\n", "utf-8")
    with serving_images(KEY) as url:
        command = (
            "eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg",
            "--size", "64x96", "--out", "run", "--max-failed", "0.5",
        )  # fmt: skip
        code, out = run_here(tmp_path, *command)
        assert code == 0, out
        assert (
            "requests 4, usage total_tokens 21" in out
        )  # the 429 was asked again; `small` cost as much
        first = log(url)
        assert {one["size"] for one in first} == {"96x64"} and {one["n"] for one in first} == {1}
        code, out = run_here(tmp_path, *command)
        assert code == 0 and [a["prompt"] for a in log(url)[len(first) :]] == ["a small cat"]
    run = tmp_path / "run"
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    (name,) = manifest["protocols"]
    images = sorted((run / name / "images").glob("*.png"))
    assert len(images) == 2
    assert tuple(np.asarray(Image.open(images[0]))[0, 0]) == colour("a red cube")
    table = pd.read_parquet(run / name / "samples.parquet")
    assert table["jpeg:reason"].tolist()[1] == "asked for 96x64 pixels (width x height), got 48x32"
    assert manifest["protocols"][name]["noise"] == "service"
    assert manifest["protocols"][name]["num_inference_steps"] is None
    everything = [p.read_bytes() for p in run.rglob("*") if p.is_file()]
    assert not any(KEY.encode() in data for data in everything)
    code, out = run_here(tmp_path, "report", "run", "--out", "report")
    assert code == 0, out
    shutil.copytree(run, tmp_path / "other")
    code, out = run_here(tmp_path, "compare", "run", "other")
    assert code == 0, out
    pages = " ".join(p.read_text("utf-8") for p in (tmp_path / "report").rglob("*.html"))
    assert "images from a service" in pages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a small cat", "got 32x32"),
        ("refuse this", "status 400"),
        ("broken", "not an image that can be read"),
        ("it is elsewhere", "on another host"),
    ],
)
def test_what_fails_is_an_image_less_with_its_reason(service, text, said, monkeypatch):
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    good, bad = drawn(service, text)
    assert good.pixels is not None and good.usage == {"total_tokens": 7.0}
    assert bad.pixels is None and said in bad.failure


def test_an_endless_answer_ends(service, monkeypatch):
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("nftbench.generation.image_service.LARGEST", 1 << 20)
    assert "more than 1048576 bytes" in drawn(service, "endless")[1].failure


@pytest.mark.parametrize("text", ["it is linked", "it is nearby"])
def test_an_image_at_an_address_of_the_service(service, text):
    image = drawn(service, text)[1]
    assert image.pixels is not None, image.failure
    assert tuple(image.pixels[0, 0]) == colour("linked")


@pytest.mark.parametrize("text", ["as data here", "it is inline"])
def test_an_image_behind_its_kind_and_in_lines(service, text):
    _, image = drawn(service, text)
    assert image.pixels is not None, image.failure
    assert tuple(image.pixels[0, 0]) == colour(text)


def test_a_service_that_asks_to_be_left_alone_for_an_hour_is_said_at_once(tmp_path):
    """Its other images, which may have cost money, are kept; nothing is waited for."""
    (tmp_path / "mine.txt").write_text("a red cube\na closed cat\na blue cube\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        began = time.monotonic()
        said = refused(tmp_path, *command, "--size", "64", "--out", "run")
        assert time.monotonic() - began < 15  # three pauses of 30 s, once
        asked = len(log(url))
        refused(tmp_path, *command, "--size", "64", "--out", "run")
        assert [a["prompt"] for a in log(url)[asked:]] == ["a closed cat"]
    assert (
        "status 429" in said and "it asks to be left alone for 3600 s; run the same command" in said
    )
    assert len([*(tmp_path / "run").rglob("images/*.png")]) == 2


@pytest.mark.parametrize("model", ["plain", "strict"])
def test_a_model_that_takes_no_response_format(service, model):
    good, other = drawn(service, "a blue cube", model)
    assert (good.attempts, other.attempts) == (2, 2) and other.pixels is not None


def test_a_refusal_that_goes_on_naming_the_field_is_one_line(tmp_path, service):
    said = refused(tmp_path, "eval", f"api:{service}#stubborn", *ARGUMENTS, "--size", "64")
    assert "response_format" in said and "Traceback" not in said, said


def test_a_redirect_is_said_with_its_address(service):
    """It was `status 308: `, with no word of where to."""
    _, other = drawn(service, "a blue cube", "moved")
    assert other.failure == (
        "status 308: it redirects to https://there.example/v1, which is not followed; name that address"
    )


def test_an_image_that_is_late_at_its_address_is_not_paid_for_twice(tmp_path):
    (tmp_path / "mine.txt").write_text("a late cube\na late cat\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
        paid = [one["prompt"] for one in log(url) if one]
    assert code == 0 and "usage total_tokens 14" in out, out
    assert sorted(paid) == ["a late cat", "a late cube"]


def test_an_image_that_is_gone_from_its_address_is_one_less_and_counted(tmp_path, monkeypatch):
    """Its 404 says nothing of the service, which draws the others."""
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    (tmp_path / "mine.txt").write_text("a red cube\na gone cube\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
        paid = [one["prompt"] for one in log(url) if one]
    assert code == 4 and "1 of 2 images have no score" in out and "not at its address" in out, out
    assert paid.count("a gone cube") == 1 and "usage total_tokens 14" in out


def test_rewritten_prompts_are_counted_and_said(tmp_path):
    """The texts themselves, which may be of any length, stay out of the line and the manifest."""
    (tmp_path / "mine.txt").write_text("a red cube\na rewritten cat\na rewritten dog\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
    assert code == 0 and "by a service: prompts rewritten 2, requests 3" in out, out
    manifest = (tmp_path / "run" / "manifest.json").read_text("utf-8")
    (counted,) = json.loads(manifest)["service"].values()
    assert counted["prompts rewritten"] == 2 and "sharp" not in out + manifest


def test_a_service_that_answers_from_a_cache_is_noticed(tmp_path):
    """It draws one picture a prompt, however often it is asked."""
    (tmp_path / "mine.txt").write_text("a red cube\na blue cube\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(tmp_path, *command, "--size", "64", "--images-per-prompt", "2")
    said = " ".join(out.split())
    assert code == 0 and "images: 4 of 4 images are equal to another one (2 files in all)" in said


@pytest.mark.parametrize("path", ["", "/", "/images/generations", "/images/generations/"])
def test_a_query_of_the_address_stays_behind_the_path(tmp_path, path):
    """Some paste the address of a service, some that of a request."""
    (tmp_path / "mine.txt").write_text("a red cube\n", "utf-8")
    with serving_images() as url:
        name = f"api:{url}{path}?api-version=2024-02-01#fake"
        command = ("eval", name, "--prompts", "mine.txt", "--rewards", "jpeg", "--size", "64")
        code, out = run_here(tmp_path, *command)
        assert code == 0, out
        assert [a["path"] for a in log(url)] == ["/v1/images/generations?api-version=2024-02-01"]


def test_cells_that_a_service_cannot_tell_apart_are_asked_for_once(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "p.txt").write_text("a red cube\n", "utf-8")
    (tmp_path / "own.toml").write_text('[prompts]\nfile = "p.txt"\n', "utf-8")
    cell = '[[columns]]\nname = "{0}"\nbenchmark = "own"\nmetric = "jpeg"\nvariant = "{1}"\n'
    cells = cell.format("a", "") + "settings = { guidance_scale = 4.5 }\n"
    cells += cell.format("b", "compressibility") + "settings = { guidance_scale = 1.0 }\n"
    (tmp_path / "mine.toml").write_text(f'benchmarks = ["own"]\n{cells}', "utf-8")
    with serving_images() as url:
        asked = ("--suite", "mine.toml", "--size", "64", "--out", "run")
        code, out = run_here(tmp_path, "eval", f"api:{url}#fake", *asked)
        assert code == 0 and len(log(url)) == 1, out
    rows = pd.read_csv(tmp_path / "run" / "rows.csv")
    assert rows["variant"].fillna("").tolist() == ["", "compressibility"]


def test_the_rate_is_kept(service, monkeypatch):
    monkeypatch.setenv("NFTBENCH_IMAGES_RATE", "240")
    began = time.monotonic()
    drawn(service, "a slow cube")
    assert time.monotonic() - began >= 0.25


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("api:", "expected api:URL#MODEL"),
        ("api:http://127.0.0.1:1/v1", "expected api:URL#MODEL"),
        ("api:ftp://host/v1#m", "expected api:URL#MODEL"),
        ("api:http://me:pass@host/v1#m", "must hold no password"),
        ("api:http://host/v1?version=2&API_Key=s3cret#m", "must hold no API_Key"),
    ],
)
def test_words_that_name_no_service(name, said):
    with pytest.raises(ConfigError, match=said):
        load_service(name)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("NFTBENCH_IMAGES_TIMEOUT", text)
    with pytest.raises(ConfigError, match=f"NFTBENCH_IMAGES_TIMEOUT must be .*, got '{text}'"):
        load_service("api:http://127.0.0.1:9/v1#m")


def test_a_wrong_key_is_one_line_without_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_IMAGES_KEY", "not-the-one")
    with serving_images(KEY) as url:
        said = refused(tmp_path, "eval", f"api:{url}#fake", *ARGUMENTS, "--size", "64")
    assert "status 401" in said and "NFTBENCH_IMAGES_KEY" in said and "not-the-one" not in said


@pytest.mark.parametrize(
    "flags",
    [
        ["--device", "cpu", "--dtype", "bfloat16"],
        ["--offload", "model"],
        ["--compile"],
        ["--vae-tiling", "--attention", "native", "--tf32"],
        ["--trust-remote-code"],
        ["--quantize", "int8"],
    ],
)
def test_flags_about_this_machine_are_refused(tmp_path, flags):
    """Before anything is asked of the service, which is not even there."""
    name = "api:http://127.0.0.1:9/v1#m"
    said = refused(tmp_path, "eval", name, *ARGUMENTS, "--size", "64", *flags)
    named = [flag for flag in flags if flag.startswith("--")]
    assert "is an image service" in said and all(flag in said for flag in named)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_cannot_be_asked_is_one_line(tmp_path, service, monkeypatch):
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    name = f"api:{service}#fake"
    assert "pass --size" in refused(tmp_path, "eval", name, *ARGUMENTS)
    assert "cannot be told num_inference_steps" in refused(
        tmp_path, "eval", name, *ARGUMENTS, "--size", "64", "--steps", "3"
    )
    assert "is an image service" in refused(tmp_path, "train", name, "--rewards", "jpeg")
    unknown = f"api:{service}#nobody"
    assert "status 404" in refused(tmp_path, "eval", unknown, *ARGUMENTS, "--size", "64")
    down = refused(tmp_path, "eval", "api:http://127.0.0.1:9/v1#m", *ARGUMENTS, "--size", "64")
    assert "made no image" in down


@pytest.mark.parametrize("name", ["sig", "code", "X-Auth", "api_pass"])
def test_a_secret_in_an_address_is_refused(tmp_path, name):
    address = f"api:http://127.0.0.1:9/v1?{name}=hush#m"
    said = refused(tmp_path, "eval", address, *ARGUMENTS, "--size", "64")
    assert (
        f"must hold no {name}" in said and "hush" not in said and not (tmp_path / "runs").exists()
    )


@pytest.mark.parametrize("address", ["http://[::1/v1", "http://a..b/v1", "http://a b/v1"])
@pytest.mark.parametrize("whose", ["images", "judge"])
def test_an_address_that_is_none_is_one_line(tmp_path, monkeypatch, address, whose):
    monkeypatch.setenv("NFTBENCH_JUDGE_URL", address)
    (tmp_path / "mine.txt").write_text("a cat\n", "utf-8")
    asked = ("--prompts", "mine.txt", "--size", "64", "--out", "run")
    model, reward = (
        (f"api:{address}#m", "jpeg") if whose == "images" else ("pocket", "unifiedreward")
    )
    code, out = run_here(tmp_path, "eval", model, "--rewards", reward, *asked)
    said = (
        "expected api:URL#MODEL" if whose == "images" else "NFTBENCH_JUDGE_URL: expected a server"
    )
    assert code == 2 and said in out and out.count("nftbench: ") == 1, out
    assert not (tmp_path / "run").exists()
