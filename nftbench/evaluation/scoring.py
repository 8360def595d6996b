"""Images that lie on disk, scored by one reward: what cannot be read is NaN with the reason, the rest is scored."""

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import rewards as registry
from nftbench.generation.sampling import Sample
from nftbench.runs.pictures import read_picture
from nftbench.runs.run_folder import as_text, score_table
from rewards.base import ConfigError, Prompt, Reward, Scores


def score_files(reward: Reward, paths: Sequence[Path], prompts: Sequence[Prompt]) -> Scores:
    """Score image files of any size.

    Args:
        reward: the scorer.
        paths: N image files.
        prompts: N prompts, one a file.

    Returns:
        Scores of the N files; NaN and the reason where a file is absent, truncated or no image.
    """
    images: dict[int, np.ndarray] = {}
    reasons, converted = [""] * len(paths), [""] * len(paths)
    for i, (path, prompt) in enumerate(zip(paths, prompts, strict=True)):
        try:
            picture = read_picture(path)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            why = error.strerror if isinstance(error, OSError) else ""
            reasons[i] = f"unreadable image: {why or as_text(str(error))}"
            continue
        if as_text(prompt.text) != prompt.text:
            reasons[i] = "the prompt holds half a surrogate pair, which is no character"
            continue
        images[i], converted[i] = picture.pixels, picture.converted
    scored = [(group, _score(reward, group, images, prompts)) for group in _same_size(images)]
    return _gather(scored, reasons, converted)


def score_again(
    reward: Reward, known: pd.DataFrame, batch: Sequence[Sample], paths: Sequence[Path]
) -> pd.DataFrame:
    """Ask again for what could not be scored.

    Args:
        reward: the scorer.
        known: its `score_table` of a batch.
        batch: N images.
        paths: N files.

    Returns:
        `known` itself where nothing changed, else the table anew.
    """
    key = reward.info.key
    failed = np.flatnonzero(known[key].isna())
    some = [batch[i] for i in failed]
    scores = score_files(reward, [paths[i] for i in failed], [s.prompt for s in some])
    fresh = score_table(key, some, scores)
    if fresh.equals(
        known.iloc[failed][fresh.columns.intersection(known.columns)].reset_index(drop=True)
    ):
        return known
    whole = pd.concat([known.drop(index=failed), fresh]).set_index("key").loc[known["key"]]
    wide = fresh if len(fresh.columns) > len(known.columns) else known
    return whole.reset_index()[wide.columns]


def scorer_identity(reward: Reward) -> str:
    """What tells a scorer from every other: all it says of itself, its weights' digests among that, and its code."""
    said = json.dumps(asdict(reward.info), sort_keys=True)
    return hashlib.sha256(f"{said} {_code_digest(type(reward))}".encode()).hexdigest()[:16]


@cache
def _code_digest(kind: type) -> str:
    """sha256 of the source of a reward's class: of `rewards`, its whole folder and the modules beside it."""
    file = Path(inspect.getsourcefile(kind) or "")
    home = Path(registry.__file__).parent
    files = {file}
    if file.is_relative_to(home):
        files |= {*file.parent.glob("*.py"), *home.glob("*.py")}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def _same_size(images: dict[int, np.ndarray]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in images.items():
        groups[image.shape].append(i)
    return list(groups.values())


def _score(
    reward: Reward, group: list[int], images: dict[int, np.ndarray], prompts: Sequence[Prompt]
) -> Scores:
    try:
        return reward.score(np.stack([images[i] for i in group]), [prompts[i] for i in group])
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"out of memory at {len(group)} images at once ({str(error).partition('.')[0]}); choose a smaller "
            "--batch-size, for a run another --out too"
        ) from None


def _gather(
    scored: list[tuple[list[int], Scores]], reasons: list[str], converted: Sequence[str]
) -> Scores:
    """Scores of groups of images, put back into the order of all images."""
    count = len(reasons)
    values = np.full(count, np.nan, dtype=np.float32)
    evidence: list[Any] = [{}] * count
    parts: dict[str, np.ndarray] = {}
    for group, scores in scored:
        values[group] = scores.values
        for name, part in scores.parts.items():
            parts.setdefault(name, np.full(count, np.nan, dtype=np.float32))[group] = part
        for place, i in enumerate(group):
            reasons[i] = scores.reasons[place]
            evidence[i] = dict(scores.evidence[place]) if scores.evidence else {}
            if converted[i]:
                evidence[i]["converted"] = converted[i]
    return Scores(values=values, reasons=tuple(reasons), parts=parts, evidence=tuple(evidence))
