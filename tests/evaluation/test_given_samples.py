"""GenEval's folders of samples: which files are samples, how many there are, and in which order."""

import json
import shutil

import numpy as np
import pytest

from rewards.images.pixels import read_picture
from tests.helpers.commands import run_here
from tests.helpers.pictures import picture


@pytest.fixture
def three(tmp_path):
    """GenEval's layout of three prompts with two images each."""
    for number in range(3):
        folder = tmp_path / "theirs" / f"{number:05d}"
        for index in range(2):
            picture(folder / "samples" / f"{index:04d}.png", number * 2 + index)
        record = {"tag": "counting", "prompt": f"{number} cats", "include": []}
        (folder / "metadata.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    return tmp_path / "theirs"


def imported(three) -> tuple[int, str]:
    return run_here(three.parent, "import", "theirs", "--name", "they", "--out", "run")


def test_a_grid_among_the_samples_is_no_sample_and_a_lost_folder_is_said(three):
    """In each folder alike, so that no number of images gives it away."""
    for number in range(3):
        picture(three / f"{number:05d}" / "samples" / "grid.png", 9, 128)
    shutil.rmtree(three / "00001")
    code, out = imported(three)
    assert code == 0, out
    assert len([*(three.parent / "run").rglob("images/*.png")]) == 4
    assert (
        "passed over: 2 files whose name is no number, the first theirs/00000/samples/grid" in out
    )
    assert "missing: 1 of the folders 00000 to 00002 are not there, the first 00001" in out


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("link", "0001.png is a link to no file"),
        ("twice", "0001.jpg and 0001.png are two images of one name"),
        (
            "unread",
            "1 images of theirs/00001/samples are of no format that is read, the first 0001",
        ),
        ("lines", "metadata.jsonl: expected one line, of this folder's prompt; got 2"),
    ],
)
def test_an_image_too_few_or_too_many_is_refused(three, how, said):
    image = three / "00001" / "samples" / "0001.png"
    if how == "link":
        image.unlink()
        image.symlink_to("nowhere.png")
    elif how == "twice":
        picture(image.with_suffix(".jpg"), 3)
    elif how == "unread":
        image.rename(image.with_suffix(".tiff"))
    else:
        path = three / "00001" / "metadata.jsonl"
        path.write_text(path.read_text("utf-8") * 2, "utf-8")
    code, out = imported(three)
    assert code == 2 and said in out and not (three.parent / "run").exists(), out


def numbered(folder, names) -> list[np.ndarray]:
    """Images of GenEval's one prompt under these names; their pixels."""
    record = {"tag": "counting", "include": [], "prompt": "a photo of two dogs"}
    made = [picture(folder / "00000/samples" / name, i) for i, name in enumerate(names)]
    (folder / "00000/metadata.jsonl").write_text(json.dumps(record), encoding="utf-8")
    return made


@pytest.mark.parametrize("names", [["{}.png"], ["{}.png", "{:02d}.png"]])
def test_the_tenth_sample_is_the_tenth(tmp_path, names):
    """Paired samples are by number: `10.png` stood behind `1.png`, and was compared with another's third image."""
    every = [names[i % len(names)].format(i) for i in range(12)]
    made = numbered(tmp_path / "theirs", every)
    code, out = run_here(tmp_path, "import", "theirs", "--name", "m", "--out", "run")
    assert code == 0, out
    kept = [read_picture(p).pixels for p in sorted((tmp_path / "run").rglob("images/*.png"))]
    assert len(kept) == 12 and all(map(np.array_equal, kept, made))


def test_folders_go_by_their_numbers(tmp_path):
    """A benchmark asks one text twice: `10` is not the first of the two because its name sorts so."""
    (tmp_path / "prompts").mkdir()
    lines = []
    for number in range(11):
        folder = tmp_path / "theirs" / str(number)
        picture(folder / "samples" / "0000.png", number)
        record = {"tag": "", "prompt": "a dog" if number in (2, 10) else f"{number} cats"}
        lines.append(json.dumps(record) + "\n")
        (folder / "metadata.jsonl").write_text(lines[-1], "utf-8")
    (tmp_path / "prompts" / "p.jsonl").write_text("".join(lines), "utf-8")
    (tmp_path / "own.toml").write_text('[prompts]\nfile = "p.jsonl"\n', "utf-8")
    asked = ("--name", "they", "--benchmark", "own", "--benchmark-path", ".", "--out", "run")
    code, out = run_here(tmp_path, "import", "theirs", *asked)
    assert code == 0, out
    for number in (2, 10):
        given = read_picture(tmp_path / "theirs" / str(number) / "samples" / "0000.png").pixels
        (kept,) = (tmp_path / "run").rglob(f"images/{number:05d}-00.png")
        assert np.array_equal(read_picture(kept).pixels, given)
