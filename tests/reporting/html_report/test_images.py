"""Pictures of a report: copied or made smaller, never from outside the run."""

import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from nftbench.reporting.html_report.images import SMALL, WHOLE, inside, place
from tests.helpers.runs import made_runs


@pytest.mark.parametrize(
    "source", ["../secret.png", "a/../../secret.png", "link.png", "/etc/hostname"]
)
def test_no_picture_outside_the_run_is_read(tmp_path, source):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.png").write_bytes(made_runs.png((1, 2, 3)))
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(OSError, match="leaves the run folder"):
        inside(tmp_path / "run", source)
    assert place(tmp_path / "run", source, tmp_path, "0").fault == "the path leaves the run folder"


def test_an_image_that_was_changed_since_it_was_scored_is_not_shown(tmp_path):
    data = made_runs.png((9, 8, 7))
    (tmp_path / "a.png").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert place(tmp_path, "a.png", tmp_path, "copy", digest).file == "copy.png"
    (tmp_path / "a.png").write_bytes(made_runs.png((9, 8, 6)))
    assert place(tmp_path, "a.png", tmp_path, "copy", digest).fault == "changed since it was scored"


def test_a_small_png_is_copied_to_the_byte(tmp_path):
    (tmp_path / "a.png").write_bytes(made_runs.png((9, 8, 7)))
    picture = place(tmp_path, "a.png", tmp_path, "copy")
    assert (picture.file, picture.thumbnail, picture.width, picture.height) == (
        "copy.png",
        "copy.png",
        16,
        16,
    )
    assert (tmp_path / "copy.png").read_bytes() == made_runs.png((9, 8, 7))


def test_a_large_picture_becomes_a_jpeg_with_a_thumbnail(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > WHOLE
    picture = place(tmp_path, "a.png", tmp_path, "copy")
    assert (picture.width, picture.height) == (500, 400)
    with (
        Image.open(tmp_path / picture.file) as whole,
        Image.open(tmp_path / picture.thumbnail) as small,
    ):
        assert (whole.format, whole.size) == ("JPEG", (500, 400))
        assert small.size == (SMALL, round(SMALL * 400 / 500))
        error = np.abs(np.asarray(whole).astype(int) - noise).mean()
    assert error < 12  # quality 92 of noise


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "No such file or directory"),
        (b"text", "not an image of a kind that is read"),
        (made_runs.png((0, 0, 0))[:50], "broken|truncated"),
    ],
)
def test_a_picture_that_cannot_be_read_says_why(tmp_path, data, fault):
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    picture = place(tmp_path, "a.png", tmp_path, "copy")
    assert re.search(fault, picture.fault)
    assert picture.file == "" and not list(tmp_path.glob("copy*"))
