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


@pytest.mark.parametrize("path", sorted((ROOT / "rewards").rglob("*.py")), ids=lambda p: p.stem)
def test_rewards_stand_alone(path):
    assert not roots(path) & {"nftbench", "benchmarks", "leaderboards"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_files_import_only_arrays(name):
    assert roots(ROOT / name) - sys.stdlib_module_names <= PURE[name]


def test_the_walk_sees_imports_inside_functions(tmp_path):
    (tmp_path / "a.py").write_text("import os.path\ndef f():\n    from nftbench.x import y\n")
    assert imported(tmp_path / "a.py") == {"os.path", "nftbench.x"}
