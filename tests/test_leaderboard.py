"""Publishing: what is replaced, what is kept to the byte, what is refused."""

import datetime
import math

import pandas as pd
import pytest

from nftbench import leaderboard
from nftbench.leaderboard import IDENTITY, publish
from nftbench.rows import Row
from rewards.base import ConfigError

ROW = Row(
    model="pocket",
    checkpoint="0123456789012345",
    benchmark="geneval-pocket",
    metric="geneval",
    variant="pocket",
    aggregate="task_mean",
    value=0.1 + 0.2,
    stderr=1 / 3,
    low=0.30000000000000004 - 2 / 3,
    high=0.9666666666666667,
    n=488,
    n_failed=0,
    n_prompts=122,
    protocol="00e123456789",
    limited=False,
    version="0.10",
    date=datetime.date(2026, 1, 2),
)
OTHER = {
    "model": "pocket+lora=x",
    "checkpoint": "0123456789012346",
    "metric": "clipscore",
    "variant": "",
    "aggregate": "task:colors",
    "protocol": "000000000001",
    "source": "published",
}
"""Another value of each field that tells rows apart; the benchmark names the file."""


def row(**changes) -> Row:
    return ROW.model_copy(update=changes)


def test_a_row_comes_back_through_pandas(tmp_path):
    (path,) = publish([ROW], tmp_path)
    assert path == tmp_path / "geneval-pocket.csv"
    read = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    assert [Row.model_validate(record) for record in read] == [ROW]


def test_publishing_twice_changes_nothing(tmp_path):
    rows = [ROW, row(aggregate="image_mean"), row(benchmark="ocr-pocket", variant="", metric="ocr")]
    paths = publish(rows, tmp_path)
    before = [p.read_bytes() for p in paths]
    assert publish(rows, tmp_path) == paths and [p.read_bytes() for p in paths] == before
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["geneval-pocket.csv", "ocr-pocket.csv"]


def test_a_later_number_replaces_the_old_one(tmp_path):
    publish([ROW, row(aggregate="image_mean")], tmp_path)
    (path,) = publish([row(value=0.7, n=480, n_failed=8)], tmp_path)
    table = pd.read_csv(path)
    assert table[["aggregate", "value", "n_failed"]].values.tolist() == [
        ["image_mean", ROW.value, 0],
        ["task_mean", 0.7, 8],
    ]


@pytest.mark.parametrize("field", sorted(set(IDENTITY) - {"benchmark"}))
def test_rows_that_differ_in_what_they_are_stand_side_by_side(tmp_path, field):
    publish([ROW], tmp_path)
    (path,) = publish([row(**{field: OTHER[field]})], tmp_path)
    assert len(pd.read_csv(path)) == 2


def test_other_rows_are_kept_to_the_byte(tmp_path):
    """Seventeen digits, leading zeros, a version like a number: nothing is read as something else."""
    (path,) = publish([ROW], tmp_path)
    line = path.read_text("utf-8").splitlines()[1]
    assert "0.30000000000000004" in line and ",00e123456789," in line and ",0.10," in line
    for value in (0.1, 0.2):
        publish([row(model="other", value=value)], tmp_path)
    assert path.read_text("utf-8").splitlines()[1] == line


def test_a_comma_in_a_name_survives(tmp_path):
    (path,) = publish([row(model='a,"b"|c')], tmp_path)
    publish([ROW], tmp_path)
    assert pd.read_csv(path)["model"].tolist() == ['a,"b"|c', "pocket"]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"limited": True}, "--limit"),
        ({"stderr": math.nan}, "no standard error"),
        ({"stderr": math.inf}, "no standard error"),
        ({"n": 0, "n_failed": 4, "value": math.nan}, r"n = 0, 4 failed"),
    ],
)
def test_what_may_not_be_published_leaves_nothing(tmp_path, changes, wrong):
    with pytest.raises(ConfigError, match=wrong) as caught:
        publish([ROW, row(benchmark="ocr-pocket", metric="ocr", **changes)], tmp_path)
    assert "ocr-pocket ocr (task_mean)" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("stderr", "error", 1),
        lambda text: text.replace("n_failed,", "", 1),
        lambda text: "",
        lambda text: text + "a,b,c\n" + "x," * 40 + "\n",
    ],
    ids=["renamed", "removed", "empty", "ragged"],
)
def test_a_hand_edited_table_is_refused_and_left_alone(tmp_path, edit):
    path = tmp_path / "ocr-pocket.csv"
    (made,) = publish([row(benchmark="ocr-pocket")], tmp_path)
    assert made == path
    path.write_text(edit(path.read_text("utf-8")), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"ocr-pocket\.csv"):
        publish([ROW, row(benchmark="ocr-pocket")], tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["ocr-pocket.csv"]  # neither table was touched


def test_what_is_committed_can_be_added_to(tmp_path):
    for path in leaderboard.folder().glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        publish([row(benchmark=path.stem, model="a model nobody has")], tmp_path)
        lines = (tmp_path / path.name).read_text("utf-8").splitlines()
        assert lines[:-1] == path.read_text("utf-8").splitlines()
