"""What an image service refuses, fails on or was paid for: an image less, or the end of the run, never paid twice."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import run_here
from tests.helpers.servers.asked import log, refused
from tests.helpers.servers.fake_images import serving_images


def test_a_prompt_that_always_fails_is_an_image_less_wherever_its_batch_ends(tmp_path, monkeypatch):
    """The last batch holds nothing else, and the service is no less there for it."""
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    (tmp_path / "mine.txt").write_text("a red cube\nfail here\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(
            tmp_path, *command, "--size", "64", "--batch-size", "1", "--out", "run"
        )
    assert code == 4 and "1 of 2 images have no score" in out and "status 500" in out, out


def test_where_every_prompt_is_refused_the_reason_is_said(tmp_path):
    (tmp_path / "mine.txt").write_text("refuse this\nrefuse that\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
    assert code == 2 and "(00000-00: status 400: " in out and "not this one" in out, out


def test_a_barred_prompt_is_an_image_less(tmp_path):
    """Some services answer 403 to a prompt that they do not like: its run has an end, the first time and the second."""
    (tmp_path / "mine.txt").write_text("a red cube\nbarred here\n", "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        for _ in range(2):
            code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
            assert code == 4 and "1 of 2 images have no score" in out and "status 403" in out, out
        assert [a["prompt"] for a in log(url)].count("a red cube") == 1


def test_a_service_whose_money_is_spent_is_left_alone(tmp_path, monkeypatch):
    """It is not asked for what the batches behind hold."""
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    (tmp_path / "mine.txt").write_text("".join(f"spent {i}\n" for i in range(4)), "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        said = refused(tmp_path, *command, "--size", "64", "--batch-size", "2", "--out", "run")
        assert {a["prompt"] for a in log(url)} == {"spent 0", "spent 1"}
    assert "made no image of 'fake': status 429" in said


def test_an_image_that_was_paid_for_is_not_asked_for_twice(tmp_path, monkeypatch):
    """A stop within a batch leaves the images that had come, and what they took."""
    monkeypatch.setenv("NFTBENCH_IMAGES_CONCURRENCY", "1")
    texts = [f"a red cube {i}" for i in range(4)]
    (tmp_path / "mine.txt").write_text("\n".join(texts), "utf-8")
    came = []

    def stopped(data, size):
        came.append(data)
        if len(came) == 3:
            raise KeyboardInterrupt  # as Ctrl-C does
        return np.asarray(Image.open(io.BytesIO(data)))

    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        with monkeypatch.context() as patched:
            patched.setattr("nftbench.generation.image_service._pixels", stopped)
            code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
        assert code == 130 and "run the same command again" in out, out
        asked = len(log(url))
        code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
        assert [a["prompt"] for a in log(url)[asked:]] == texts[2:]
    assert code == 0 and "requests 4, usage total_tokens 28" in out, out


@pytest.mark.parametrize(
    ("word", "why"), [("refuse", "status 400"), ("small", "got 32x32"), ("broken", "can be read")]
)
def test_where_the_first_prompts_all_fail_alike_the_rest_is_not_asked(
    tmp_path, monkeypatch, word, why
):
    """A size or field that a service does not take is its answer to every prompt of a suite."""
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    (tmp_path / "mine.txt").write_text("".join(f"{word} {i}\n" for i in range(9)), "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        said = refused(tmp_path, *command, "--size", "64", "--batch-size", "2", "--out", "run")
        assert len({a["prompt"] for a in log(url)}) == 4
    assert "made no image of 'fake': " in said and why in said and " at 0x" not in said, said
    assert "so it was for 4 prompts of 4" in said


@pytest.mark.parametrize("word", ["fail", "refuse", "barred"])
def test_prompts_that_always_fail_end_no_run_that_is_repeated(tmp_path, monkeypatch, word):
    """Beside them nothing of their batch is missing then, and the service is no less there for it."""
    monkeypatch.setattr("rewards.vlm.exchange.LONGEST_PAUSE", 0.01)
    texts = ["a red cube", *(f"{word} {i}" for i in range(4))]
    (tmp_path / "mine.txt").write_text("\n".join(texts), "utf-8")
    with serving_images() as url:
        command = ("eval", f"api:{url}#fake", "--prompts", "mine.txt", "--rewards", "jpeg")
        for _ in range(2):
            code, out = run_here(tmp_path, *command, "--size", "64", "--out", "run")
            assert code == 4 and "4 of 5 images have no score" in out, out
