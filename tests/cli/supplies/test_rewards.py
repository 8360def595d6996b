"""`nftbench rewards`: the list, pulling, measuring, comparing variants; errors are one line and exit code 2."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import rewards
from nftbench.cli.main import main
from rewards.base import RewardInfo, Scores, Weight

FILES = {"tower/model.safetensors": b"tower" * 9000, "one/head.pth": b"head" * 900, "two/x": b"x"}


class Plain:
    """A reward whose weights lie on the test's server."""

    def __init__(self, name: str, files: tuple[Weight, ...]) -> None:
        self.info = RewardInfo(
            name=name, variant="", summary="a test", low=0, high=1, files=files, licence="MIT"
        )

    def __call__(self, *, device="cpu"):
        return self

    def score(self, images, prompts):
        return Scores.of(np.zeros(len(images)))

    def check(self, prompts):
        pass


@pytest.fixture
def shop(rooms, tmp_path, monkeypatch):
    """Rewards `one` and `two`, which share a tower, beside the built-in ones; the server; the cache's folder."""
    room = next(rooms)
    for name, data in FILES.items():
        (room.folder / name).parent.mkdir()
        (room.folder / name).write_bytes(data)

    def weight(name: str, how: str = "plain") -> Weight:
        data = FILES[name]
        return Weight(
            name=name,
            url=f"{room.url}/{how}/{name}",
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            licence="MIT",
        )

    tower = weight("tower/model.safetensors")
    theirs = SimpleNamespace(
        one=Plain("one", (tower, weight("one/head.pth"))),
        two=Plain("two", (tower, weight("two/x"))),
        bad=Plain("bad", (weight("one/head.pth"), weight("two/x", "flipped"))),
    )
    points = [
        SimpleNamespace(name=n, value=f"shop_rewards:{n}", dist=SimpleNamespace(name="shop"))
        for n in vars(theirs)
    ]
    monkeypatch.setattr(rewards, "entry_points", lambda *, group: points)
    monkeypatch.setitem(sys.modules, "shop_rewards", theirs)
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("NFTBENCH_MIRROR", raising=False)
    return SimpleNamespace(room=room, cache=tmp_path / "cache", rewards=theirs)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """`run("pull", "one")`: exit code, output, errors of `nftbench rewards pull one`, in this process."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nftbench", "rewards", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code, *capsys.readouterr())

    return command


def refused(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out) == (2, ""), result
    assert err.startswith("nftbench: ") and err.count("\n") == 1, err
    return err


def row_of(out: str, start: str) -> list[str]:
    """Cells of the one table row that begins so."""
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines()]
    (found,) = [cells for cells in rows if cells and cells[0] == start]
    return found


def here(folder: Path) -> set[str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)) for p in files}


# --- pull -----------------------------------------------------------------------------------------


def test_a_file_that_two_rewards_share_is_fetched_once(shop, run):
    code, out, err = run("pull", "one", "two")
    assert (code, err) == (0, ""), err
    assert here(shop.cache) == set(FILES)
    assert all((shop.cache / name).read_bytes() == data for name, data in FILES.items())
    assert shop.room.sent() == sum(map(len, FILES.values()))
    assert row_of(out, "one/head.pth")[1:3] == ["3.6 kB", f"{shop.room.url}/plain/one/head.pth"]
    assert f"3 files, 48.6 kB fetched, in {shop.cache}" in out
    code, out, err = run("pull", "two")
    assert code == 0 and "2 files, 0 bytes fetched" in out and len(shop.room.requests()) == 3
    assert row_of(out, "two/x")[2] == "was here"


def test_the_list_says_what_is_here(shop, run):
    assert row_of(run()[1], "one")[4] == "missing, 48.6 kB"
    run("pull", "two")
    out = run()[1]
    assert row_of(out, "two")[:6] == ["two", "0 to 1", "/1", "text", "cached, 45.0 kB", "MIT"]
    assert row_of(out, "one")[4] == "missing, 1 of 2 files here, 48.6 kB"
    assert row_of(out, "jpeg")[4] == "none"
    assert row_of(out, "ocr@rapidocr")[1:5] == ["0 to 1", "/1", "quoted text", "shipped"]
    assert row_of(out, "ocr@tesseract")[4] == "shipped; extra [tesseract]"


def test_a_certificate_is_shown(shop, run, tmp_path, monkeypatch):
    from rewards.certify import verdicts

    (tmp_path / "two.json").write_text(json.dumps({"verdict": "equal"}))
    monkeypatch.setattr(verdicts, "folder", lambda: tmp_path)
    out = run()[1]
    assert (
        row_of(out, "two")[6] == "stale (code changed since): equal" and row_of(out, "one")[6] == ""
    )


def test_offline_and_a_mirror(shop, run, tmp_path):
    said = refused(run("pull", "one", "--offline"))
    assert "tower/model.safetensors cannot be had (offline" in said and "--mirror" in said
    assert not shop.room.requests() and not here(shop.cache)
    mirror = shop.room.folder.as_uri()
    code, _, err = run("pull", "one", "--offline", "--mirror", mirror)
    assert (code, err) == (0, "") and not shop.room.requests()
    assert here(shop.cache) == {"tower/model.safetensors", "one/head.pth"}


def test_a_wrong_file_is_one_line_and_what_was_right_stays(shop, run):
    said = refused(run("pull", "bad"))
    assert f"{shop.room.url}/flipped/two/x is not two/x: it has sha256" in said
    assert hashlib.sha256(FILES["two/x"]).hexdigest() in said
    assert here(shop.cache) == {"one/head.pth", "two/x.wrong"}


def test_accept_digest_takes_names_of_files_only(shop, run):
    assert "is none of the files: tower/model" in refused(
        run("pull", "one", "--accept-digest", "y")
    )
    assert not shop.room.requests()


def test_bad_input_of_pull(shop, run):
    assert "unknown reward 'onee'; did you mean 'one'?" in refused(run("pull", "onee"))
    assert "Missing argument" in refused(run("pull"))
    assert "mirror 'no/such' is not a folder" in refused(run("pull", "one", "--mirror", "no/such"))
    assert "No such command 'pul'" in refused(run("pul", "one"))
    assert not shop.room.requests()


def test_two_rewards_that_pin_one_name_differently(shop, run, monkeypatch):
    other = Weight(name="two/x", url="", sha256="0" * 64, size=1, licence="")
    monkeypatch.setattr(shop.rewards, "one", Plain("one", (other,)))
    assert "two rewards pin two/x differently" in refused(run("pull", "two", "one"))
    assert not shop.room.requests()


def test_nothing_to_pull(shop, run):
    code, out, err = run("pull", "jpeg")
    assert (code, err) == (0, "") and "0 files" in out


@pytest.mark.slow
def test_ctrl_c_keeps_the_part_and_the_same_command_goes_on(shop, python, tmp_path):
    """A real process, whose rewards come from an installed package."""
    data = FILES["tower/model.safetensors"]
    package = tmp_path / "package"
    (package / "slow-1.dist-info").mkdir(parents=True)
    (package / "slow-1.dist-info" / "METADATA").write_text("Name: slow\nVersion: 1\n")
    points = "[nftbench.rewards]\nslow = slow_reward:build\n"
    (package / "slow-1.dist-info" / "entry_points.txt").write_text(points)
    (package / "slow_reward.py").write_text(f"""
from rewards.base import RewardInfo, Weight
def build(*, device="cpu"): ...
weight = Weight(name="a/b", url="{shop.room.url}/slow/tower/model.safetensors", size={len(data)},
                sha256="{hashlib.sha256(data).hexdigest()}", licence="MIT")
build.info = RewardInfo(name="slow", variant="", summary="", low=0, high=1, files=(weight,))
""")
    env = os.environ | {"PYTHONPATH": str(package)}
    command = [*python, "rewards", "pull", "slow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, env=env, **pipes)
    part = shop.cache / "a" / "b.part"
    while first.poll() is None and not (part.is_file() and part.stat().st_size):
        time.sleep(0.002)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert (first.returncode, out) == (130, "")
    assert err == "nftbench: stopped; run the same command again to resume\n"
    held = part.stat().st_size
    assert 0 < held < len(data) and here(shop.cache) == {"a/b.part"}
    again = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120)
    assert again.returncode == 0, again.stderr
    assert (shop.cache / "a" / "b").read_bytes() == data
    assert [r["range"] for r in shop.room.requests()] == ["", f"bytes={held}-"]


# --- benchmark ------------------------------------------------------------------------------------


def test_benchmark_measures_what_is_here_and_says_why_not(run, tmp_path, monkeypatch):
    """All in this process: that a process of its own gives the same is tested with `rewards.measuring.cost`."""
    from rewards.measuring import cost

    monkeypatch.setattr(cost, "measure_apart", cost.measure)
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    names = ["jpeg", "jpeg@compressibility", "clipscore@nft"]
    code, out, err = run("benchmark", *names, "--images", "2", "--size", "64")
    assert (code, err) == (0, ""), err
    single = row_of(out, "jpeg")
    assert float(single[1]) > 0 and single[3].endswith("B") and not single[6]
    assert "nftbenchrewardspull" in "".join(out.replace("│", "").split())  # wherever it is wrapped
    assert float(row_of(out, "sum of the single ones")[1]) > 0
    assert row_of(out, "these together")[6] == ""


def test_benchmark_of_everything_is_a_flag_too(run, monkeypatch):
    from rewards.measuring import cost

    measured = []
    answer = cost.Cost(keys=("x",), reason="not here")
    monkeypatch.setattr(cost, "measure_apart", lambda what: measured.append(what.keys) or answer)
    code, out, err = run("--benchmark")
    assert (code, err) == (0, "") and measured == [(key,) for key in rewards.available()]
    assert row_of(out, "jpeg")[-1] == "not here"
    assert "leave out the command" in refused(run("--benchmark", "pull", "jpeg"))


# --- variants -------------------------------------------------------------------------------------


def pictures(folder: Path, *widths: int) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    made = [random.integers(0, 255, (32, width, 3), dtype=np.uint8) for width in widths]
    for i, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return made


def test_variants_on_a_folder_with_prompts_beside_it(run, tmp_path):
    made = pictures(tmp_path / "album", 32, 40, 48)
    (tmp_path / "album.txt").write_text("a\nb\nc\n")
    code, out, err = run("variants", "jpeg", "album", "--csv", "table.csv", "--batch-size", "2")
    assert (code, err) == (0, ""), err
    scored = [
        [float(rewards.load_reward(key).score(m[None], ["a"]).values[0]) for m in made]
        for key in ("jpeg", "jpeg@compressibility")
    ]
    gaps = np.subtract(*scored)
    (row,) = csv.DictReader((tmp_path / "table.csv").open())
    assert (row["first"], row["second"], row["n"]) == ("jpeg", "jpeg@compressibility", "3")
    assert np.isclose(float(row["mean"]), gaps.mean()) and np.isclose(float(row["spearman"]), -1)
    assert np.isclose(float(row["max_absolute"]), gaps.max()) and row["worst"] == "2.png"
    assert row_of(out, "jpeg - jpeg@compressibility")[1::4] == ["3", "2.png"]


def test_variants_that_cannot_run_are_listed(run, tmp_path, shop, monkeypatch):
    pictures(tmp_path / "album", 32, 32)
    lines = [{"image": f"{i}.png", "prompt": "no quotes"} for i in (0, 1)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "album" / "images.jsonl").write_text(text)
    code, out, err = run("variants", "ocr", "album/images.jsonl", "--csv", "t.csv")
    assert (code, err) == (0, ""), err
    assert (
        "not compared: ocr@rapidocr: images.jsonl, line 1: prompt '00000' cannot be scored by ocr@rapidocr"
        in out
    )
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    names = [key for key in rewards.available() if key.startswith("ocr@")]
    assert [row["first"] for row in rows] == names and all(row["reason"] for row in rows)
    assert run("variants", "ocr", "album")[1] == out.replace("table: t.csv\n", "")


@pytest.mark.slow
def test_variants_on_a_run(start, run, tmp_path):
    small = ["--suite", "pocket", "--limit", "2", "--steps", "1", "--rewards", "jpeg"]
    code, _, err = start("eval", "pocket", *small, "--out", "run").finish()
    assert (code, err) == (0, "")
    images = len(list((tmp_path / "run").rglob("images/*.png")))
    code, out, err = run("variants", "geneval", "run")
    assert (code, err) == (0, ""), err
    row = row_of(out, "geneval@pocket - geneval@pocket-nft")
    assert 0 < int(row[1]) < images and f"geneval on {images} images" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jpg", "album"], "unknown reward 'jpg'; did you mean 'jpeg'?"),
        (["aesthetic", "album"], "reward 'aesthetic' has no variants to compare"),
        (["jpeg", "none"], "none is neither a folder nor a list of images"),
        (
            ["jpeg", "album"],
            "expected one .jsonl or .txt of prompts in album or beside it, found none",
        ),
        (["jpeg", "short"], "short.txt has 1 lines for 2 images in short"),
        (["jpeg", "twice"], "found a.txt, b.jsonl"),
    ],
)
def test_bad_input_of_variants(run, tmp_path, arguments, said):
    pictures(tmp_path / "album", 32)
    pictures(tmp_path / "short", 32, 32)
    (tmp_path / "short.txt").write_text("one\n")
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "a.txt").write_text("one\n")
    (tmp_path / "twice" / "b.jsonl").write_text("{}\n")
    assert said in refused(run("variants", *arguments))


def test_certify_finds_the_golden_numbers_of_its_checkout(start, tmp_path):
    code, out, error = start("certify", "jpeg", "--out", str(tmp_path / "made")).finish()
    assert code == 0 and "jpeg: equal" in out, error
    assert (tmp_path / "made" / "jpeg.json").is_file()
