"""The run folder: files whole or absent, images that come back, and what is not an image."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest

from nftbench.benchmark.samples import Sample
from nftbench.runs import run_folder as store
from nftbench.runs.io import (
    as_frame,
    read_table,
    temporary_path,
    whole_folder,
    write_atomic,
    write_table,
)
from nftbench.runs.run_folder import Run, score_table
from rewards.base import ConfigError, Prompt, Scores
from rewards.images.pixels import read_picture

SAMPLES = [Sample(Prompt(id=f"{i:04d}", text="x"), 0) for i in range(3)]


def full(*_arguments, **_more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(path: Path, data: bytes) -> int:
    """A disk that fills up in the middle of a file."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    return full()


# --- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "fault"), [("replace", full), ("write_bytes", half)])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, method, fault, before):
    path = tmp_path / "folder" / "file"
    if before:
        write_atomic(path, before)
    monkeypatch.setattr(Path, method, fault)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new content")
    assert [p.name for p in path.parent.iterdir()] == (["file"] if before else [])
    assert not before or path.read_bytes() == before


def test_a_write_that_is_interrupted_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupted(path, data):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_write_replaces(tmp_path):
    for content in (b"one", b"", b"three"):
        write_atomic(tmp_path / "a" / "b" / "file", content)
        assert (tmp_path / "a" / "b" / "file").read_bytes() == content
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_equal_tables_are_equal_files(tmp_path):
    table = pd.DataFrame({"key": ["a", "b"], "jpeg": np.array([1.5, np.nan], np.float32)})
    write_table(tmp_path / "one.parquet", table)
    write_table(tmp_path / "two.parquet", table.copy())
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet"), table)


# --- images ---------------------------------------------------------------------------------------


def test_images_come_back_to_the_last_level(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    run = Run(tmp_path)
    assert run.made("b", 0, SAMPLES[:2], "ab12 hash") == ["", ""]
    run.save_images("b", 0, SAMPLES[:2], pixels, "ab12 hash")
    made = run.made("b", 0, SAMPLES, "ab12 hash")
    assert made == [*(run.image_digest("b", s) for s in SAMPLES[:2]), ""] and all(made[:2])
    assert run.image_path("b", SAMPLES[0]) == tmp_path / "b" / "images" / "0000-00.png"
    np.testing.assert_array_equal(read_picture(run.image_path("b", SAMPLES[1])).pixels, pixels[1])


def test_images_of_another_origin_are_not_this_runs(tmp_path):
    run, pixels = Run(tmp_path), np.zeros((1, 8, 8, 3), np.uint8)
    run.save_images("b", 0, SAMPLES[:1], pixels, "ab12 hash")
    assert run.made("b", 0, SAMPLES[:1], "cd34 hash") == [""]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"origin": "o", "images": 3}', b"\xff"])
def test_broken_digests_say_nothing(tmp_path, damage):
    run, pixels = Run(tmp_path), np.zeros((1, 8, 8, 3), np.uint8)
    run.save_images("b", 0, SAMPLES[:1], pixels, "o")
    run.digests_path("b", 0).write_bytes(damage)
    assert run.made("b", 0, SAMPLES[:1], "o") == [""]


# --- scores ---------------------------------------------------------------------------------------


SCORES = Scores(
    values=np.array([0.5, np.nan, 1], np.float32),
    reasons=("", "unreadable", ""),
    parts={"strict": np.array([0, np.nan, 1])},
    evidence=({"ä": 1}, {}, {"b": [2]}),
)
BOUND = {
    "key": [s.key for s in SAMPLES],
    "sha256": ["00", "", "22"],
    "prompt": ["x", "x", "x"],
    "scorer": ["me"] * 3,
}


def test_scores_become_columns_and_come_back(tmp_path):
    run, wanted = Run(tmp_path), score_table("judge@x", SAMPLES, SCORES)
    run.save_scores("b", "judge@x", 3, wanted, BOUND)
    for one in (run, Run(tmp_path)):  # who wrote them does not read them again
        found = one.batch_scores("b", "judge@x", 3, BOUND)
        anyone = {column: texts for column, texts in BOUND.items() if column != "scorer"}
        for same in (found, one.batch_scores("b", "judge@x", 3, anyone)):
            assert same is not None and repr(same.to_pydict()) == repr(wanted.to_pydict())
    table = as_frame(found)
    assert table["judge@x:evidence"].tolist() == ['{"ä": 1}', "{}", '{"b": [2]}']
    assert table["judge@x:reason"].tolist() == ["", "unreadable", ""]
    assert table["judge@x:strict"].dtype == np.float32


@pytest.mark.parametrize("column", ["key", "sha256", "prompt", "scorer"])
def test_scores_of_another_image_prompt_or_scorer_are_not_these(tmp_path, column):
    run = Run(tmp_path)
    run.save_scores("b", "judge@x", 0, score_table("judge@x", SAMPLES, SCORES), BOUND)
    other = {**BOUND, column: ["other", *BOUND[column][1:]]}
    for one in (run, Run(tmp_path)):
        assert one.batch_scores("b", "judge@x", 0, other) is None


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:200], lambda b: b"PAR1" + b[4:40]])
def test_broken_scores_are_none(tmp_path, damage):
    run = Run(tmp_path)
    run.save_scores("b", "judge@x", 0, score_table("judge@x", SAMPLES, SCORES), BOUND)
    path = run.scores_path("b", "judge@x", 0)
    path.write_bytes(damage(path.read_bytes()))
    assert Run(tmp_path).batch_scores("b", "judge@x", 0, BOUND) is None
    write_table(path, pd.DataFrame({"other": [1]}))
    assert Run(tmp_path).batch_scores("b", "judge@x", 0, BOUND) is None


def test_any_evidence_and_any_reason_can_be_stored(tmp_path):
    """Of a third party's reward: half characters, objects, rings, a depth that nobody reads."""
    deep: list = []
    for _ in range(200_000):
        deep = [deep]
    ring: dict = {}
    ring["me"] = ring
    odd = ({"a": "\ud800"}, {"b": np.float32(1), "c": Path("x")}, {"d": deep}, ring)
    scores = Scores(values=np.full(4, np.nan, np.float32), reasons=("\udfff",) * 4, evidence=odd)
    table = score_table("odd", [SAMPLES[0]] * 4, scores)
    write_table(tmp_path / "a.parquet", table)
    assert pd.read_parquet(tmp_path / "a.parquet")["odd:reason"][0] == "\\udfff"
    assert "unreadable evidence" in table["odd:evidence"][2].as_py()


# --- manifest -------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"not a run: .* holds no manifest\.json"):
        Run.open(tmp_path)
    assert Run(tmp_path).manifest == {}


MADE = {
    "rewards": {"b": {}},
    "protocols": {"b": {}},
    "checkpoint": {"name": "ä", "digest": "00"},
    "batch_size": 7,
    "versions": {},
}


def test_a_manifest_comes_back(tmp_path):
    run = Run(tmp_path / "new")
    run.save_manifest(MADE)
    assert Run.open(tmp_path / "new").manifest == MADE
    assert [p.name for p in (tmp_path / "new").iterdir()] == [store.MANIFEST]


def test_a_table_comes_back_whatever_its_columns_hold(tmp_path):
    mixed = pd.Series([np.float32(0.1), None, np.float64(2)], dtype=object)
    flags = pd.Series([np.bool_(True), None, False], dtype=object)
    numbers = {"i": [1, 2, 3], "h": np.array([0.1, np.inf, -0.0], np.float16), "b": [True] * 3}
    table = pd.DataFrame({"m": mixed, "f": flags, "t": ["ä", None, ""], **numbers})
    for some in (table, table[:0]):
        write_table(tmp_path / "t.parquet", some)
        assert len(read_table(tmp_path / "t.parquet", remedy="")) == len(some)


def test_a_flipped_bit_never_gives_another_value(tmp_path):
    values = np.array([0.5, np.nan, 0.25], np.float32)
    path, columns = tmp_path / "t.parquet", {"n": [1, 2, 3], "why": ["", "gone", ""]}
    write_table(path, pd.DataFrame({"key": ["a", "b", "c"], "jpeg": values, **columns}))
    data, whole, refused = path.read_bytes(), read_table(path, remedy=""), 0
    place = data.index(np.float32(0.25).tobytes())
    for i in [*range(4, len(data), 61), *range(place, place + 4)]:
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
        try:
            assert read_table(path, remedy="").equals(whole), i
        except ConfigError:
            refused += 1
    assert refused > 10 and not whole.attrs


def test_a_value_changed_by_pandas_is_damage(tmp_path):
    """It takes the note of the content along; a note that is none says nothing."""
    path = tmp_path / "t.parquet"
    write_table(path, pd.DataFrame({"key": ["a"], "jpeg": [0.5]}))
    pd.read_parquet(path).assign(jpeg=1.0).to_parquet(path, index=False)
    with pytest.raises(ConfigError, match="is damaged: it holds other values than were written"):
        read_table(path, remedy="")
    odd = pyarrow.table({"jpeg": [1.0]}).replace_schema_metadata({b"PANDAS_ATTRS": b"[]"})
    pyarrow.parquet.write_table(odd, path)
    assert read_table(path, remedy="")["jpeg"].tolist() == [1.0]


def test_a_sample_table_that_this_run_did_not_write_is_refused(tmp_path):
    run = Run(tmp_path)
    run.save_manifest(MADE)
    table = pd.DataFrame({column: ["x"] for column in store.SAMPLE_COLUMNS} | {"jpeg": 1.5})
    write_table(run.samples_path("b"), table)
    assert run.read_samples("b")["jpeg"].tolist() == [1.5]  # a run from before it was noted
    run.seal("b")
    assert run.read_samples("b")["jpeg"].tolist() == [1.5]
    write_table(run.samples_path("b"), table.assign(jpeg=2.5))
    with pytest.raises(
        ConfigError, match=r"not the table that this run wrote; run: nftbench score"
    ):
        run.read_samples("b")
    assert run.read_samples("b", sealed=False)["jpeg"].tolist() == [2.5]  # to say what differs


WRONG = [
    ("rewards", []), ("rewards", {"b": []}), ("rewards", {"b": {"jpeg": 3}}),
    ("variant", {"b": {"jpeg": {"name": "jpeg"}}}), ("rewards", {"../../etc": {}}),
    ("protocols", "x"), ("protocols", {"b": None}), ("protocols", {"/etc": {}}),
    ("checkpoint", "x"), ("checkpoint", {"name": 3, "digest": "0"}), ("checkpoint", {}),
    ("batch_size", 0), ("batch_size", "7"), ("batch_size", None), ("batch_size", True),
    ("versions", []), ("versions", {"torch": 2}), ("kind", "train"), ("date", "yesterday"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_manifest_of_wrong_types_is_refused_in_one_line(tmp_path, field, value):
    run = Run(tmp_path)
    named = "rewards" if field == "variant" else field
    run.save_manifest(MADE | {named: value})
    with pytest.raises(ConfigError, match=field):
        _ = run.manifest


def test_a_manifest_that_was_damaged_is_refused(tmp_path):
    run = Run(tmp_path)
    run.save_manifest(MADE)
    text = (tmp_path / "manifest.json").read_text("utf-8")
    (tmp_path / "manifest.json").write_text(
        text.replace('"batch_size": 7', '"batch_size": 6'), "utf-8"
    )
    with pytest.raises(ConfigError, match=r"manifest\.json was changed since nftbench wrote it"):
        _ = run.manifest


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"rewards": {}}'])
def test_a_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        _ = Run(tmp_path).manifest


# --- folders --------------------------------------------------------------------------------------


def test_what_a_dead_process_left_of_this_folder_is_swept_and_a_users_own_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_path(tmp_path / "made")
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    others = temporary_path(tmp_path / "another")
    kept = [tmp_path / "made.old", others, mine.with_name(".made.tmp")]
    for folder in (dead, *kept):
        folder.mkdir()
    with whole_folder(tmp_path / "made", aside=".{name}.aside") as made:
        (made / "file").write_text("first")
    assert not dead.exists() and all(folder.exists() for folder in kept)
