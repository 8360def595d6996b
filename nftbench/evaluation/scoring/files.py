"""Images that lie on disk, scored by one reward: what cannot be read is NaN with the reason, the rest is scored."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import torch

import rewards as registry
from nftbench.benchmark.samples import Sample
from nftbench.evaluation.scoring.in_turn import InTurn
from nftbench.runs.io import as_frame
from nftbench.runs.run_folder import as_text, score_table
from rewards import own
from rewards.base import ConfigError, Prompt, Reward, Scores
from rewards.certify.code import modules_digest
from rewards.checked import CheckedReward, checked, gathered
from rewards.images.pixels import ImageError, Picture, read_picture

LOG = logging.getLogger("nftbench")
QUOTED = 80
"""Characters of a prompt that a refusal shows."""


@dataclass(frozen=True)
class Opened:
    """Image files as they were read."""

    pictures: Mapping[int, Picture]
    """By place among the files, those that can be scored."""
    reasons: Sequence[str]
    """Of every file: why it cannot be scored, else empty."""


def open_files(
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    absent: Mapping[Path, str] | None = None,
    drawn: Sequence[np.ndarray | None] = (),
) -> Opened:
    """Read image files of any size; may be called in another thread.

    Args:
        paths: N image files.
        prompts: N prompts, one a file.
        absent: why a file that cannot be read was never made, where that is known.
        drawn: the files' pixels where they are at hand, uint8 RGB (H, W, 3), or nothing; else a file is read.
    """
    pictures: dict[int, Picture] = {}
    reasons = [""] * len(paths)
    for i, (path, prompt) in enumerate(zip(paths, prompts, strict=True)):
        if as_text(prompt.text) != prompt.text:
            reasons[i] = "the prompt holds half a surrogate pair, which is no character"
            continue
        try:
            at_hand = drawn[i] if drawn else None
            pictures[i] = read_picture(path) if at_hand is None else Picture(at_hand)
        except ImageError as error:
            known = (absent or {}).get(path)
            reasons[i] = known or f"unreadable image: {as_text(str(error))}"
    return Opened(pictures, reasons)


def score_opened(reward: Reward, opened: Opened, prompts: Sequence[Prompt]) -> Scores:
    """Score N files that were read; NaN and the reason where a file is absent, truncated or no image."""
    if not opened.pictures:
        return unseen(opened.reasons)
    readable = [prompts[i] for i in opened.pictures]
    scores = _score(checked(reward), list(opened.pictures.values()), readable)
    return gathered([list(opened.pictures)], [scores], opened.reasons)


def score_files(
    reward: Reward,
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    absent: Mapping[Path, str] | None = None,
) -> Scores:
    """Read image files (`open_files`) and score them (`score_opened`)."""
    return score_opened(reward, open_files(paths, prompts, absent), prompts)


def unseen(reasons: Sequence[str]) -> Scores:
    """Scores of images of which none could be read."""
    return Scores(values=np.full(len(reasons), np.nan, np.float32), reasons=tuple(reasons))


def refuse_unscorable(reward: Reward, prompts: Sequence[Prompt]) -> None:
    """See `Reward.check`; of a prompt that is quoted in the refusal its beginning has to do.

    Raises:
        ConfigError: the reward cannot judge one of them.
    """
    try:
        reward.check(prompts)
    except ConfigError as error:
        said = str(error)
        for text in (p.text for p in prompts if len(p.text) > QUOTED):
            said = said.replace(repr(text), f"{text[:QUOTED]!r}...")
        raise type(error)(said) from None


def any_failed(scores: pyarrow.Table, key: str) -> bool:
    """Whether a reward's `score_table` lacks a value."""
    return bool(_lacks(scores, key).any())


def none_scored(scores: pyarrow.Table, key: str) -> bool:
    """Whether a reward's `score_table` has no value."""
    return bool(_lacks(scores, key).all())


def _lacks(scores: pyarrow.Table, key: str) -> np.ndarray:
    return np.asarray(pd.isna(scores.column(key).to_numpy()))


def score_again(
    reward: Reward,
    known: pyarrow.Table,
    batch: Sequence[Sample],
    paths: Sequence[Path],
    absent: Mapping[Path, str] | None = None,
) -> pyarrow.Table:
    """Ask again for what could not be scored.

    Args:
        reward: the scorer.
        known: its `score_table` of a batch.
        batch: N images.
        paths: N files.
        absent: as in `score_files`.

    Returns:
        `known` itself where nothing changed, else the table anew.
    """
    key, before = reward.info.key, as_frame(known)
    failed = np.flatnonzero(before[key].isna()).tolist()
    some = [batch[i] for i in failed]
    scores = score_files(reward, [paths[i] for i in failed], [s.prompt for s in some], absent)
    fresh = as_frame(score_table(key, some, scores))
    if fresh.equals(
        before.iloc[failed][fresh.columns.intersection(before.columns)].reset_index(drop=True)
    ):
        return known
    whole = pd.concat([before.drop(index=failed), fresh]).set_index("key").loc[before["key"]]
    wide = fresh if len(fresh.columns) > len(before.columns) else before
    return pyarrow.Table.from_pandas(whole.reset_index()[wide.columns], preserve_index=False)


def scorer_identity(reward: Reward) -> str:
    """What tells a scorer from every other: all it says of itself, its weights' digests among that, and its code."""
    said = json.dumps(asdict(reward.info), sort_keys=True)
    return hashlib.sha256(f"{said} {_code_digest(reward)}".encode()).hexdigest()[:16]


def _code_digest(reward: Reward) -> str:
    """Digest of the code that a reward's values follow from: its class, its factory and the door before it."""
    inner = reward.reward if isinstance(reward, CheckedReward) else reward
    kind = inner.kind if isinstance(inner, InTurn) else type(inner)
    modules = {CheckedReward.__module__, kind.__module__}
    target = registry.targets().get(reward.info.key)
    if target and reward.info.key not in own.ADDED:
        modules.add(target.partition(":")[0])
    return " ".join(modules_digest(module) for module in sorted(modules))


def _score(reward: CheckedReward, pictures: Sequence[Picture], prompts: Sequence[Prompt]) -> Scores:
    """Scores; where the memory does not do, of one half after the other."""
    try:
        return reward.score(pictures, prompts)
    except (torch.OutOfMemoryError, MemoryError) as error:
        count, said = len(pictures), str(error).partition(".")[0]
    if count == 1:
        raise ConfigError(
            f"out of memory: {reward.info.key} cannot score one image ({said}); run it elsewhere, such as "
            "--reward-device cpu"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    LOG.warning("out of memory: %s scores %d images in halves", reward.info.key, count)
    halves = [range(count // 2), range(count // 2, count)]
    scores = [_score(reward, [pictures[i] for i in h], [prompts[i] for i in h]) for h in halves]
    return gathered([list(h) for h in halves], scores, [""] * count)
