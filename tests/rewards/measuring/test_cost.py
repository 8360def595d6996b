"""What a reward costs: measured on rewards that are here, in this process and in others."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import rewards
from rewards.measuring.cost import (
    PROBES,
    Cost,
    Measurement,
    measure,
    measure_apart,
    probe_pictures,
    seeded,
    together,
)


def test_pictures_are_the_same_every_time_and_differ_from_each_other():
    pictures = probe_pictures(3, 64)
    assert pictures.shape == (3, 64, 64, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, probe_pictures(3, 64))
    assert np.array_equal(pictures[:2], probe_pictures(2, 64))
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert (pictures[0, 32, 9] == 255).all()  # the sign


def test_what_is_measured_is_the_reward():
    cost = measure(Measurement(keys=("jpeg",), images=5, size=64, batch_size=2))
    direct = rewards.load_reward("jpeg").score(probe_pictures(5, 64), [PROBES[0]] * 5)
    assert cost.scores == {"jpeg": direct.values.tolist()}
    assert cost.reason == "" and cost.seconds > 0
    assert np.isclose(cost.images_per_second * cost.seconds, 5)
    assert cost.memory > cost.own_memory >= 0


@pytest.mark.parametrize(
    ("keys", "said"), [(("jpg",), "did you mean 'jpeg'"), (("jpeg", "pickscor"), "unknown reward")]
)
def test_what_cannot_be_measured_says_why(keys, said):
    cost = measure(Measurement(keys=keys, images=1, size=64))
    assert said in cost.reason and cost.images_per_second == 0


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    missing = [k for k in rewards.available() if rewards.reward_info(k).files and "@" not in k]
    for key in missing:
        cost = measure(Measurement(keys=(key,), images=1, size=64))
        assert f"nftbench rewards pull {key}" in cost.reason


def test_the_sum_of_single_rewards():
    one = Cost(keys=("a",), seconds=2, images_per_second=4, memory=100, own_memory=10)
    two = Cost(keys=("b",), seconds=6, images_per_second=4 / 3, memory=200, own_memory=30)
    none = Cost(keys=("c",), reason="no weights")
    found = together([one, two, none])
    assert (found.keys, found.seconds, found.memory, found.own_memory) == (("a", "b"), 8, 300, 40)
    assert found.images_per_second == 1  # 8 pictures, both rewards, 8 seconds
    assert together([none]) == Cost(keys=())


def test_what_is_seeded_is_registered_and_every_large_network_is():
    known = seeded()
    assert set(known) <= set(rewards.available())
    for target in known.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
    with_files = {key for key in rewards.BUILT_IN if rewards.reward_info(key).files}
    assert with_files - {"geneval@mmdet"} - {k for k in with_files if k.startswith("ocr@")} <= set(
        known
    )


PEAK = """
import numpy as np
from rewards.measuring.cost import peak_memory
before = peak_memory()
filled = np.ones(30_000_000)
print(before, peak_memory() - before)
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_peak_memory_counts_what_is_filled_and_not_the_parents():
    held = np.ones(120_000_000)  # 960 MB in this process
    out = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, encoding="utf-8", check=True
    )
    before, more = map(int, out.stdout.split())
    assert before < held.nbytes
    assert 228e6 <= more < 300e6  # the system may have swapped out a part of what was there before


@pytest.mark.slow
@pytest.mark.thorough
def test_apart_two_that_share_a_network_take_less_than_their_sum():
    """Both look through the pocket world's one CLIP; the large ones are in tests/performance."""
    pair = ("clipscore@pocket", "geneval@pocket")
    amount = {"images": 2, "size": 64, "batch_size": 2}
    apart = [measure_apart(Measurement(keys=(key,), **amount)) for key in pair]
    assert [cost.reason for cost in apart] == ["", ""]
    both = measure_apart(Measurement(keys=pair, **amount))
    assert both.scores == apart[0].scores | apart[1].scores
    assert both.own_memory < together(apart).own_memory


@pytest.mark.slow
def test_apart_a_process_that_fails_is_a_reason():
    cost = measure_apart(Measurement(keys=("jpeg",), images=1, size=64, batch_size=0))
    assert cost.reason.startswith("its process ended with 1: ValueError")
