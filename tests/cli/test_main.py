"""The commands as a user meets them: exit codes, one line for an error, nothing left behind."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nftbench.cli.main import main
from tests.helpers.commands import run_here

SMALL = ["--suite", "geneval-pocket", "--limit", "2", "--steps", "1", "--rewards", "jpeg"]


def error_of(command) -> str:
    """The one line that a command which was refused says."""
    code, out, err = command.finish()
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("nftbench: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


def pictures(folder, *levels: int) -> list[dict[str, str]]:
    """Plain pictures and the lines of a list that names them."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i, level in enumerate(levels):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(folder / f"{i}.png")
        lines.append({"image": f"{i}.png", "prompt": 'a sign that says "KITE"'})
    return lines


def write_list(folder, lines) -> str:
    path = folder / "images.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(path)


# --- help and lists -------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = """
import sys
from nftbench.cli.main import main
for arguments in (["--help"], ["eval", "--help"], ["pocket", "--help"]):
    sys.argv = ["nftbench", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
heavy = {"torch", "diffusers", "transformers", "pandas", "scipy", "PIL", "onnxruntime"}
print("heavy:", heavy & set(sys.modules))
"""
    wide = {**os.environ, "COLUMNS": "100"}  # in a narrow window, help cuts the names of flags
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=wide
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith("heavy: set()\n")
    assert all(word in done.stdout for word in ("eval", "score", "doctor", "--guidance-scale"))


@pytest.mark.slow
def test_lists(start):
    code, out, err = start("benchmarks").finish()
    assert (code, err) == (0, "")
    assert all(word in out for word in ("geneval-pocket", "122 x 4", "ocr-pocket", "72 x 2"))
    code, out, err = start("rewards").finish()
    assert (code, err) == (0, "")
    assert all(word in out for word in ("ocr@rapidocr", "geneval@pocket", "jpeg", "0 to 1"))


@pytest.mark.slow
def test_a_locale_without_unicode_ends_no_command(python, tmp_path):
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    command = [*python, "table", "table1"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | plain, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    said = " ".join(done.stdout.decode("ascii").split())
    assert "?: half-width of the 95% interval" in said


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evil"], "No such command 'evil'"),
        (["eval"], "Missing argument 'checkpoint'"),
        (["eval", "pocket", "--stpes", "3"], "No such option: --stpes"),
        (["eval", "pocket", "--steps", "0"], "'--steps': Input should be greater than or equal to 1"),
        (["eval", "pocket", "--steps", "many"], "'--steps': Input should be a valid integer"),
        (["eval", "pocket", "--guidance-scale", "-1"], "'--guidance-scale': Input should be greater"),
        (["eval", "pocket", "--guidance-scale", "nan"], "'--guidance-scale': Input should be greater"),
        (["eval", "pocket", "--guidance-scale", "inf"], "guidance_scale: expected"),
        (["eval", "pocket", "--limit", "0"], "'--limit': Input should be greater"),
        (["eval", "pocket", "--seed", "-1"], "'--seed': Input should be greater"),
        (["eval", "pocket", "--batch-size", "0"], "'--batch-size': Input should be greater"),
        (["eval", "pocket", "--limit", "2", "--publish"], "--publish takes whole runs only"),
        (["eval", "pocket", "--suite", "poket"], "'poket'; did you mean 'pocket'?"),
        (["eval", "pocket", "--rewards", "jpg"], "unknown reward 'jpg'; did you mean 'jpeg'?"),
        (["eval", "pocket", "--rewards", "ocr@rapid"], "unknown reward 'ocr@rapid'"),
        (["eval", "pocket", "--rewards", "jpeg,,ocr"], "empty item in rewards"),
        (["eval", "pocket", "--rewards", "jpeg:2"], "weights are for training"),
        (["eval", "pocket", "--suite", "ocr-pocket", "--rewards", "geneval@pocket"], "can judge none"),
        (["eval", "pocke"], "unknown checkpoint 'pocke'; did you mean 'pocket'?"),
        (["eval", ""], "unknown checkpoint ''"),
        (["eval", "some/model"], "some/model names no suite of its own; pass --suite"),
        (["eval", "some/model", *SMALL], "unknown checkpoint 'some/model'"),
        (["eval", "empty", *SMALL], "not a valid checkpoint: empty holds no model_index.json"),
        (["eval", "pocket+lora=none.safetensors", *SMALL], "no LoRA at none.safetensors"),
        (["eval", "pocket", *SMALL, "--out", "file"], "file is a file; --out takes a folder"),
        (["score", "none"], "there is no none; expected a run folder or a list of images"),
        (["score", "empty"], "not a run: empty holds no manifest.json"),
        (["score", "broken.jsonl"], "pass --rewards"),
        (["score", "broken.jsonl", "--rewards", "jpeg"], "broken.jsonl, line 2: expected a JSON object"),
        (["score", "good.jsonl", "--rewards", "geneval@pocket"], "geneval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(start, tmp_path, arguments, said):
    line = '{"image": "a.png", "prompt": "x"}\n'
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "good.jsonl").write_text(line)
    (tmp_path / "broken.jsonl").write_text(line + "oops\n")
    assert said in error_of(start(*arguments))
    left = {p.name for p in tmp_path.iterdir() if p.suffix not in (".out", ".err")}
    assert left == {"empty", "file", "good.jsonl", "broken.jsonl"}
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.slow
def test_a_run_of_another_protocol_is_refused_by_field(start, tmp_path):
    code, out, err = start("eval", "pocket", *SMALL, "--out", "run").finish()
    assert (code, err) == (0, "") and "run: run" in out
    assert any(line.startswith("a part of the prompts, or") for line in out.splitlines())
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    said = error_of(start("eval", "pocket", *SMALL, "--seed", "3", "--out", "run"))
    assert "another protocol of geneval-pocket (seed: 3 here, 0 there)" in said
    said = error_of(start("eval", "pocket", *SMALL, "--batch-size", "3", "--out", "run"))
    assert "batch_size 16, not 3" in said
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


@pytest.mark.slow
def test_a_disk_that_cannot_be_written(start, tmp_path):
    """The place of the run folder is below a file: no folder can be made there."""
    (tmp_path / "file").write_text("")
    said = error_of(start("eval", "pocket", *SMALL, "--out", "file/run"))
    assert "cannot write" in said and "Not a directory" in said
    write_list(tmp_path, pictures(tmp_path, 10))
    (tmp_path / "folder").mkdir()
    said = error_of(start("score", "images.jsonl", "--rewards", "jpeg", "--out", "folder"))
    assert "expected a file that ends in" in said and not list((tmp_path / "folder").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_a_place_that_takes_no_folders(start, tmp_path):
    """Linux says of /proc that there is no such folder when one is to be made in it."""
    write_list(tmp_path, pictures(tmp_path, 1))
    for out in ("/proc/x.csv", "/proc/inside/x.csv"):
        said = error_of(start("score", "images.jsonl", "--rewards", "jpeg", "--out", out))
        assert "cannot write /proc/" in said


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    """In this process, where the disk can be made full."""
    path = write_list(tmp_path, pictures(tmp_path, 10))
    before = sorted(tmp_path.iterdir())

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(sys, "argv", ["nftbench", "score", path, "--rewards", "jpeg"])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert f"cannot write {tmp_path}" in err and "No space left on device" in err
    assert sorted(tmp_path.iterdir()) == before


def test_an_error_that_is_ours_is_not_hidden(tmp_path, monkeypatch):
    def broken(self, target):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    path = write_list(tmp_path, pictures(tmp_path, 10))
    monkeypatch.setattr(Path, "replace", broken)
    monkeypatch.setattr(sys, "argv", ["nftbench", "score", path, "--rewards", "jpeg"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        main()


# --- score ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_score_a_list(start, tmp_path):
    lines = pictures(tmp_path / "album", 10, 200, 90)
    (tmp_path / "album" / "1.png").write_bytes(b"cut")
    write_list(tmp_path / "album", [*lines, lines[0] | {"image": "gone.png"}])
    code, out, _ = start(
        "score", "album/images.jsonl", "--rewards", "jpeg,jpeg@compressibility", "--batch-size", "3"
    ).finish()
    assert code == 4 and "scores: album/images.scores.parquet" in out  # half of them failed: loud
    table = pd.read_parquet(tmp_path / "album" / "images.scores.parquet")
    assert table["image"].tolist() == ["0.png", "1.png", "2.png", "gone.png"]
    assert table["jpeg"].notna().tolist() == [True, False, True, False]
    assert table["jpeg:reason"][1].startswith("unreadable image: it is not an image")
    assert "No such file" in table["jpeg:reason"][3]
    (row,) = [line for line in out.splitlines() if "@compressibility" in line and "│" in line]
    assert [cell.strip() for cell in row.split("│")][-3:-1] == ["2", "2"]


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_stops_with_a_clear_line_and_the_run_goes_on(start, python, tmp_path):
    arguments = ["eval", "pocket", "--suite", "geneval-pocket", "--limit", "8", "--steps", "4"]
    arguments += ["--rewards", "jpeg", "--batch-size", "2", "--out", "run"]
    process = subprocess.Popen(
        [*python, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    images = tmp_path / "run" / "geneval-pocket" / "images"
    while process.poll() is None and len(list(images.glob("*.png"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err == "nftbench: stopped; run the same command again to resume\n"
    kept = {p: p.stat().st_mtime_ns for p in images.glob("0*.png")}
    assert 2 <= len(kept) < 32 and not list((tmp_path / "run").rglob(".*"))
    code, out, err = start(*arguments).finish()
    assert (code, err) == (0, "") and len(list(images.iterdir())) == 32
    again = [p for p, before in kept.items() if p.stat().st_mtime_ns != before]
    assert len(again) <= 2  # at most the batch in flight


@pytest.mark.parametrize(
    ("arguments", "help_of"),
    [
        (["evl"], "nftbench --help"),
        (["eval", "--stps", "3"], "nftbench eval --help"),
        (["rewards", "pul"], "nftbench rewards --help"),
    ],
)
def test_a_wrong_word_is_answered_with_the_near_one_and_the_right_help(
    arguments, help_of, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["nftbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"(see {help_of})" in error
    assert "Did you mean" in error or "Possible options:" in error


def test_version_and_short_help(capsys, monkeypatch):
    for arguments, shown in (
        (["--version"], "nftbench 0."),
        (["eval", "-h"], "Usage: nftbench eval"),
    ):
        monkeypatch.setattr("sys.argv", ["nftbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0 and shown in capsys.readouterr().out


def test_quiet_and_verbose_exclude_each_other(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["nftbench", "-q", "-v", "benchmarks"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "leave out one" in capsys.readouterr().err


@pytest.mark.slow
def test_pull_dry_run_and_recipes_change_nothing(start, tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path / "data"))
    code, out, err = start("pull", "ocr", "--dry-run").finish()
    assert (code, err) == (0, "") and "nftbench pull ocr" in out and "ocr/test.txt" in out
    code, out, err = start("recipes", "pocket").finish()
    assert (code, err) == (0, "") and "optimizer.lr" in out
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_one_of_several_processes_does_not_say_that_the_user_stopped_it(
    tmp_path, monkeypatch, count
):
    """torchrun ends the others by the same signal where one of them has failed."""

    def signalled(**_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setattr("nftbench.cli.names.check", signalled)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, said = run_here(tmp_path, "eval", "pocket", "--suite", "geneval-pocket")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130 and said.count("\n") == 1, said
    assert ("or as another process failed" in said) == (count > 1)
    assert said.endswith("; run the same command again to resume\n")
