"""`--out` at places that take nothing, whatever command writes there: one line that names the place, at once."""

import os
from pathlib import Path

import pytest
from PIL import Image

from nftbench.runs import lock
from tests.helpers.commands import run_here
from tests.helpers.runs.made_runs import evaluation

AVERAGE = ("average", "pocket-nft", "pocket-flowgrpo", "--out", "/proc/x")
PROC = Path("/proc/self").exists()


@pytest.mark.skipif(not PROC, reason="no /proc on this system")
@pytest.mark.parametrize(
    "command",
    [
        ("recipes", "--out", "/proc/x.csv"),
        ("table", "pocket-table1", "--out", "/proc/x"),
        ("report", "a", "--out", "/proc/x"),
        ("pocket", "build", "--work", "/proc/x"),
        pytest.param(AVERAGE, marks=pytest.mark.slow),
    ],
)
def test_a_file_system_that_takes_no_files_says_that_there_is_none(tmp_path, command):
    evaluation(tmp_path / "a", ["a red star"])
    code, said = run_here(tmp_path, *command)
    assert code == 2 and f"cannot write {command[-1]}: Permission denied" in said, said
    assert said.count("\n") == 1 + said.count("reading ")


@pytest.mark.skipif(not PROC, reason="no /proc on this system")
def test_a_folder_that_takes_no_lock_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL", 0.0)
    monkeypatch.setattr(lock, "PATIENCE", 1.0)
    with pytest.raises(PermissionError, match="/proc"), lock.hold(Path("/proc")):
        pytest.fail("held")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes of this kind on this system")
def test_no_file_takes_the_place_of_a_device(tmp_path):
    """As /dev/null is one, which a file written by root would replace for everybody."""
    os.mkfifo(tmp_path / "pipe.csv")
    code, said = run_here(tmp_path, "recipes", "--out", "pipe.csv")
    assert code == 2 and "pipe.csv is a device or a pipe; expected the path of a file" in said
    assert (tmp_path / "pipe.csv").is_fifo()


def test_the_place_is_named_and_not_the_file_that_is_made_beside_it(tmp_path):
    (tmp_path / "mine.csv").mkdir()
    (tmp_path / "file").write_text("")
    for out, why in (("mine.csv", "Is a directory"), ("file/x.csv", "Not a directory")):
        code, said = run_here(tmp_path, "recipes", "--out", out)
        assert code == 2 and said.startswith(f"nftbench: cannot write {out}: {why}; "), said


def test_what_a_link_stands_for_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "prompt": "a cat"}\n', "utf-8")
    commands = (("recipes",), ("score", "list.jsonl", "--rewards", "jpeg"))
    for number, command in enumerate(commands):
        out = f"{number}.csv"
        (tmp_path / out).symlink_to(f"disk/{out}")
        code, said = run_here(tmp_path, *command, "--out", out)
        assert code == 0 and (tmp_path / out).is_symlink(), said
        assert (tmp_path / "disk" / out).is_file()


@pytest.mark.parametrize(
    "command",
    [
        ("report", "a"),
        pytest.param(("average", "pocket-nft", "pocket-flowgrpo"), marks=pytest.mark.slow),
    ],
)
def test_a_folder_that_a_link_stands_for_is_filled_and_the_link_stays(tmp_path, command):
    evaluation(tmp_path / "a", ["a red star"])
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    code, said = run_here(tmp_path, *command, "--out", "out")
    assert code == 0 and (tmp_path / "out").is_symlink() and any((tmp_path / "disk").iterdir()), (
        said
    )


def test_a_link_to_a_folder_that_is_not_there_is_said_to_be_one(tmp_path):
    (tmp_path / "runs").symlink_to("disk/that/is/not/there")
    command = ("eval", "pocket", "--suite", "ocr-pocket", "--limit", "1", "--steps", "1")
    code, said = run_here(tmp_path, *command, "--rewards", "jpeg", "--out", "runs")
    assert code == 2 and "runs is a link to disk/that/is/not/there, which is not there" in said
    assert not (tmp_path / "disk").exists()


@pytest.mark.skipif(not PROC, reason="no /proc on this system")
def test_a_cache_that_takes_no_folder_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", "/proc/x")
    code, said = run_here(tmp_path, "rewards", "pull", "hpsv2")
    assert code == 2 and "point NFTBENCH_CACHE (of data: NFTBENCH_DATA) at a folder" in said, said
