"""`--out` at places that take nothing, whatever command writes there: one line that names the place, at once."""

import os
from pathlib import Path

import pytest

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
