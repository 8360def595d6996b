"""A run's images, scored batch by batch: a score is kept with the image, prompt and scorer that it is of.

While a batch is scored, one thread reads the next one's images and another writes the last one's scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow

from nftbench.benchmark.samples import Sample
from nftbench.evaluation.images import Behind
from nftbench.evaluation.planning import Work
from nftbench.evaluation.scoring.files import (
    Opened,
    any_failed,
    open_files,
    score_again,
    score_opened,
    scorer_identity,
)
from nftbench.evaluation.scoring.in_turn import in_order
from nftbench.runs.processes import ALONE, Processes
from nftbench.runs.run_folder import Bound, Run, score_table
from rewards.base import Progress, Prompt, Reward

T = TypeVar("T")
R = TypeVar("R")
PICTURES = 1 << 28
"""Bytes of pixels that wait for the rewards to come: 85 images of 1024 pixels, all of a benchmark of pocket's."""
Scored = tuple[str, str, int]
"""A batch and who scored it: the benchmark's name, the reward's key, the batch's number."""


def score_images(
    run: Run,
    works: Sequence[Work],
    here: Sequence[Mapping[str, str]],
    progress: Progress,
    processes: Processes = ALONE,
    *,
    retry_failed: bool = True,
    early: "Early | None" = None,
) -> None:
    """Score this process's batches that a reward has not scored yet: these images and prompts, by this very scorer.

    Rewards take turns, each for all benchmarks: a large one is loaded once.

    Args:
        run: the run.
        works: its benchmarks.
        here: digest of each image (`images_here`), of each of them.
        progress: told of progress after every batch.
        processes: that share the batches.
        retry_failed: whether images that a reward failed on are scored again.
        early: what this very command has done: images that failed in it are not asked for again.
    """
    rewards = {key: reward for work in works for key, reward in work.rewards.items()}
    scorers = {key: scorer_identity(reward) for key, reward in rewards.items()}
    turns = [(key, *pair) for key in in_order(rewards) for pair in zip(works, here, strict=True)]
    early = early or Early(Pictures(PICTURES if len(rewards) > 1 else 0))
    for key, work, images in turns:
        mine = processes.share(list(work.batches())) if key in work.rewards else []
        ends = [number * work.batch_size + len(batch) for number, batch in mine]
        known = {number for number, _ in mine if (work.name, key, number) in early.scored}
        in_turn = sorted(mine, key=lambda one: one[0] not in known)
        asked = (
            Turn(
                run,
                work,
                key,
                number,
                batch,
                bound=bound_to(batch, images, scorers[key]),
                retry_failed=retry_failed and number not in known,
            )
            for number, batch in in_turn
        )
        with Behind() as writing:  # a second core writes what this one has scored
            for done, (turn, found) in zip(
                ends, ahead(partial(find, early.pictures), asked), strict=True
            ):
                tell = partial(progress, f"{work.name}: {key}", done, len(work.samples))
                saved = score_batch(turn, found)
                writing.follow(saved, tell if turn.number not in known else nothing)


@dataclass(frozen=True)
class Turn:
    """A batch whose turn it is before a reward."""

    run: Run
    work: Work
    key: str
    """The reward's."""
    number: int
    batch: Sequence[Sample]
    bound: Bound
    """What its scores must be bound to, all of it."""
    retry_failed: bool

    @property
    def reward(self) -> Reward:
        """The scorer."""
        return self.work.rewards[self.key]

    @property
    def prompts(self) -> list[Prompt]:
        """What was asked for, an image each."""
        return [s.prompt for s in self.batch]

    @property
    def paths(self) -> list[Path]:
        """Where the images lie."""
        return [self.run.image_path(self.work.name, s) for s in self.batch]

    @property
    def absent(self) -> dict[Path, str]:
        """Why an image was never made, by its path; empty where it was."""
        failed = self.run.failed(self.work.name, self.number)
        return {p: failed.get(s.key, "") for p, s in zip(self.paths, self.batch, strict=True)}


class Pictures:
    """Images that were drawn, or read for one reward, kept for the next ones: of the first batches, as many as fit."""

    def __init__(self, most: int) -> None:
        """None yet.

        Args:
            most: bytes of pixels that are kept.
        """
        self._left = most
        self._drawn: dict[tuple[str, int], Sequence[np.ndarray | str]] = {}
        self._kept: dict[tuple[str, int], Opened] = {}

    def keep(self, benchmark: str, number: int, pixels: Sequence[np.ndarray | str]) -> None:
        """Keep a batch that was just drawn, (H, W, 3) each, or why there is none: its files need not be read."""
        if self._fits(one for one in pixels if not isinstance(one, str)):
            self._drawn[benchmark, number] = pixels

    def of(self, turn: Turn) -> Opened:
        """A batch's images. A file that is gone is, though its pixels were kept."""
        name = (turn.work.name, turn.number)
        if name in self._kept:
            return self._kept[name]
        drawn = self._drawn.pop(name, None)
        there = zip(drawn or (), turn.bound["sha256"], strict=bool(drawn))
        at_hand = [None if isinstance(one, str) or not digest else one for one, digest in there]
        opened = open_files(turn.paths, turn.prompts, turn.absent, at_hand)
        if drawn or self._fits(picture.pixels for picture in opened.pictures.values()):
            self._kept[name] = opened
        return opened

    def _fits(self, pixels: Iterable[np.ndarray]) -> bool:
        size = sum(one.nbytes for one in pixels)
        self._left -= size if (fits := size <= self._left) else 0
        return fits


@dataclass(frozen=True)
class Early:
    """What a command has done before it scores."""

    pictures: Pictures
    """Images that it drew."""
    scored: set[Scored] = field(default_factory=set)
    """Batches that it scored while others were drawn."""


def find(pictures: Pictures, turn: Turn) -> pyarrow.Table | Opened:
    """The scores that a batch has, given to these images and prompts by this scorer; else its images."""
    known = turn.run.batch_scores(turn.work.name, turn.key, turn.number, turn.bound)
    return known if known is not None else pictures.of(turn)


def score_batch(turn: Turn, found: pyarrow.Table | Opened) -> Callable[[], None]:
    """Score a batch, unless that was done.

    Args:
        turn: whose turn it is.
        found: by `find`.

    Returns:
        What writes the scores: may be called in another thread.
    """
    if isinstance(found, Opened):
        scores = score_opened(turn.reward, found, turn.prompts)
        table = score_table(turn.key, turn.batch, scores)
    elif turn.retry_failed and any_failed(found, turn.key):
        table = score_again(turn.reward, found, turn.batch, turn.paths, turn.absent)
    else:
        return nothing
    if table is found:
        return nothing
    return partial(turn.run.save_scores, turn.work.name, turn.key, turn.number, table, turn.bound)


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item and what work makes of it, in order: of the next one in another thread, while this one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        last: tuple[T, Future[R]] | None = None
        for item in items:
            coming = item, thread.submit(work, item)
            if last is not None:
                yield last[0], last[1].result()
            last = coming
        if last is not None:
            yield last[0], last[1].result()


def nothing() -> None:
    """There is nothing to write or to tell."""


def bound_to(batch: Sequence[Sample], here: Mapping[str, str], scorer: str = "") -> Bound:
    """What a batch's scores must be bound to.

    Args:
        batch: images.
        here: digest of each.
        scorer: whose scores; nothing where any one scorer will do.
    """
    bound = {
        "key": [s.key for s in batch],
        "sha256": [here[s.key] for s in batch],
        "prompt": [s.prompt.text for s in batch],
    }
    return {**bound, "scorer": [scorer] * len(batch)} if scorer else bound
