"""Images on disk: what cannot be read is NaN with the reason, everything else is scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nftbench.evaluation.image_lists import read_image_list
from nftbench.evaluation.scoring.files import score_files
from rewards.base import ConfigError, Prompt, RewardInfo, Scores
from rewards.images.jpeg import Incompressibility, jpeg_kilobytes


class Brightness:
    """Mean red level; remembers what it was shown; refuses black images."""

    info = RewardInfo(name="bright", variant="", summary="", low=0, high=255)

    def __init__(self):
        self.shown = []

    def score(self, images, prompts):
        self.shown.append((images.shape, [p.id for p in prompts]))
        values = images[..., 0].mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
        black = values == 0
        values[black] = np.nan
        return Scores(
            values=values,
            reasons=tuple("black" if b else "" for b in black),
            parts={"half": values / 2},
            evidence=tuple({"id": p.id} for p in prompts),
        )

    def check(self, prompts):
        pass


def picture(path: Path, level: int, size: tuple[int, int] = (8, 8)) -> Path:
    Image.new("RGB", size, (level, 9, 9)).save(path)
    return path


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), text="x") for i in range(count)]


def test_what_cannot_be_read_is_nan_with_the_reason_and_the_rest_is_scored(tmp_path):
    whole = picture(tmp_path / "whole.png", 10).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:45])
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    picture(tmp_path / "black.png", 0)
    picture(tmp_path / "last.png", 30)
    names = ["whole", "absent", "cut", "words", "empty", "folder", "black", "last"]
    scores = score_files(Brightness(), [tmp_path / f"{n}.png" for n in names], prompts(8))
    nan = float("nan")
    np.testing.assert_array_equal(scores.values, [10, nan, nan, nan, nan, nan, nan, 30])
    np.testing.assert_array_equal(scores.parts["half"], [5, nan, nan, nan, nan, nan, nan, 15])
    reasons = dict(zip(names, scores.reasons, strict=True))
    assert reasons["whole"] == reasons["last"] == "" and reasons["black"] == "black"
    assert reasons["absent"] == "unreadable image: No such file or directory"
    assert reasons["words"].startswith("unreadable image: it is not an image")
    assert all(reasons[n].startswith("unreadable image: ") for n in ("cut", "empty", "folder"))
    assert [e.get("id") for e in scores.evidence] == ["0"] + [None] * 5 + ["6", "7"]


def test_nothing_readable_is_all_nan(tmp_path):
    scores = score_files(Brightness(), [tmp_path / "a.png", tmp_path / "b.png"], prompts(2))
    assert np.isnan(scores.values).all() and all(scores.reasons) and scores.parts == {}


def test_sizes_may_be_mixed_and_order_is_kept(tmp_path):
    sizes = [(8, 8), (8, 6), (8, 8), (6, 8), (8, 6)]
    paths = [picture(tmp_path / f"{i}.png", 10 + i, size) for i, size in enumerate(sizes)]
    judge = Brightness()
    assert score_files(judge, paths, prompts(5)).values.tolist() == [10, 11, 12, 13, 14]
    assert judge.shown == [
        ((2, 8, 8, 3), ["0", "2"]),
        ((2, 6, 8, 3), ["1", "4"]),
        ((1, 8, 6, 3), ["3"]),
    ]


def test_the_pixels_of_the_file_are_what_is_scored(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (value,) = score_files(Incompressibility(), [tmp_path / "a.png"], prompts(1)).values
    assert value == np.float32(jpeg_kilobytes(pixels))


# --- lists ----------------------------------------------------------------------------------------

GOOD = {"image": "a.png", "prompt": "a photo of a circle"}


def listed(folder: Path, *lines: str | dict) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "images.jsonl").write_text("".join(f"{t}\n" for t in text), encoding="utf-8")
    return folder / "images.jsonl"


def test_a_list_is_read(tmp_path):
    include = [{"class": "circle", "count": 1}]
    more = {"image": "sub/b.png", "id": "x", "tag": "colors", "include": include, "prompt": "b"}
    paths, found = read_image_list(listed(tmp_path, GOOD, more))
    assert paths == [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    assert found == [
        Prompt(id="00000", text="a photo of a circle"),
        Prompt(id="x", text="b", tag="colors", target={"include": include}),
    ]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "expected a JSON object"),
        ("", "expected a JSON object"),
        ({"prompt": "x"}, "'image' to be a non-empty str, got None"),
        ({"image": "a.png"}, "'prompt' to be a non-empty str, got None"),
        (GOOD | {"image": 3}, "'image' to be a non-empty str, got 3"),
        (GOOD | {"image": "../a.png"}, "'../a.png' leaves the list's folder"),
        (GOOD | {"image": "/etc/passwd"}, "'/etc/passwd' leaves the list's folder"),
        (GOOD | {"image": "sub/../../a.png"}, "leaves the list's folder"),
        (GOOD | {"image": "a\0.png"}, "null"),
        (GOOD | {"id": "a/b"}, "got 'a/b'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, wrong):
    path = listed(tmp_path, GOOD, line, GOOD)
    with pytest.raises(ConfigError) as caught:
        read_image_list(path)
    assert f"{path}, line 2: " in str(caught.value) and wrong in str(caught.value)


def test_lines_of_one_text_are_images_of_one_prompt(tmp_path):
    """Unless ids say otherwise: five prompts of eight images are five clusters, not forty."""
    lines = [json.dumps({"image": f"{i}.png", "prompt": f"prompt {i % 5}"}) for i in range(40)]
    lines.append(json.dumps({"image": "40.png", "prompt": "prompt 0", "id": "mine"}))
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    ids = [prompt.id for prompt in read_image_list(path)[1]]
    assert ids == [f"{i:05d}" for i in range(5)] * 8 + ["mine"]


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "list").mkdir()
    picture(tmp_path / "secret.png", 1)
    (tmp_path / "list" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ConfigError, match="leaves the list's folder"):
        read_image_list(listed(tmp_path / "list", GOOD))


def test_lists_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="no image list"):
        read_image_list(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="empty file"):
        read_image_list(listed(tmp_path))
    (tmp_path / "images.jsonl").write_bytes(b'{"image": "a.png", "prompt": "\xff"}\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_image_list(tmp_path / "images.jsonl")


class Hungry(Brightness):
    """Has memory for so many images at once."""

    most = 2

    def score(self, images, prompts):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().score(images, prompts)


def test_where_the_memory_does_not_do_halves_are_scored(tmp_path):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(7)]
    prompts = [Prompt(id=str(i), text="x") for i in range(7)]
    hungry, whole = score_files(Hungry(), paths, prompts), score_files(Brightness(), paths, prompts)
    np.testing.assert_array_equal(hungry.values, whole.values)
    assert hungry.reasons == whole.reasons == ("black", *[""] * 6)
    np.testing.assert_array_equal(hungry.parts["half"], whole.parts["half"])
    assert hungry.evidence == whole.evidence
    starved = Hungry()
    starved.most = 0
    with pytest.raises(ConfigError, match=r"bright cannot score one image \(CUDA out of memory\)"):
        score_files(starved, paths, prompts)
