"""Images of a run where the memory does not do, and by several processes."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from nftbench.benchmark.registry import load_benchmark
from nftbench.evaluation import images
from nftbench.evaluation.planning import fitted, plan
from nftbench.generation.sampling import generate
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError
from tests.helpers.launched import environments


@pytest.fixture
def work(policy):
    """Two batches of three images."""
    protocol = load_benchmark("geneval-pocket").protocol(num_inference_steps=1, limit=2)
    (one,) = fitted(plan([protocol.model_copy(update={"images_per_prompt": 3})], {}, 3), policy)
    return one


def memory_for(most: int, sizes: list[int]):
    def drawing(pipeline, batch, settings):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return generate(pipeline, batch, settings)

    return drawing


def test_where_the_memory_does_not_do_fewer_are_made_at_once(
    work, policy, tmp_path, monkeypatch, caplog
):
    sizes: list[int] = []
    monkeypatch.setattr(images, "generate_each", memory_for(1, sizes))
    run = Run(tmp_path / "run")
    images.make_images(run, work, policy, lambda *_: None)
    assert sizes == [3, 2, 1, 1, 1, 1, 1, 1]  # what does not do is not tried again
    assert [r.message for r in caplog.records] == [
        f"out of memory: continuing with {n} images at once" for n in (2, 1)
    ]
    for sample in work.samples:
        (alone,) = generate(policy.pipeline, [sample], work.settings)
        kept = np.asarray(Image.open(run.image_path(work.name, sample)))
        np.testing.assert_array_equal(kept, alone)


def test_where_it_does_not_do_for_one_the_remedy_is_one_line(work, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "generate_each", memory_for(0, []))
    with pytest.raises(ConfigError, match=r"one image at once \(CUDA out of memory\); choose a"):
        images.make_images(Run(tmp_path / "run"), work, policy, lambda *_: None)
    assert not list(tmp_path.rglob("*.png"))


# --- written behind the drawing ---------------------------------------------------------------------------------------


def test_the_next_batch_is_drawn_while_one_is_written(work, policy, tmp_path, monkeypatch):
    """The first batch is written only once the second is being drawn; the bytes are those of one after the other."""
    second, drawn = threading.Event(), []

    def drawing(pipeline, batch, settings):
        drawn.append(batch)
        if len(drawn) == 2:
            second.set()
        return generate(pipeline, batch, settings)

    class Slow(Run):
        def save_images(self, *given, **more):
            assert second.wait(60), "the drawing waits for the writing"
            super().save_images(*given, **more)

    monkeypatch.setattr(images, "generate_each", drawing)
    told = []
    images.make_images(Slow(tmp_path / "slow"), work, policy, lambda *said: told.append(said))
    assert told == [(f"{work.name}: images", done, 6) for done in (3, 6)]
    run = Run(tmp_path / "plain")
    for number, batch in work.batches():
        origin = images.image_origin(policy.digest, work.protocol)
        run.save_images(
            work.name, number, batch, generate(policy.pipeline, batch, work.settings), origin
        )
    slow, plain = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in ("slow", "plain")
    )
    assert slow == plain and len(slow) == 8


def test_what_follows_is_done_in_order_and_never_far_behind():
    done, told, ahead = [], [], []
    with images.Behind() as behind:
        for i in range(9):
            behind.follow(lambda i=i: done.append(i), lambda i=i: told.append(i))
            ahead.append(i + 1 - len(told))
    assert done == told == list(range(9)) and max(ahead) <= images.BEHIND


def test_after_an_error_in_it_nothing_more_is_done():
    done, gate = [], threading.Event()

    def fails():
        gate.wait(60)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), images.Behind() as behind:
        behind.follow(fails, lambda: done.append("told"))
        behind.follow(lambda: done.append("second"), lambda: done.append("told"))
        gate.set()
        behind.follow(lambda: done.append("third"), lambda: done.append("told"))
    assert done == []


def test_an_error_of_the_drawing_leaves_what_was_drawn_before(work, policy, tmp_path, monkeypatch):
    def drawing(pipeline, batch, settings, asked=[]):  # noqa: B006 (kept between calls)
        asked.append(batch)
        if len(asked) == 2:
            raise ConfigError("broken")
        return generate(pipeline, batch, settings)

    monkeypatch.setattr(images, "generate_each", drawing)
    run = Run(tmp_path / "run")
    with pytest.raises(ConfigError, match="broken"):
        images.make_images(run, work, policy, lambda *_: None)
    first, second = (batch for _, batch in work.batches())
    assert all(run.image_digest(work.name, s) for s in first)
    assert not any(run.image_digest(work.name, s) for s in second)


@pytest.mark.slow
def test_two_processes_share_the_images(start, tmp_path):
    """Told of each other as torchrun does it; every byte is that of one process."""
    command = ["eval", "pocket", "--suite", "geneval-pocket", "--limit", "3", "--steps", "1"]
    command += ["--images-per-prompt", "2", "--rewards", "jpeg", "--batch-size", "2"]
    both = [start(*command, "--out", "shared", environment=e) for e in environments(2)]
    ends = [one.finish() for one in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "".join(out for _, out, _ in ends).count("run: shared") == 1
    assert start(*command, "--out", "alone").finish()[0] == 0
    one, two = (
        {
            p.relative_to(tmp_path / n): p.read_bytes()
            for p in (tmp_path / n).rglob("*.*")
            if p.is_file()
        }
        for n in ("alone", "shared")
    )
    assert one == two and len(list((tmp_path / "shared").rglob("images/*.png"))) == 6


@pytest.mark.slow
def test_processes_that_ask_for_different_things_are_refused(start, tmp_path):
    command = ["eval", "pocket", "--suite", "geneval-pocket", "--limit", "2", "--rewards", "jpeg"]
    both = [
        start(*command, "--steps", str(1 + i), "--out", "run", environment=e)
        for i, e in enumerate(environments(2))
    ]
    for code, _, err in [one.finish() for one in both]:
        assert code == 2, err
        assert "the processes do not do the same: protocol of geneval-pocket is" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
