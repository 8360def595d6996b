"""The script for a GPU, run in little on a CPU: what it measures is there, and is a number; the minutes are kept."""

import math

import pytest

from tests.gpu.sd35 import SMALL_REWARDS, measured

pytestmark = pytest.mark.slow


def test_the_same_script_in_little():
    said = []
    found = measured(True, 10, said.append)
    assert len(said) == 2 and found["small"]
    drawn = found["evaluation"]
    assert set(drawn["rewards_per_second"]) == set(SMALL_REWARDS.split(","))
    numbers = [drawn["images_per_second"], drawn["peak_gb"], found["weights_gb"]]
    numbers += [*drawn["rewards_per_second"].values()]
    numbers += [found["iteration"]["seconds"], found["iteration"]["peak_gb"]]
    assert all(math.isfinite(n) and n > 0 for n in numbers)


def test_what_the_minutes_do_not_do_for_is_named():
    found = measured(True, 0, lambda line: None)
    assert found["evaluation"] == found["iteration"] == "not finished within 0 minutes"
