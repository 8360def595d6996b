"""What is read ahead of the scoring: all of it, in order, one at a time, and once for all rewards."""

import threading

import numpy as np
import pytest

from nftbench.evaluation import evaluate
from nftbench.evaluation.evaluate import score
from nftbench.evaluation.images import images_here
from nftbench.evaluation.scoring import batches, early, files
from nftbench.evaluation.scoring.batches import ahead
from nftbench.runs.run_folder import Run
from rewards.images.pixels import read_picture
from tests.helpers.runs.small_evaluation import evaluated, quietly, table, work
from tests.helpers.runs.small_evaluation import files as every_file


def test_the_next_one_is_made_while_this_one_is_used_and_no_more():
    made = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        made[item].set()
        return item * 10

    seen = []
    for item, found in ahead(work, range(5)):
        assert all(one.wait(30) for one in made[: item + 2])
        assert not any(one.is_set() for one in made[item + 2 :])
        seen.append((item, found))
    assert seen == [(i, i * 10) for i in range(5)]


def test_it_is_another_thread_that_makes_it():
    threads = [who for _, who in ahead(lambda _: threading.current_thread(), "ab")]
    assert threads[0] is threads[1] is not threading.current_thread()


def test_an_error_comes_in_its_turn():
    one_by_one = []
    with pytest.raises(ZeroDivisionError):
        for item, _ in ahead(lambda item: 1 / item, [2, 1, 0, 5]):
            one_by_one.append(item)
    assert one_by_one == [2, 1]


def test_nothing_ahead_of_nothing():
    assert list(ahead(str, [])) == []


IMAGE = 64 * 64 * 3
"""Bytes of a picture of pocket's."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most", "reads"),
    [(1 << 28, 12), (5 * IMAGE, 12 + 7 + 7), (0, 36)],
    ids=["all", "some", "none"],
)
def test_an_image_is_read_once_for_all_rewards_if_it_fits(
    policy, tmp_path, monkeypatch, most, reads
):
    """Batches of 5, 5 and 2: where five images fit it is the first batch that is kept."""
    judges, asked = "jpeg,pickscore@pocket,clipscore@pocket", []
    whole = evaluated(tmp_path / "whole", policy, work(judges=judges))
    run = evaluated(tmp_path / "run", policy, work())
    for path in (run.folder / "geneval-pocket" / "scores").rglob("*.parquet"):
        path.unlink()
    monkeypatch.setattr(batches, "PICTURES", most)
    monkeypatch.setattr(
        files, "read_picture", lambda path: asked.append(path) or read_picture(path)
    )
    rows = score(Run(run.folder), [work(judges=judges)], quietly)
    assert len(asked) == reads
    assert sorted((r.metric, r.value) for r in rows) == sorted(
        (r.metric, r.value) for r in score(Run(whole.folder), [work(judges=judges)], quietly)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("most", "reads"), [(1 << 28, 0), (5 * IMAGE, 7)], ids=["all", "some"])
def test_what_was_just_drawn_is_not_read_and_every_byte_is_the_same(
    policy, tmp_path, monkeypatch, most, reads
):
    asked = []
    monkeypatch.setattr(early, "PICTURES", 0)
    monkeypatch.setattr(
        files, "read_picture", lambda path: asked.append(path) or read_picture(path)
    )
    read = evaluated(tmp_path / "read", policy)
    assert len(asked) == 12
    monkeypatch.setattr(early, "PICTURES", most)
    kept = evaluated(tmp_path / "kept", policy)
    assert len(asked) == 12 + reads
    assert every_file(kept.folder) == every_file(read.folder)


@pytest.mark.slow
def test_a_file_that_goes_before_it_is_scored_is_not_scored_from_memory(
    policy, tmp_path, monkeypatch
):
    gone = tmp_path / "run" / "geneval-pocket" / "images" / "0000-02.png"

    def without_it(run, work):
        gone.unlink()
        return images_here(run, work)

    monkeypatch.setattr(evaluate, "images_here", without_it)
    found = table(evaluated(tmp_path / "run", policy)).set_index("key")
    assert found["jpeg"].isna().sum() == 1 and np.isnan(found.loc["0000-02", "jpeg"])
    assert "No such file" in found.loc["0000-02", "jpeg:reason"]
