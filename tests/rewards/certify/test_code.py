"""A digest of code changes with what the code does, and with nothing else."""

import sys

import pytest

from rewards.certify.code import modules_digest

TEXT = '''"""A module."""
from house.inner import helper

QUALITY = 95
"""Of JPEG."""


def score(x):
    """Score."""
    text = """kept
    # kept"""
    return helper(x) * QUALITY, text  # a remark
'''
MOVED = "from house.inner import helper", "from house.deep.inner import helper"


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Digest of a package's module with a text, in a folder."""
    monkeypatch.syspath_prepend(tmp_path)

    def of(text: str, inner: str = "def helper(x):\n    return x\n", folder: str = "") -> str:
        place = tmp_path / "house" / folder
        place.mkdir(parents=True, exist_ok=True)
        for package in {tmp_path / "house", place}:
            (package / "__init__.py").write_text("")
        (place / "inner.py").write_text(inner)
        (tmp_path / "house" / "outer.py").write_text(text)
        for name in [n for n in sys.modules if n.partition(".")[0] == "house"]:
            del sys.modules[name]
        for cached in ("modules_digest", "_is_module", "_text"):
            getattr(sys.modules["rewards.certify.code"], cached).cache_clear()
        return modules_digest("house.outer")

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""A better word."""'),
        ('"""Of JPEG."""', ""),
        ("  # a remark", ""),
        ("\n\n\n", "\n# another\n\n"),
        ('    """Score."""\n', ""),
    ],
)
def test_words_change_no_digest(digest, old, new):
    assert TEXT.count(old) == 1
    assert digest(TEXT) == digest(TEXT.replace(old, new))


def test_a_module_that_moves_keeps_its_digest(digest):
    assert digest(TEXT) == digest(TEXT.replace(*MOVED), folder="deep")


@pytest.mark.parametrize(
    ("old", "new"),
    [("95", "94"), ("# kept", "# other"), ("helper(x)", "x"), ("import helper", "import help_er")],
)
def test_what_it_does_changes_the_digest(digest, old, new):
    assert TEXT.count(old) == 1
    assert digest(TEXT) != digest(TEXT.replace(old, new))


def test_what_it_imports_changes_the_digest(digest):
    assert digest(TEXT) != digest(TEXT, inner="def helper(x):\n    return x + 1\n")
