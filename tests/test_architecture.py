"""Imports run one way; pure files stay pure."""

import ast
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PURE = {
    "nftbench/training/algorithms/advantages.py": {"nftbench", "numpy"},
    "nftbench/training/algorithms/nft.py": {"numpy", "torch"},
    "rewards/geneval/judge.py": {"numpy"},
}
"""File -> what it may import beside the standard library."""
FLOORS = (
    {"nftbench.__main__"},
    {"nftbench.cli", "nftbench.api"},
    {"nftbench.commands"},
    {"nftbench.stress"},
    {"nftbench.reporting"},
    {"nftbench.certify"},
    {"nftbench.evaluation", "nftbench.training"},
    {"nftbench.runs"},
    {"nftbench.generation"},
    {"nftbench.benchmark"},
    {"nftbench.stats"},
    {"rewards"},
)
"""From the top down: a folder imports itself and lower floors; two of one floor do not know each other."""
GROUND = {"nftbench", "nftbench.parsing", "nftbench.resources"}
SINGLE = {"rewards", "nftbench.__main__", "nftbench.api", "nftbench.commands"}
"""Floors that are no folder of `nftbench`."""
"""What every folder of nftbench may import: the version, where the data files lie, and how texts are parsed."""


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports, at its top and inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the package"
            names.add(node.module or "")
    return names


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def part(module: str) -> str:
    """The folder that a module belongs to: `nftbench.runs` of `nftbench.runs.io`."""
    names = module.split(".")
    return "rewards" if names[0] == "rewards" else ".".join(names[:2])


def allowed(folder: str) -> set[str]:
    """Other folders that a folder may import."""
    if folder == "rewards":
        return set()
    if folder == "nftbench.pocket":
        return GROUND | {"rewards"}
    if folder in GROUND:
        return GROUND | (
            {"nftbench.api"} if folder == "nftbench" else set()
        )  # when first asked for
    floor = next(i for i, names in enumerate(FLOORS) if folder in names)
    pocket = {"nftbench.pocket"} if folder == "nftbench.cli" else set()
    return GROUND.union(pocket, *FLOORS[floor + 1 :])


def modules_of(path: Path) -> set[str]:
    """As `imported`, with `from nftbench import resources` as `nftbench.resources`."""
    found = imported(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "nftbench":
            found |= {f"nftbench.{alias.name}" for alias in node.names}
    return found


def broken_arrows(root: Path) -> list[str]:
    """Every import of a folder by another that may not: `importer -> imported`."""
    arrows = []
    for path in sorted([*(root / "nftbench").rglob("*.py"), *(root / "rewards").rglob("*.py")]):
        importer = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        mine = {n for n in modules_of(path) if n.partition(".")[0] in ("nftbench", "rewards")}
        wrong = [n for n in mine if part(n) not in allowed(part(importer)) | {part(importer)}]
        arrows += [f"{importer} -> {name}" for name in sorted(wrong)]
    return arrows


def test_every_folder_has_a_floor():
    """A new folder gets its place here before anything is put into it."""
    folders = {f"nftbench.{p.parent.name}" for p in (ROOT / "nftbench").glob("*/__init__.py")}
    assert folders == set().union(*FLOORS) - SINGLE | {"nftbench.pocket"}


def test_imports_run_one_way():
    arrows = broken_arrows(ROOT)
    assert not arrows, "these imports run against the layers:\n" + "\n".join(arrows)


@pytest.mark.parametrize(
    ("importer", "name"),
    [
        ("nftbench/evaluation/a.py", "nftbench.reporting.b"),
        ("nftbench/evaluation/a.py", "nftbench.training.b"),
        ("nftbench/stress/a.py", "nftbench.cli.b"),
        ("nftbench/stress/a.py", "nftbench.pocket.b"),
        ("nftbench/pocket/a.py", "nftbench.runs.b"),
        ("nftbench/stats/a.py", "nftbench.benchmark.b"),
        ("rewards/a.py", "nftbench.stats.b"),
    ],
)
def test_an_arrow_that_runs_upwards_is_named(tmp_path, importer, name):
    path = tmp_path / importer
    path.parent.mkdir(parents=True)
    path.write_text(f"import numpy\ndef f():\n    from {name} import c\n")
    assert broken_arrows(tmp_path) == [f"{importer[:-3].replace('/', '.')} -> {name}"]


@pytest.mark.parametrize("path", sorted((ROOT / "rewards").rglob("*.py")), ids=lambda p: p.stem)
def test_rewards_stand_alone(path):
    assert not roots(path) & {"nftbench", "benchmarks", "leaderboards"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_files_import_only_arrays(name):
    assert roots(ROOT / name) - sys.stdlib_module_names <= PURE[name]


def test_the_walk_sees_imports_inside_functions(tmp_path):
    (tmp_path / "a.py").write_text("import os.path\ndef f():\n    from nftbench.x import y\n")
    assert imported(tmp_path / "a.py") == {"os.path", "nftbench.x"}
