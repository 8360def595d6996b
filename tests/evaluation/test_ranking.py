"""Ranking accuracy: by hand, by a slow oracle, and on images of a known order."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nftbench.evaluation.ranking import Item, accuracy, load_ranking, pairs, rank, read_items
from rewards.base import ConfigError, Prompt
from rewards.images.jpeg import Compressibility, Incompressibility


def item(ranks, number=0) -> Item:
    prompt = Prompt(id=f"{number:05d}", text="a cat")
    return Item(prompt=prompt, images=tuple(f"{number}-{r}.png" for r in ranks), ranks=tuple(ranks))


def oracle(ranks, scores) -> tuple[int, int]:
    """(right, told apart): every pair both ways, as one would say it."""
    right = total = 0
    for a, b in itertools.permutations(range(len(ranks)), 2):
        if ranks[a] < ranks[b]:  # people like a better
            total += 1
            right += scores[a] > scores[b]
    return right, total


@pytest.mark.parametrize(
    ("ranks", "scores", "told"),
    [
        ([1, 2], [0.5, 0.1], [1]),
        ([2, 1], [0.5, 0.1], [0]),
        ([1, 2], [0.5, 0.5], [0]),  # a tie of the reward is no agreement
        ([1, 1], [0.5, 0.1], []),  # a tie of people is no pair
        ([1, 2, 5, 2], [4, 3, 2, 1], [1, 1, 1, 1, 0]),
    ],
)
def test_by_hand(ranks, scores, told):
    assert list(pairs(ranks, scores)) == told


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=2, max_size=9))
def test_as_the_oracle_counts(images):
    ranks, scores = zip(*images, strict=True)
    told = list(pairs(ranks, scores))
    assert (sum(told), len(told)) == oracle(ranks, scores)


def test_pairs_are_pooled_over_items_and_clustered_by_item():
    items = [item([1, 2, 3]), item([1, 2], 1), item([1, 1], 2)]
    found = accuracy(items, [[3.0, 2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert (found.value, found.n, found.n_failed, found.n_prompts) == (0.75, 4, 0, 2)
    # sums of residuals a cluster: 3 x 0.25 and -0.75; C/(C-1) = 2
    assert found.stderr == pytest.approx(math.sqrt(2 * (0.75**2 + 0.75**2)) / 4)


def test_an_unscored_image_takes_its_pairs_out_and_is_counted():
    found = accuracy([item([1, 2, 3])], [[3.0, np.nan, 1.0]])
    assert (found.value, found.n, found.n_failed) == (1.0, 1, 2)


def test_images_on_disk_are_ranked(tmp_path):
    """JPEG size is a reward that orders noise of growing strength."""
    chance = np.random.default_rng(0)
    items = [item([1, 2, 3], n) for n in range(3)]
    for one in items:
        for name, level in zip(one.images, (90, 40, 5), strict=True):
            noise = chance.integers(-level, level, (32, 32, 3)) + 128
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / items[2].images[0]).unlink()
    judges = {"jpeg": Incompressibility(), "jpeg@compressibility": Compressibility()}
    found = rank(items, tmp_path, judges, 4, lambda *said: None)
    assert (found["jpeg"].value, found["jpeg"].n, found["jpeg"].n_failed) == (1.0, 7, 2)
    assert found["jpeg@compressibility"].value == 0.0


def test_the_shipped_one_is_pinned():
    known = load_ranking("imagereward")
    assert (known.items, known.sha256[:16], known.size) == (466, "77cff6c2d0522006", 391362)


RECORD = {"id": "a", "prompt": "x", "generations": ["a.webp", "b.webp"], "ranking": [1, 2]}


def test_items_come_back(tmp_path):
    path = tmp_path / "test.json"
    path.write_text(json.dumps([RECORD]))
    (found,) = read_items(path)
    assert (found.prompt.text, found.images, found.ranks) == ("x", ("a.webp", "b.webp"), (1, 2))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"ranking": [1]}, "expected one rank an image, got 1 of 2"),
        ({"ranking": [1, "2"]}, "expected prompt, generations"),
        ({"prompt": None}, "expected prompt, generations"),
        ({"generations": ["../a.webp", "b.webp"]}, "'../a.webp' leaves the images' folder"),
        ({"generations": ["/a.webp", "b.webp"]}, "leaves the images' folder"),
    ],
)
def test_a_broken_item_is_named(tmp_path, change, wrong):
    path = tmp_path / "test.json"
    path.write_text(json.dumps([RECORD, RECORD | change]))
    with pytest.raises(ConfigError) as caught:
        read_items(path)
    assert f"{path}, item 1: " in str(caught.value) and wrong in str(caught.value)


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_file_that_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ConfigError, match="expected"):
        read_items(tmp_path / "test.json")


def test_items_that_were_not_fetched_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"run: nftbench data pull imagereward$"):
        load_ranking("imagereward").load()
    (tmp_path / "imagereward").mkdir()
    (tmp_path / "imagereward" / "test.json").write_text(json.dumps([RECORD]))
    with pytest.raises(ConfigError, match="expected sha256 77cff6c2d0522006"):
        load_ranking("imagereward").load()
