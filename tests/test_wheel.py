"""What an installed copy holds: two import names, and every data file where the code looks for it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nftbench.resources import data_folder
from tests.helpers.paths import ROOT

DATA_FOLDERS = ("benchmarks", "leaderboards")


def data_files(folder: Path) -> set[str]:
    """Every file that is no code, by its path from `folder`."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if p.suffix not in {".py", ".pyc"}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what the wheel holds, as site-packages would."""
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = built.glob("nftbench-*.whl")
    zipfile.ZipFile(wheel).extractall(built / "site")
    return built / "site"


def python(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A fresh interpreter that imports the wheel's packages, started elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")


@pytest.mark.slow
def test_the_wheel_holds_two_import_names_and_all_data(installed):
    names = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    assert names == {"nftbench", "rewards"}
    for folder in DATA_FOLDERS:
        assert (
            data_files(installed / "nftbench/data" / folder) == data_files(ROOT / folder) != set()
        )
    for package in names:
        missing = data_files(ROOT / package) - data_files(installed / package)
        assert not missing and (installed / package / "py.typed").is_file()
    code = {p.relative_to(ROOT) for name in names for p in (ROOT / name).rglob("*.py")}
    assert not {p for p in code if not (installed / p).is_file()}


@pytest.mark.slow
def test_an_installed_copy_finds_its_benchmarks_and_leaderboards(installed, tmp_path):
    run = "from nftbench.cli.main import main; main()"
    listed = python(installed, tmp_path, "-c", run, "benchmarks")
    assert listed.returncode == 0, listed.stderr
    assert all(p.stem in listed.stdout for p in (ROOT / "benchmarks").glob("*.toml"))
    built = python(installed, tmp_path, "-c", run, "leaderboard", "build")
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "leaderboard-site/index.html").read_text("utf-8")
    assert all(p.stem in page for p in (ROOT / "leaderboards").glob("*.csv"))


def test_a_checkout_uses_the_folders_that_people_edit():
    assert [data_folder(name) for name in DATA_FOLDERS] == [ROOT / name for name in DATA_FOLDERS]


def test_a_file_named_rewards_is_refused_by_name(tmp_path):
    (tmp_path / "rewards.py").write_text("print('not ours')\n")
    done = python(ROOT, tmp_path, "-c", "import nftbench")
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("ImportError: nftbench needs its own package `rewards`")
    assert str(tmp_path / "rewards.py") in said
