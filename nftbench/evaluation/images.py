"""The images of a run: made batch by batch, each bound by its digest to the run that made it.

One thread writes behind the drawing, batch after batch in their order: what lies there at any moment is what would lie
there had each been written before the next was drawn, up to `BEHIND` batches.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.planning import Work
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.machine.encoders import RememberedTexts
from nftbench.generation.sampling import generate_each, refuse_not_finite, refuse_other_steps
from nftbench.generation.settings.drawn import counting
from nftbench.runs.processes import ALONE, Processes
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Progress

LOG = logging.getLogger("nftbench")
Pixels = Sequence[np.ndarray | str]
"""A batch's images, uint8 RGB (H, W, 3) each, or the reason why there is none."""

BEHIND = 2
"""Batches that may wait to be written; more would only hold memory."""


class Behind(AbstractContextManager):
    """Work that follows the drawing in a thread of its own, in order; at the end of the block all of it is done.

    After an error in it nothing more is done, and the block ends with that error.
    """

    def __init__(self, *, whatever_happens: bool = True) -> None:
        """Nothing follows yet.

        Args:
            whatever_happens: whether what waits is done after an error of the drawing, too.
        """
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._whatever_happens = whatever_happens
        self._failed = False

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be done."""
        return self._failed

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None and not self._whatever_happens:
            self._failed = True
            self._waiting.clear()
        try:
            self._wait(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def follow(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Have work done, and `then` here once it is; waits while `BEHIND` others are not done yet."""
        self._waiting.append((self._thread.submit(self._do, work), then))
        self._wait(BEHIND)

    def _do(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:  # handed on by the future
            self._failed = True
            raise

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left or (self._waiting and self._waiting[0][0].done()):
            done, then = self._waiting.popleft()
            try:
                done.result()
                then()
            except BaseException:  # an interrupt while it waits is one, too
                self._failed = True
                self._waiting.clear()
                raise


def make_images(
    run: Run,
    work: Work,
    policy: LoadedModel,
    progress: Progress,
    processes: Processes = ALONE,
    then: Callable[[int, list[Sample], Pixels], None] = lambda *_: None,
) -> None:
    """Generate this process's batches whose images do not all lie there as they were made.

    Args:
        run: the run.
        work: one of its benchmarks.
        policy: the checkpoint.
        progress: told of progress after every batch.
        processes: that share the batches.
        then: told of each batch, by number, once its images and their digests lie there, and given the pixels.

    Raises:
        ConfigError: the memory does not do for one image; or none has pixels that are finite numbers. Where only some
            have none they failed, and the run goes on.
    """
    origin, total, at_once = image_origin(policy.digest, work.protocol), len(work.samples), 0
    mine = processes.share(list(work.batches()))
    missing = [(n, batch) for n, batch in mine if not _made(run, work, n, batch, origin)]
    numbers, works = {number for number, _ in missing}, len(missing) < len(mine)
    with RememberedTexts(policy.pipeline) as texts, Behind() as behind:
        encoded = texts.ahead(missing, work.settings or work.protocol)
        for number, batch in mine:
            done = number * work.batch_size + len(batch)
            said = partial(progress, f"{work.name}: images", done, total)
            if number not in numbers:
                behind.follow(_nothing, said)
                continue
            next(encoded)
            pixels, at_once = _generated(policy, work, batch, at_once or work.batch_size)
            works = works or not all(isinstance(one, str) for one in pixels)
            if not works:
                refuse_not_finite(policy.pipeline, batch, pixels)
            saved = partial(run.save_images, work.name, number, batch, pixels, origin)
            behind.follow(saved, partial(_told, said, partial(then, number, batch, pixels)))


def _told(*all_of_them: Callable[[], None]) -> None:
    for one in all_of_them:
        one()


def _nothing() -> None:
    """What there is to write of images that lie there already."""


def _made(run: Run, work: Work, number: int, batch: Sequence[Sample], origin: str) -> bool:
    """Whether a batch's images all lie there as they were made."""
    made = run.made(work.name, number, batch, origin)
    return all(made) and made == [run.image_digest(work.name, s) for s in batch]


def _generated(
    policy: LoadedModel, work: Work, batch: Sequence[Sample], at_once: int
) -> tuple[list[np.ndarray | str], int]:
    """A batch's pixels, or why there are none, and how many images at once the memory does for from then on."""
    while True:
        parts = [batch[i : i + at_once] for i in range(0, len(batch), at_once)]
        try:
            settings = work.settings or work.protocol
            with counting(policy.pipeline, work.settings, len(parts[0])):
                drawn = [generate_each(policy.pipeline, part, settings) for part in parts]
            policy.refuse_written_over()
            if work.settings:
                refuse_other_steps(policy.pipeline, work.settings)
            return [pixels for part in drawn for pixels in part], at_once
        except (torch.OutOfMemoryError, MemoryError) as error:
            if at_once == 1:
                raise ConfigError(
                    f"out of memory with one image at once ({str(error).partition('.')[0]}); choose a smaller --size, "
                    "--quantize, or a machine with more"
                ) from None
        at_once = (min(at_once, len(batch)) + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        LOG.warning("out of memory: continuing with %d images at once", at_once)


def image_origin(checkpoint: str, protocol: Protocol) -> str:
    """What binds an image to the run that made it."""
    return f"{checkpoint} {protocol.hash}"


def images_here(run: Run, work: Work) -> dict[str, str]:
    """Digest of each image as it was made and still is; empty where the file is gone.

    Raises:
        ConfigError: images that were changed or come from elsewhere, or none at all; says how to make them again.
    """
    made_by = run.manifest["checkpoint"]["digest"]
    origin = image_origin(made_by, run.protocols()[work.name])
    here, changed = {}, []
    for number, batch in work.batches():
        for sample, made in zip(batch, run.made(work.name, number, batch, origin), strict=True):
            here[sample.key] = run.image_digest(work.name, sample)
            if here[sample.key] not in ("", made):
                changed.append(sample.key)
    remedy = f"make them again by the same `nftbench eval ... --out {run.folder}`"
    if changed:
        raise ConfigError(
            f"{run.folder}: {len(changed)} images of {work.name} are not those that this run made, "
            f"the first {changed[0]}.png; {remedy}"
        )
    if not any(here.values()):
        failed = {
            k: v for number, _ in work.batches() for k, v in run.failed(work.name, number).items()
        }
        why = next((f" ({key}: {reason[:200]})" for key, reason in failed.items()), "")
        raise ConfigError(f"{run.folder}: no image of {work.name} is there{why}; {remedy}")
    return here
