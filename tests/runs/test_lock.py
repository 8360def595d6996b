"""One owner a folder, in real second processes: refused by name, waited for, and let go of by the dead."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nftbench.runs.io import sweep, temporary_path
from nftbench.runs.lock import hold, refuse_held_parts
from rewards.base import ConfigError

HOLDER = """
import sys, time
from pathlib import Path
from nftbench.runs.lock import hold
sys.argv = ["nftbench", "eval", "pocket"]
with hold(Path({folder!r}), part={part!r}, brief={brief}):
    print("held", flush=True)
    sys.stdin.readline()
"""


def child(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.fixture
def held(tmp_path):
    """`held(part="", brief=False)`: another process that holds `tmp_path / "run"`."""
    started = []

    def start(part: str = "", brief: bool = False) -> subprocess.Popen:
        folder = str(tmp_path / "run")
        started.append(child(HOLDER.format(folder=folder, part=part, brief=brief)))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_in_use_is_refused_with_who_holds_it(held, tmp_path):
    other = held()
    with (
        pytest.raises(ConfigError, match=rf"process {other.pid} \(nftbench eval pocket, since 2"),
        hold(tmp_path / "run"),
    ):
        pytest.fail("both hold it")


def test_one_process_cannot_hold_it_twice(tmp_path):
    with (
        hold(tmp_path),
        pytest.raises(ConfigError, match=f"process {os.getpid()}"),
        hold(tmp_path),
    ):
        pytest.fail("both hold it")


def test_the_dead_let_go(held, tmp_path):
    other = held()
    other.send_signal(signal.SIGKILL)
    other.wait()
    with hold(tmp_path / "run"):
        pass
    assert not list((tmp_path).iterdir()) or not list((tmp_path / "run").iterdir())


def test_nothing_is_left_of_a_lock(tmp_path):
    with hold(tmp_path / "new" / "run"):
        assert (tmp_path / "new" / "run").is_dir()
    assert not (tmp_path / "new" / "run").exists()
    (tmp_path / "old").mkdir()
    with hold(tmp_path / "old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []


def test_a_moment_is_waited_for(held, tmp_path):
    other = held(brief=True)
    start = time.monotonic()
    later = child(
        "import time, sys; from pathlib import Path; from nftbench.runs.lock import hold\n"
        f"with hold(Path({str(tmp_path / 'run')!r})): print('got it', flush=True)"
    )
    time.sleep(1)
    assert later.poll() is None
    other.communicate("\n")
    assert later.communicate()[0] == "got it\n" and time.monotonic() - start > 1


def test_parts_are_held_apart_and_stop_the_whole(held, tmp_path):
    held(part="jpeg")
    with hold(tmp_path / "run", part="ocr@rapidocr"):
        pass
    with pytest.raises(ConfigError, match="in use by process"), hold(tmp_path / "run", part="jpeg"):
        pytest.fail("both hold it")
    with hold(tmp_path / "run"), pytest.raises(ConfigError, match="in use by process"):
        refuse_held_parts(tmp_path / "run")


@pytest.mark.slow
def test_of_many_that_merge_at_once_none_is_lost(tmp_path):
    code = (
        "from pathlib import Path; from nftbench.runs.lock import hold\n"
        f"path = Path({str(tmp_path)!r}) / 'sum'\n"
        "for _ in range(20):\n"
        "    with hold(path.parent, brief=True):\n"
        "        path.write_text(str(int(path.read_text() if path.exists() else 0) + 1))\n"
    )
    processes = [child(code) for _ in range(4)]
    assert [p.wait() for p in processes] == [0] * 4
    assert (tmp_path / "sum").read_text() == "80"
    for p in processes:
        p.communicate()


@pytest.mark.slow
def test_names_are_claimed_by_one(tmp_path):
    code = (
        "from pathlib import Path; from nftbench.runs.lock import new_folder\n"
        f"print(*[new_folder(Path({str(tmp_path)!r}), 'train').name for _ in range(10)])"
    )
    processes = [child(code) for _ in range(3)]
    names = [name for p in processes for name in p.communicate()[0].split()]
    assert sorted(names, key=lambda n: int(n[6:])) == [f"train-{i}" for i in range(1, 31)]


def test_only_what_the_dead_left_is_swept(held, tmp_path):
    living, dead = held(), child("")
    dead.communicate()
    mine = temporary_path(tmp_path / "a.png")

    def of(process: subprocess.Popen) -> Path:
        return mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))

    far = mine.with_name(mine.name.replace(".nftbench-", ".nftbench-elsewhere."))
    own = tmp_path / ".notes.1234.tmp"
    for path in (mine, of(living), of(dead), far, own):
        path.write_bytes(b"x")
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {of(living).name, far.name, own.name, "run"}


def test_a_link_in_the_place_of_a_lock_is_never_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock.json").symlink_to(tmp_path / "mine")
    with hold(run):
        assert (tmp_path / "mine").read_text() == "precious"
    (run / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"\.lock is a link or a folder"), hold(run):
        pass
    assert (tmp_path / "mine").read_text() == "precious"
