"""Leaderboards: what is replaced, kept to the byte, refused, and how it is ordered."""

import json
import math
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbench.reporting.leaderboard import board as leaderboard
from nftbench.reporting.leaderboard.board import (
    order,
    publish,
    rank,
    read,
)
from nftbench.reporting.leaderboard.site import build
from nftbench.runs.row_files import (
    COLUMNS,
    IDENTITY,
    Entry,
    encode,
    entry,
)
from nftbench.runs.rows import Row
from rewards.base import ConfigError
from rewards.certify import verdicts
from tests.helpers.runs.board_rows import PUBLISHED, ROW, row

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


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch):
    """Certificates that the project gains do not move what these tests write."""
    monkeypatch.setattr(verdicts, "folder", lambda: leaderboard.folder() / "none")


def test_a_row_comes_back_through_pandas(tmp_path):
    (path,) = publish([ROW], tmp_path)
    assert path == tmp_path / "geneval-pocket.csv"
    read = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    fields = [{k: v for k, v in record.items() if k != "digest"} for record in read]
    assert [Row.model_validate(record) for record in fields] == [ROW]


def test_publishing_twice_changes_nothing(tmp_path):
    rows = [ROW, row(aggregate="image_mean"), row(benchmark="ocr-pocket", variant="", metric="ocr")]
    paths = publish(rows, tmp_path)
    before = [p.read_bytes() for p in paths]
    assert publish(rows, tmp_path) == paths and [p.read_bytes() for p in paths] == before
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["geneval-pocket.csv", "ocr-pocket.csv"]


def test_a_later_number_replaces_the_old_one(tmp_path):
    publish([ROW, row(aggregate="image_mean")], tmp_path)
    (path,) = publish([row(value=0.7, n=484, n_failed=4)], tmp_path)
    table = pd.read_csv(path)
    assert table[["aggregate", "value", "n_failed"]].values.tolist() == [
        ["image_mean", ROW.value, 0],
        ["task_mean", 0.7, 4],
    ]


@pytest.mark.parametrize("field", sorted(set(IDENTITY) - {"benchmark"}))
def test_rows_that_differ_in_what_they_are_stand_side_by_side(tmp_path, field):
    publish([ROW], tmp_path)
    told = {"citation": "arXiv:1", "confidence": "A"} if field == "source" else {}
    (path,) = publish([row(**{field: OTHER[field]}, **told)], tmp_path)
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
        ({"n": None}, "no standard error"),
        ({"protocol": ""}, "no protocol hash"),
        ({"protocol": "nft-table1"}, "no protocol hash"),
        ({"value": math.inf}, "no finite value"),
        ({"n": 4, "n_failed": 484}, "failed on 484 of 488 images; at most 1% may be unscored"),
        ({"certificate": "differs"}, "certificate says that it differs"),
        (PUBLISHED | {"citation": ""}, "names no citation"),
        (PUBLISHED | {"confidence": ""}, "names no confidence"),
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


def test_a_published_row_needs_no_error_and_keeps_its_last_zero(tmp_path):
    (path,) = publish([ROW, row(**PUBLISHED, model="paper", value=0.9)], tmp_path)
    path.write_text(path.read_text("utf-8").replace(",0.9,", ",0.90,"), encoding="utf-8")
    publish([row(model="other")], tmp_path)
    found = read(path)[1]
    assert (found.value, found.row.value, found.row.n) == ("0.90", 0.9, None)
    assert math.isnan(found.row.stderr) and ",0.90,,,,,,,nft-table1," in path.read_text("utf-8")


numbers = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
name = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")))


@settings(max_examples=50)
@given(
    name,
    text,
    numbers,
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.integers(122, 10**9),
)
def test_any_row_comes_back(tmp_path_factory, model, said, value, stderr, n):
    path = tmp_path_factory.getbasetemp() / "geneval-pocket.csv"
    one = row(model=model, settings=said, value=value, stderr=stderr, n=n)
    path.write_bytes(encode([entry(one)]))
    assert [e.row for e in read(path)] == [one] and encode(read(path)) == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("value", "high", "valid number"),
        ("n", "12.5", "valid integer"),
        ("limited", "perhaps", "valid boolean"),
        ("source", "guessed", "'measured' or 'published'"),
        ("confidence", "D", "'a', 'b' or 'c'"),
        ("date", "yesterday", "valid date"),
    ],
)
def test_a_wrong_type_is_named_by_file_line_and_column(tmp_path, name, wrong, said):
    cells = list(entry(row(aggregate="image_mean")).cells)
    cells[COLUMNS.index(name)] = wrong
    path = tmp_path / "geneval-pocket.csv"
    path.write_bytes(encode([entry(row(settings="two\nlines")), Entry(ROW, tuple(cells))]))
    number = COLUMNS.index(name) + 1
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert f"{path}, line 4, column {number} ({name}): " in message and f"got {wrong!r}" in message
    assert said in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROW, row(limited=True, model="b")], "line 3: .* --limit"),
        (
            [row(benchmark="ocr-pocket")],
            "line 2: expected benchmark geneval-pocket, got ocr-pocket",
        ),
        ([ROW, row(model="b"), row(value=0.1)], "line 4: the same row as line 2"),
    ],
)
def test_a_row_that_may_not_stand_there_is_named_by_its_line(tmp_path, rows, said):
    path = tmp_path / "geneval-pocket.csv"
    path.write_bytes(encode([entry(r) for r in rows]))
    with pytest.raises(ConfigError, match=said):
        build(tmp_path / "site", None, tmp_path)
    assert not (tmp_path / "site").exists()


def test_the_certificate_of_a_reward_stands_beside_its_numbers(tmp_path):
    (tmp_path / "geneval@pocket.json").write_text(json.dumps({"verdict": "equal"}), "utf-8")
    (path,) = publish([ROW, row(metric="geneval:strict"), row(metric="jpeg")], tmp_path, tmp_path)
    assert [e.row.certificate for e in read(path)] == ["equal", "equal", ""]
    (tmp_path / "jpeg.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=r"jpeg\.json: expected JSON with a verdict"):
        publish([row(metric="jpeg", variant="")], tmp_path, tmp_path)


# --- order ----------------------------------------------------------------------------------------


def test_equals_share_a_place_and_the_next_is_left_out():
    values = [0.2, 0.9, 0.9, 0.1]
    entries = [entry(row(model=str(i), value=v)) for i, v in enumerate(values)]
    assert rank(entries) == [3, 1, 1, 4]
    assert rank([entry(e.row.model_copy(update={"metric": "ocr:spam"})) for e in entries]) == [
        2,
        3,
        3,
        1,
    ]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 4))))
def test_a_place_counts_the_better_ones_of_the_same_metric_and_protocol(cases):
    entries = [
        entry(row(model=str(i), metric=m, protocol=p, value=v)) for i, (m, p, v) in enumerate(cases)
    ]
    slow = [
        1 + len([1 for other in cases if other[:2] == case[:2] and other[2] > case[2]])
        for case in cases
    ]
    assert rank(entries) == slow
    ordered = order(entries)
    assert sorted(e.identity for e in ordered) == sorted(e.identity for e in entries)
    for a, b in pairwise(ordered):
        if (a.row.metric, a.row.protocol) == (b.row.metric, b.row.protocol):
            assert a.row.value >= b.row.value


def test_means_come_before_tasks():
    names = ["task:two_object", "image_mean", "task:colors", "task_mean"]
    found = order([entry(row(aggregate=a)) for a in names])
    assert [e.row.aggregate for e in found] == [
        "task_mean",
        "image_mean",
        "task:colors",
        "task:two_object",
    ]


# --- names and removal ----------------------------------------------------------------------------


def test_remove_takes_measured_rows_and_leaves_published_ones(tmp_path):
    other = row(protocol="000000000001")
    (path,) = publish([ROW, other, row(**PUBLISHED)], tmp_path)
    assert leaderboard.remove(ROW.benchmark, ROW.model, other.protocol, tmp_path) == 1
    assert leaderboard.remove(ROW.benchmark, ROW.model, where=tmp_path) == 1
    assert [e.row.source for e in read(path)] == ["published"]
    with pytest.raises(ConfigError, match="unknown model"):
        leaderboard.remove(ROW.benchmark, ROW.model, where=tmp_path)
    for name in ("drawbench", "../geneval-pocket", f"../{tmp_path.name}/geneval-pocket"):
        with pytest.raises(ConfigError, match=r"unknown leaderboard .*'geneval-pocket'|available"):
            leaderboard.remove(name, ROW.model, where=tmp_path)


def test_an_installed_package_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "folder", lambda: tmp_path / "nftbench" / "data" / "boards")
    with pytest.raises(ConfigError, match="--leaderboards DIR"):
        publish([ROW])
    assert not (tmp_path / "nftbench").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"low": 0.5}, "expected low <= value <= high"),
        ({"high": 0.2}, "expected low <= value <= high"),
        ({"stderr": -0.1}, "standard error of 0 or more"),
        ({"n": -1}, "expected n of 0 or more"),
        ({"n_failed": -1}, "expected n_failed of 0 or more"),
        ({"n": 12}, "no more prompts than images, got 122 of 12"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(tmp_path, changes, said):
    path = tmp_path / "geneval-pocket.csv"
    path.write_bytes(encode([entry(row(**changes))]))
    with pytest.raises(ConfigError, match=f"line 2: .*{said}"):
        build(tmp_path / "site", None, tmp_path)


def test_a_number_changed_by_hand_is_refused(tmp_path):
    (path,) = publish([ROW], tmp_path)
    path.write_text(path.read_text("utf-8").replace("0.30000000000000004", "0.9", 1), "utf-8")
    with pytest.raises(ConfigError, match=r"line 2: .*changed by hand"):
        build(tmp_path / "site", None, tmp_path)
    with pytest.raises(ConfigError, match=r"line 2: .*changed by hand"):
        publish([row(model="other")], tmp_path)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "'=", "''-"])
def test_no_cell_is_a_formula_and_every_text_comes_back(tmp_path, start):
    one = row(settings=f"{start}HYPERLINK(1)", model=f"{start.strip()}x")
    (path,) = publish([one], tmp_path)
    cells = read(path)[0].cells
    assert not [c for n, c in zip(COLUMNS, cells, strict=True) if c[:1] in set("=+@\t")]
    assert not cells[0].startswith("-") and read(path)[0].row.model == one.model
    assert read(path)[0].row.settings == one.settings


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "a\x00b", "a\u2028b"])
def test_a_name_is_one_line(name):
    with pytest.raises(ValueError, match="line breaks or control characters"):
        Row.model_validate(ROW.model_dump() | {"model": name})


ADD = """
from nftbench.reporting.leaderboard.board import publish
from tests.helpers.runs.board_rows import row
begin.wait()
for i in range(5):
    publish([row(model=f"{number}-{i}")], folder)
"""


def test_of_rows_added_at_once_none_is_lost(forks, tmp_path):
    begin = forks.Barrier(4)
    names = [{"begin": begin, "number": n, "folder": tmp_path} for n in range(4)]
    processes = [forks.Process(target=exec, args=(ADD, known)) for known in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(read(tmp_path / "geneval-pocket.csv")) == 20
