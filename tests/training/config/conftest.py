"""A recipe of one's own, in a file."""

import pytest

MINIMAL = """
name = "mine"
checkpoint = "pocket"
[rollout]
height = 64
width = 64
[[stages]]
prompts = ["ocr-pocket"]
rewards = "ocr"
iterations = 3
[[stages]]
prompts = ["geneval-pocket"]
rewards = "geneval"
iterations = 4
"""


@pytest.fixture
def mine(tmp_path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    return str(path)
