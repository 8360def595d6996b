"""A table of scored images to rows."""

import datetime
import math

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from nftbench.runs.rows import Provenance, Row, lost, summarise
from rewards.base import RewardInfo

ABOUT = Provenance(
    model="m",
    checkpoint="c",
    benchmark="b",
    protocol="p",
    limited=False,
    by_task=True,
    date=datetime.date(2026, 1, 2),
)
JUDGE = RewardInfo(
    name="geneval", variant="pocket", summary="", low=0, high=1, needs="geneval metadata"
)
SIZE = RewardInfo(name="jpeg", variant="", summary="", low=0, high=1)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "prompt_id": ["0", "0", "1", "1", "2", "2", "3", "3"],
            "tag": ["colors"] * 4 + ["position"] * 4,
            "geneval@pocket": np.array([1, 1, 0, 1, 0, 0, 0, np.nan], dtype=np.float32),
            "geneval@pocket:strict": np.array([1, 0, 0, 0, 0, 0, 0, np.nan], dtype=np.float32),
            "geneval@pocket:reason": [""] * 7 + ["unreadable image"],
            "geneval@pocket:evidence": ["{}"] * 8,
            "jpeg": np.arange(8, dtype=np.float32),
        }
    )


def picked(rows, *fields):
    return [tuple(getattr(row, f) for f in fields) for row in rows]


def test_tasks_means_and_sub_scores(table):
    rows = summarise(table, [JUDGE], ABOUT)
    assert picked(rows, "metric", "aggregate", "value", "n", "n_failed", "n_prompts") == [
        ("geneval", "task:colors", 0.75, 4, 0, 2),
        ("geneval", "task:position", 0.0, 3, 1, 2),
        ("geneval", "task_mean", 0.375, 7, 1, 4),
        ("geneval", "image_mean", pytest.approx(3 / 7), 7, 1, 4),
        ("geneval:strict", "task_mean", 0.125, 7, 1, 4),
        ("geneval:strict", "image_mean", pytest.approx(1 / 7), 7, 1, 4),
    ]
    assert {(r.model, r.checkpoint, r.benchmark, r.variant, r.protocol) for r in rows} == {
        ("m", "c", "b", "pocket", "p")
    }


def test_a_reward_of_text_has_one_mean(table):
    (row,) = summarise(table, [SIZE], ABOUT)
    assert (row.metric, row.variant, row.aggregate, row.value) == ("jpeg", "", "image_mean", 3.5)


def test_no_tasks_where_none_are_wanted(table):
    fields = {f: getattr(ABOUT, f) for f in Provenance.__dataclass_fields__} | {"by_task": False}
    rows = summarise(table, [JUDGE], Provenance(**fields))
    assert picked(rows, "metric", "aggregate") == [
        ("geneval", "image_mean"),
        ("geneval:strict", "image_mean"),
    ]


def test_a_judge_that_failed_everywhere_is_nan(table):
    table["geneval@pocket"] = np.float32(np.nan)
    rows = [r for r in summarise(table, [JUDGE], ABOUT) if r.metric == "geneval"]
    assert len(rows) == 4 and all(math.isnan(r.value) and r.n == 0 for r in rows)
    assert [r.n_failed for r in rows] == [4, 4, 8, 8]


def test_the_same_rewards_variants_are_kept_apart(table):
    """`jpeg` and `jpeg@compressibility` share a name; no column of one is a part of the other."""
    other = RewardInfo(name="jpeg", variant="compressibility", summary="", low=0, high=1)
    table["jpeg@compressibility"] = -table["jpeg"]
    rows = summarise(table, [SIZE, other], ABOUT)
    assert picked(rows, "metric", "variant", "value") == [
        ("jpeg", "", 3.5),
        ("jpeg", "compressibility", -3.5),
    ]


def test_order_is_that_of_the_rewards(table):
    metrics = [r.metric for r in summarise(table, [SIZE, JUDGE], ABOUT)]
    assert list(dict.fromkeys(metrics)) == ["jpeg", "geneval", "geneval:strict"]


def test_a_row_refuses_what_it_does_not_know(table):
    (row,) = summarise(table, [SIZE], ABOUT)
    with pytest.raises(ValidationError, match="extra"):
        Row(**row.model_dump(), speed=3)
    with pytest.raises(ValidationError, match="source"):
        Row(**row.model_dump() | {"source": "guessed"})


def test_of_a_lost_task_the_row_has_no_mean(table):
    table.loc[table["tag"] == "position", "geneval@pocket"] = np.float32(np.nan)
    rows = {r.aggregate: r for r in summarise(table, [JUDGE], ABOUT) if r.metric == "geneval"}
    mean = rows["task_mean"]
    assert all(math.isnan(x) for x in (mean.value, mean.low, mean.high))
    assert (mean.n, mean.n_failed) == (4, 4)
    assert rows["image_mean"].value == rows["task:colors"].value == 0.75


def test_a_lost_task_leaves_no_task_mean():
    """Half a benchmark is another benchmark: its tasks' mean is not given under the name of the whole."""
    values, tags = np.array([1.0, 0.0, np.nan, np.nan]), np.array(["a", "a", "b", "b"])
    assert lost(values, tags) == ["b"]
    assert lost(np.array([1.0, 0.0, np.nan, 0.5]), tags) == []
