"""A run's images, scored batch by batch: a score is kept with the image, prompt and scorer that it is of."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import pandas as pd

from nftbench.benchmark.samples import Sample
from nftbench.evaluation.images import Behind
from nftbench.evaluation.planning import Work
from nftbench.evaluation.scoring.files import score_again, score_files, scorer_identity
from nftbench.evaluation.scoring.in_turn import in_order
from nftbench.runs.processes import ALONE, Processes
from nftbench.runs.run_folder import BOUND, Run, score_table
from rewards.base import Progress

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
    early: Collection[Scored] = (),
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
        early: batches that this very command has scored: what failed in them is not asked again.
    """
    rewards = {key: reward for work in works for key, reward in work.rewards.items()}
    scorers = {key: scorer_identity(reward) for key, reward in rewards.items()}
    turns = [(key, *pair) for key in in_order(rewards) for pair in zip(works, here, strict=True)]
    for key, work, images in turns:
        mine = processes.share(list(work.batches())) if key in work.rewards else []
        ends = [number * work.batch_size + len(batch) for number, batch in mine]
        known = {number for number, _ in mine if (work.name, key, number) in early}
        in_turn = sorted(mine, key=lambda one: one[0] not in known)
        with Behind() as writing:  # a second core writes what this one has scored
            for done, (number, batch) in zip(ends, in_turn, strict=True):
                again = retry_failed and number not in known
                bound = bound_to(batch, images).assign(scorer=scorers[key])
                save = score_batch(run, work, key, number, batch, bound, retry_failed=again)
                tell = partial(progress, f"{work.name}: {key}", done, len(work.samples))
                writing.follow(save, tell if number not in known else nothing)


def score_batch(
    run: Run,
    work: Work,
    key: str,
    number: int,
    batch: Sequence[Sample],
    bound: pd.DataFrame,
    *,
    retry_failed: bool,
) -> Callable[[], None]:
    """Score a batch by one reward, unless that was done for these images and prompts by this scorer (`bound`).

    Returns:
        What writes the scores: may be called in another thread.
    """
    reward = work.rewards[key]
    known = run.batch_scores(work.name, key, number, bound)
    paths, prompts = [run.image_path(work.name, s) for s in batch], [s.prompt for s in batch]
    failed = run.failed(work.name, number)
    absent = {p: failed.get(s.key, "") for p, s in zip(paths, batch, strict=True)}
    if known is None:
        table = score_table(key, batch, score_files(reward, paths, prompts, absent))
    elif retry_failed and known.loc[:, key].isna().any():
        table = score_again(reward, known, batch, paths, absent)
    else:
        return nothing
    if table is known:
        return nothing
    return partial(run.save_scores, work.name, key, number, table, bound)


def nothing() -> None:
    """There is nothing to write or to tell."""


def bound_to(batch: Sequence[Sample], here: Mapping[str, str]) -> pd.DataFrame:
    """What a batch's scores must be bound to: `BOUND`, but for the scorer.

    Args:
        batch: images.
        here: digest of each.
    """
    columns = [[s.key, here[s.key], s.prompt.text] for s in batch]
    return pd.DataFrame(columns, columns=BOUND[:-1])
