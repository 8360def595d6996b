"""Scores that are given while the next images are drawn: a GPU that draws does not wait for a CPU that reads words.

Nothing here decides a number: a batch is scored early by what scores it later (`score_batch`), from the files that lie
there, bound to the same digests. `score_images` goes over all of it afterwards, and scores what is left.
"""

from contextlib import AbstractContextManager
from functools import partial

import torch

from nftbench.benchmark.samples import Sample
from nftbench.evaluation.images import Behind, Pixels
from nftbench.evaluation.planning import Work
from nftbench.evaluation.scoring.batches import (
    PICTURES,
    Early,
    Pictures,
    Turn,
    bound_to,
    find,
    score_batch,
)
from nftbench.evaluation.scoring.files import scorer_identity
from nftbench.evaluation.scoring.in_turn import stays
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.image_service import ImageService
from nftbench.runs.run_folder import Run
from rewards.base import Progress


def draws_elsewhere(policy: LoadedModel | ImageService) -> bool:
    """Whether the CPU has little to do while images are drawn."""
    if isinstance(policy, ImageService):
        return False  # its images are asked for together
    device = policy.hardware.get("device") or policy.pipeline.device
    return torch.device(device).type != "cpu"


class EarlyScores(AbstractContextManager):
    """Scores batches that were drawn, in a thread of its own, by the rewards that are in memory at all times.

    At most `BEHIND` batches wait, then the drawing does. An error of a reward ends the block; after any other error
    what waits is left.
    """

    def __init__(
        self, run: Run, progress: Progress, *, wanted: bool = True, retry_failed: bool = True
    ) -> None:
        """Nothing is scored yet.

        Args:
            run: the run.
            progress: told of progress after every batch.
            wanted: whether anything is scored early.
            retry_failed: as for `score_images`.
        """
        self._wanted = wanted
        self._run, self._progress, self._retry_failed = run, progress, retry_failed
        self._behind = Behind(whatever_happens=False)
        self._scorers: dict[str, str] = {}
        self.done = Early(Pictures(PICTURES))
        """What was drawn, and what was scored."""

    def __exit__(self, error: type[BaseException] | None, *more: object) -> None:
        self._behind.__exit__(error, *more)

    def follow(self, work: Work, number: int, batch: list[Sample], pixels: Pixels) -> None:
        """Have a batch scored whose images and digests lie there; waits while too many others are not done."""
        self.done.pictures.keep(work.name, number, pixels)
        keys = [key for key, reward in work.rewards.items() if self._wanted and stays(reward)]
        for key in keys:
            if key not in self._scorers:
                self._scorers[key] = scorer_identity(work.rewards[key])
        if keys:
            self._behind.follow(
                partial(self._score, work, keys, number, batch),
                partial(self._tell, work, keys, number, batch),
            )

    def _score(self, work: Work, keys: list[str], number: int, batch: list[Sample]) -> None:
        here = {s.key: self._run.image_digest(work.name, s) for s in batch}
        pictures = Pictures(PICTURES)
        for key in keys:
            if self._behind.stopped:
                return
            bound = bound_to(batch, here, self._scorers[key])
            turn = Turn(self._run, work, key, number, batch, bound, self._retry_failed)
            score_batch(turn, find(pictures, turn))()

    def _tell(self, work: Work, keys: list[str], number: int, batch: list[Sample]) -> None:
        done = number * work.batch_size + len(batch)
        for key in keys:
            self.done.scored.add((work.name, key, number))
            self._progress(f"{work.name}: {key}", done, len(work.samples))
