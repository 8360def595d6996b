"""Before and after of a training: one comparison, failed images counted, tasks weighed as the run says."""

import numpy as np
import pandas as pd
import pytest

from nftbench.runs.io import write_table
from nftbench.stats.intervals import SHARE, UNBOUNDED
from nftbench.stats.paired import Averaging, changes
from nftbench.training.callbacks.metrics_log import HELD_OUT, read_changes, write_averaging


def table(values: list[float]) -> pd.DataFrame:
    """Three images of task a, one of task b; each of its own prompt."""
    return pd.DataFrame(
        {
            "benchmark": "bench",
            "prompt_id": [f"p{i}" for i in range(4)],
            "tag": ["a", "a", "a", "b"],
            "image_index": 0,
            "geneval@pocket": values,
        }
    )


BEFORE, AFTER = table([0.0, 1.0, 2.0, 9.0]), table([1.0, np.nan, 4.0, 9.0])


def test_failed_images_are_counted_and_leave_their_pair():
    (found,) = changes(BEFORE, AFTER, {"bench": {"geneval@pocket": Averaging(within=UNBOUNDED)}})
    assert (found.before.value, found.before.n, found.before.n_failed) == (11 / 3, 3, 1)
    assert (found.after.n, found.after.n_failed) == (3, 1)
    assert found.difference.value == pytest.approx((1 + 2 + 0) / 3)
    assert (found.difference.n, found.difference.n_failed) == (3, 1)
    assert found.aggregate == "image mean"


def test_tasks_weigh_alike_where_the_run_says_so():
    (found,) = changes(
        BEFORE, AFTER, {"bench": {"geneval@pocket": Averaging(within=UNBOUNDED, by_task=True)}}
    )
    assert found.difference.value == pytest.approx(((1 + 2) / 2 + 0) / 2)
    assert found.aggregate == "task mean"


@pytest.mark.parametrize("within", [SHARE, UNBOUNDED])
@pytest.mark.parametrize("tasks", [True, False])
def test_what_is_read_of_a_run_is_what_the_run_computed(tmp_path, tasks, within):
    for name, one in (("before", BEFORE), ("after", AFTER)):
        write_table(tmp_path / HELD_OUT / f"{name}.parquet", one)
    metrics = {"bench": {"geneval@pocket": Averaging(within=within, by_task=tasks)}}
    write_averaging(tmp_path, metrics)
    found, computed = read_changes(tmp_path), changes(BEFORE, AFTER, metrics)
    assert repr(found) == repr(computed)  # NaN is not itself


def test_a_reward_that_failed_on_every_image_is_shown(tmp_path):
    lost = table([np.nan] * 4)
    (found,) = changes(lost, lost, {"bench": {"geneval@pocket": Averaging(within=UNBOUNDED)}})
    assert np.isnan(found.difference.value) and found.difference.n_failed == 4
