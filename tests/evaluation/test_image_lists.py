"""Lists survive their members, resume, and never overwrite what they are made of."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nftbench.evaluation.image_lists import read_image_list, score_list, scores_file
from rewards.base import ConfigError
from rewards.images.jpeg import Incompressibility
from tests.evaluation.scoring.test_files import Brightness, listed, picture
from tests.helpers.commands import run_here


def quietly(stage: str, done: int, total: int) -> None:
    """A report nobody reads."""


def scored(path: Path, out: Path | None = None, report=quietly, **rewards) -> pd.DataFrame:
    return score_list(path, rewards or {"bright": Brightness()}, 2, out, report)[1]


def strange(folder: Path) -> dict[str, str]:
    """Files that are no plain pictures, and a word of the reason."""
    Image.new("RGB", (8, 8)).save(folder / "a.avif")
    Image.new("RGB", (8, 8)).save(folder / "a.eps")
    Image.new("P", (8, 8)).save(folder / "a.blp")
    (folder / "bomb.png").write_bytes(
        bytes.fromhex("89504e470d0a1a0a0000000d49484452000186a0000186a00802000000")
    )
    os.mkfifo(folder / "fifo.png")
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (1, 200)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "float.tif")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    return {
        "a.avif": "not an image", "a.eps": "not an image", "a.blp": "not an image",
        "bomb.png": "", "fifo.png": "not an ordinary file", "moving.gif": "2 frames",
        "float.tif": "mode F", "itself.png": "", f"{'x' * 300}.png": "File name too long",
        "\ud800.png": "", "absent.png": "No such file",
    }  # fmt: skip


def test_one_bad_member_is_one_nan_with_its_reason(tmp_path):
    bad = strange(tmp_path)
    picture(tmp_path / "good.png", 40)
    lines = [{"image": name, "prompt": "x"} for name in bad]
    lines += [
        {"image": "good.png", "prompt": "half a \ud83d"},
        {"image": "good.png", "prompt": "x"},
    ]
    table = scored(listed(tmp_path, *lines))
    assert table["bright"].notna().tolist() == [False] * len(bad) + [False, True]
    reasons = table["bright:reason"].tolist()
    for (name, word), reason in zip(bad.items(), reasons, strict=False):
        assert reason.startswith("unreadable image: ") and word in reason, name
    assert "half a surrogate pair" in reasons[-2] and table["prompt"].iloc[-2] == "half a \\ud83d"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".parts")]


@pytest.mark.parametrize("nested", ["[" * 200_000, "1" * 10_000])
def test_a_line_that_no_reader_should_swallow_is_named(tmp_path, nested):
    path = listed(tmp_path, '{"image": "a.png", "prompt": "x", "include": ' + nested)
    with pytest.raises(ConfigError, match="line 1: expected a JSON object"):
        read_image_list(path)


LINES = {
    '{"image": "a.png", "prompt": "y", "id": "one"}': "id 'one' is 'x' in images.jsonl, line 1, and 'y' here",
    '{"image": "a.png", "prompt": "x", "id": "one", "tag": "t"}': "id 'one' is 'x' in",
    '{"image": "a.png", "prompt": "  "}': "expected 'prompt' to be a non-empty str",
    '{"image": "a.png", "prompt": "x", "tag": ["t"]}': "expected 'tag' to be a text",
    '{"image": "a.png", "prompt": "x", "inclde": []}': "unknown key 'inclde'; did you mean 'include'",
    '{"image": "a.png", "prompt": "x", "tagg": "t"}': "unknown key 'tagg'; did you mean 'tag'",
    '{"image": "a.png", "prompt": "x", "caption": "y"}': "'prompt' and 'caption' mean the same",
    '{"image": "a.png", "image": "b.png", "prompt": "x"}': "key 'image' stands twice",
    '{"image": "a.png", "prompt": "x", "id": null}': "expected an id",
    '{"image": "a.png", "prompt": NaN}': "expected 'prompt' to be a non-empty str",
    '{"image": ["a.png"], "prompt": "x"}': "expected 'image' to be a non-empty str",
    '{"image": "/etc/passwd", "prompt": "x"}': "leaves the list's folder",
}
"""A second line of a list -> what is said of it."""


@pytest.mark.parametrize(("line", "said"), LINES.items())
def test_a_line_that_would_mislead_is_refused(tmp_path, line, said):
    first = {"image": "a.png", "prompt": "x", "id": "one"}
    with pytest.raises(ConfigError, match="line 2: ") as refused:
        read_image_list(listed(tmp_path, first, line))
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"", b"\xef\xbb\xbf", b"\n\n", '{"a": 1}'.encode("utf-16"), b"{\0"]
)
def test_a_file_that_is_no_list_of_texts_is_refused(tmp_path, data):
    path = tmp_path / "images.jsonl"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"empty file|not UTF-8"):
        read_image_list(path)


def converted(tmp_path: Path, name: str, image: Image.Image, **more) -> tuple[float, str]:
    image.save(tmp_path / name, **more)
    table = scored(listed(tmp_path, {"image": name, "prompt": "x"}))
    return table["bright"][0], json.loads(table["bright:evidence"][0]).get("converted", "")


def test_each_kind_of_picture_is_converted_by_the_written_rule(tmp_path):
    grey = Image.fromarray(np.full((8, 8), 257 * 90, np.uint16))
    assert converted(tmp_path, "grey.png", grey) == (90, "16-bit grey divided by 257")
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert converted(tmp_path, "clear.png", clear) == (255, "alpha laid on white")
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert converted(tmp_path, "half.png", half) == (127, "alpha laid on white")
    assert converted(tmp_path, "whole.png", Image.new("RGBA", (8, 8), (9, 0, 0, 255))) == (9, "")
    turned = Image.new("RGB", (8, 4), (50, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    value, said = converted(tmp_path, "turned.png", turned, exif=exif)
    assert (value, said) == (50, "turned upright by its EXIF orientation")
    assert converted(tmp_path, "plain.png", Image.new("L", (8, 8), 70)) == (70, "")


class Stop(BaseException):
    """Somebody pulls the plug."""


def test_a_list_that_was_stopped_resumes(tmp_path):
    for i in range(6):
        picture(tmp_path / f"{i}.png", 10 * i + 5)
    path = listed(tmp_path, *({"image": f"{i}.png", "prompt": "x"} for i in range(6)))

    def stop(stage, done, total):
        if done == 4:
            raise Stop

    with pytest.raises(Stop):
        scored(path, None, stop)
    assert not (tmp_path / "images.scores.parquet").exists()
    picture(tmp_path / "0.png", 99)  # changed meanwhile: scored again
    again = Brightness()
    table = scored(path, bright=again)
    assert table["bright"].tolist() == [99, 15, 25, 35, 45, 55]
    assert [len(prompts) for _, prompts in again.shown] == [2, 2]  # the second batch was kept
    assert not (tmp_path / ".images.scores.parquet.parts").exists()


def test_what_a_line_asks_for_is_more_than_its_text(tmp_path):
    """Scores kept of a list that was stopped are of its metadata too."""
    for i in range(4):
        picture(tmp_path / f"{i}.png", 10 * i + 5)

    def lines(count: int) -> list[dict]:
        thing = {"class": "circle", "count": count}
        return [{"image": f"{i}.png", "prompt": "x", "include": [thing]} for i in range(4)]

    def stop(stage, done, total):
        raise Stop

    with pytest.raises(Stop):
        scored(listed(tmp_path, *lines(1)), None, stop)
    again = Brightness()
    scored(listed(tmp_path, *lines(2)), bright=again)
    assert [len(prompts) for _, prompts in again.shown] == [2, 2]  # nothing of the first was kept


def test_lines_of_one_prompt_are_one_cluster(tmp_path):
    picture(tmp_path / "a.png", 9)
    lines = [{"image": "a.png", "prompt": text} for text in ("x", "y", "x")]
    _, prompts = read_image_list(
        listed(tmp_path, *lines, {"image": "a.png", "prompt": "x", "id": "z"})
    )
    assert [p.id for p in prompts] == ["00000", "00001", "00000", "z"]


def test_one_text_under_two_tasks_is_one_cluster(tmp_path):
    for i in range(2):
        picture(tmp_path / f"{i}.png", 9 + i)
    lines = [{"image": f"{i}.png", "prompt": "x", "tag": tag} for i in (0, 1) for tag in "ab"]
    table = scored(listed(tmp_path, *lines))
    assert table["prompt_id"].tolist() == ["00000", "00001"] * 2
    assert table["cluster"].tolist() == ["00000"] * 4
    named = scored(listed(tmp_path, *(line | {"id": line["tag"]} for line in lines)))
    assert "cluster" not in named


@pytest.mark.parametrize(
    "out", ["a.png", "images.jsonl", "scores", "scores.tsv", "images.csv", "pipe.csv"]
)
def test_out_never_overwrites_what_the_list_is_made_of(tmp_path, out):
    picture(tmp_path / "a.png", 9)
    os.mkfifo(tmp_path / "pipe.csv")
    path = listed(tmp_path, {"image": "a.png", "prompt": "x"})
    if out == "images.csv":
        path = path.rename(tmp_path / out)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"ends in \.csv|is the list itself|not an ordinary"):
        scored(path, tmp_path / out)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()} == before


def test_csv_is_csv_and_no_formula(tmp_path):
    picture(tmp_path / "a.png", 9)
    path = listed(tmp_path, {"image": "a.png", "prompt": "=HYPERLINK(1)"})
    scored(path, tmp_path / "out.csv", jpeg=Incompressibility())
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["prompt"].tolist() == ["'=HYPERLINK(1)"] and table["jpeg"][0] > 0


def test_the_default_place_is_beside_the_list(tmp_path):
    assert scores_file(tmp_path / "a.jsonl", [], None) == tmp_path / "a.scores.parquet"


@pytest.mark.parametrize("named", [True, False])
def test_the_clusters_of_a_list_make_the_interval_that_its_import_has(tmp_path, named):
    """By the command: six prompts in two clusters, whose error is that of two and not of six."""
    lines = []
    for number in range(6):
        picture(tmp_path / f"{number}.png", 9 + 40 * (number // 3) + number)
        line = {"image": f"{number}.png", "prompt": f"thing {number}", "cluster": "ab"[number // 3]}
        lines.append(line | ({"id": f"p{number}"} if named else {}))
    listed(tmp_path, *lines)
    code, said = run_here(tmp_path, "score", "images.jsonl", "--rewards", "jpeg", "--json")
    assert code == 0, said
    (row,) = json.loads(said[said.index("{") : said.rindex("}") + 1])["rows"]
    imported = ("import", "images.jsonl", "--name", "m", "--out", "run", "--rewards", "jpeg")
    code, said = run_here(tmp_path, *imported)
    assert code == 0, said
    whole = pd.read_csv(tmp_path / "run" / "rows.csv").iloc[0]
    assert row["n_prompts"] == whole["n_prompts"] == 2
    for edge in ("value", "low", "high"):
        assert row[edge] == pytest.approx(whole[edge], abs=1e-6)


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder / "0.png", 9)
    listed(tmp_path, *({"image": f"{folder}/0.png", "prompt": "a cat"} for folder in "ab"))
    code, out = run_here(tmp_path, "score", "images.jsonl", "--rewards", "jpeg", "--out", "s.csv")
    assert code == 0, out
    assert pd.read_csv(tmp_path / "s.csv")["image"].tolist() == ["a/0.png", "b/0.png"]


def test_a_refusal_quotes_the_beginning_of_a_long_prompt(tmp_path):
    picture(tmp_path / "a.png", 9)
    listed(tmp_path, {"image": "a.png", "prompt": "a cat " * 200})
    code, out = run_here(tmp_path, "score", "images.jsonl", "--rewards", "ocr")
    assert code == 2 and "'a cat a cat" in out and "'..." in out and len(out) < 500, out
