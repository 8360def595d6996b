"""Images of a run where the memory does not do, and by several processes."""

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


def memory_for(most: int, asked: list[int]):
    def drawing(pipeline, batch, settings):
        asked.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return generate(pipeline, batch, settings)

    return drawing


def test_where_the_memory_does_not_do_fewer_are_made_at_once(
    work, policy, tmp_path, monkeypatch, caplog
):
    asked: list[int] = []
    monkeypatch.setattr(images, "generate", memory_for(1, asked))
    run = Run(tmp_path / "run")
    images.make_images(run, work, policy, lambda *_: None)
    assert asked == [3, 2, 1, 1, 1, 1, 1, 1]  # what does not do is not tried again
    assert [r.message for r in caplog.records] == [
        f"out of memory: continuing with {n} images at once" for n in (2, 1)
    ]
    for sample in work.samples:
        (alone,) = generate(policy.pipeline, [sample], work.settings)
        kept = np.asarray(Image.open(run.image_path(work.name, sample)))
        np.testing.assert_array_equal(kept, alone)


def test_where_it_does_not_do_for_one_the_remedy_is_one_line(work, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "generate", memory_for(0, []))
    with pytest.raises(ConfigError, match=r"one image at once \(CUDA out of memory\); choose a"):
        images.make_images(Run(tmp_path / "run"), work, policy, lambda *_: None)
    assert not list(tmp_path.rglob("*.png"))


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
