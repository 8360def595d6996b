"""What the libraries say is not what a user reads: a prompt that is cut is said once, in our words."""

import pytest


@pytest.mark.slow
def test_a_cut_prompt_is_said_by_us_alone(start, tmp_path):
    (tmp_path / "long.txt").write_text("a red circle " * 60, encoding="utf-8")
    asked = [
        "--prompts",
        str(tmp_path / "long.txt"),
        "--rewards",
        "clipscore@pocket",
        "--steps",
        "1",
    ]
    code, out, err = start("eval", "pocket", *asked, "--out", str(tmp_path / "run")).finish()
    assert (code, err) == (0, "")
    assert "warning: 1 prompts are cut by every text encoder" in out
