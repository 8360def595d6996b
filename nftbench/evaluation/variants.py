"""How far the variants of one reward disagree on the same images."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import rewards as registry
from nftbench.benchmark.prompts import text_lines
from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.evaluation.image_lists import read_image_list
from nftbench.evaluation.scoring.files import score_files
from nftbench.evaluation.scoring.loading import load_rewards, quiet
from nftbench.runs.io import write_atomic
from nftbench.runs.run_folder import MANIFEST, Run
from rewards.base import ConfigError, Progress, Prompt, Reward
from rewards.measuring.variants import Disagreement, disagreements

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What came of comparing variants."""

    pairs: Sequence[Disagreement]
    missing: Mapping[str, str]
    """Variants that could not score, and why."""


def variants_of(name: str) -> list[str]:
    """Full keys of all variants of a reward.

    Args:
        name: with or without a variant.

    Raises:
        ConfigError: no such reward, or one without variants.
    """
    bare = name.partition("@")[0]
    keys = [key for key in registry.available() if key.partition("@")[0] == bare]
    if len(keys) < 2:
        registry.resolve(name)
        raise ConfigError(f"reward {name!r} has no variants to compare")
    return keys


def compare(
    keys: Sequence[str],
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Progress,
) -> Comparison:
    """Score the same images by several variants.

    Args:
        keys: full keys.
        paths: N images.
        prompts: N, one an image.
        batch_size: images scored at once.
        progress: told of what is done.
    """
    scores, missing = {}, {}
    quiet()
    for key in keys:
        scored = _scored(key, paths, prompts, batch_size, progress)
        if isinstance(scored, str):
            missing[key] = scored
        else:
            scores[key] = scored
    return Comparison(pairs=disagreements(scores), missing=missing)


def write_csv(path: Path, found: Comparison, paths: Sequence[Path]) -> None:
    """One row a pair of variants, then one for each variant that could not score."""
    rows = [
        asdict(d) | {"worst": paths[d.worst].name if d.n else "", "reason": ""} for d in found.pairs
    ]
    rows += [{"first": key, "n": 0, "reason": reason} for key, reason in found.missing.items()]
    write_atomic(path, pd.DataFrame(rows).to_csv(index=False).encode())


def _scored(
    key: str,
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Progress,
) -> np.ndarray | str:
    """Values of one variant, (N,), NaN for what it cannot score; or in words why it has none."""
    try:
        reward = load_rewards(key)[key]
        places = _scorable(reward, prompts)
    except ConfigError as error:
        return str(error)
    values = np.full(len(paths), np.nan, dtype=np.float32)
    reason = "there is no image"
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        scores = score_files(reward, [paths[i] for i in batch], [prompts[i] for i in batch])
        values[batch] = scores.values
        reason = next(filter(None, scores.reasons), reason)
        progress(key, start + len(batch), len(places))
    return reason if np.isnan(values).all() else values


def _scorable(reward: Reward, prompts: Sequence[Prompt]) -> list[int]:
    """Places of the prompts that a reward can score.

    Raises:
        ConfigError: it can score none of them.
    """
    try:
        reward.check(prompts)
    except ConfigError as error:
        refused = error
    else:
        return list(range(len(prompts)))
    places = []
    for i, prompt in enumerate(prompts):
        with suppress(ConfigError):
            reward.check([prompt])
            places.append(i)
    if not places:
        raise refused
    return places


# --- images ---------------------------------------------------------------------------------------


def read_images(source: Path) -> tuple[list[Path], list[Prompt]]:
    """Images and their prompts.

    Args:
        source: a run, a list `images.jsonl` of {image, prompt} lines, or a folder of images with such a list or a
            `.txt` of prompts in it or beside it.

    Raises:
        ConfigError: none of these.
    """
    if source.is_file():
        return read_image_list(source)
    if not source.is_dir():
        raise ConfigError(f"{source} is neither a folder nor a list of images")
    if (source / MANIFEST).is_file():
        return _run_images(source)
    near = [*source.iterdir(), *source.absolute().parent.glob(f"{source.absolute().name}.*")]
    lists = sorted(path for path in near if path.suffix in (".jsonl", ".txt"))
    if len(lists) != 1:
        found = ", ".join(path.name for path in lists) or "none"
        raise ConfigError(
            f"expected one .jsonl or .txt of prompts in {source} or beside it, found {found}"
        )
    if lists[0].suffix == ".jsonl":
        return read_image_list(lists[0])
    return _with_lines(source, lists[0])


def _run_images(folder: Path) -> tuple[list[Path], list[Prompt]]:
    run = Run.open(folder)
    paths, prompts = [], []
    for name, protocol in run.protocols().items():
        chosen = choose(load_benchmark(protocol.benchmark).load(), protocol.limit)
        for sample in samples(chosen, protocol.images_per_prompt):
            paths.append(run.image_path(name, sample))
            prompts.append(sample.prompt)
    return paths, prompts


def _with_lines(folder: Path, lines: Path) -> tuple[list[Path], list[Prompt]]:
    """A folder's images by name, a line of text each."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    texts = text_lines(lines, lines.read_bytes())
    if len(texts) != len(paths):
        raise ConfigError(f"{lines} has {len(texts)} lines for {len(paths)} images in {folder}")
    return paths, [Prompt(id=f"{i:05d}", text=text) for i, text in enumerate(texts)]
