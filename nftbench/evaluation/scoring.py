"""Images that lie on disk, judged by one reward: what cannot be read is NaN with the reason, the rest is scored."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nftbench.benchmark.prompts import check_id, json_object, required, text_lines
from nftbench.runs.io import read_image
from rewards.base import ConfigError, Prompt, Reward, Scores


def score_files(reward: Reward, paths: Sequence[Path], prompts: Sequence[Prompt]) -> Scores:
    """Judge image files of any size.

    Args:
        reward: the judge.
        paths: N image files.
        prompts: N prompts, one a file.

    Returns:
        Scores of the N files; NaN and the reason where a file is absent, truncated or no image.
    """
    images: dict[int, np.ndarray] = {}
    reasons = [""] * len(paths)
    for i, path in enumerate(paths):
        try:
            images[i] = read_image(path)
        except OSError as error:
            reasons[i] = f"unreadable image: {error.strerror or error}"
    scored = [(group, _score(reward, group, images, prompts)) for group in _same_size(images)]
    return _gather(scored, reasons)


def _same_size(images: dict[int, np.ndarray]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in images.items():
        groups[image.shape].append(i)
    return list(groups.values())


def _score(
    reward: Reward, group: list[int], images: dict[int, np.ndarray], prompts: Sequence[Prompt]
) -> Scores:
    return reward.score(np.stack([images[i] for i in group]), [prompts[i] for i in group])


def _gather(scored: list[tuple[list[int], Scores]], reasons: list[str]) -> Scores:
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
            evidence[i] = scores.evidence[place] if scores.evidence else {}
    return Scores(values=values, reasons=tuple(reasons), parts=parts, evidence=tuple(evidence))


def read_image_list(path: Path) -> tuple[list[Path], list[Prompt]]:
    """Read a list of images: JSON lines with `image` (a path beside the list) and `prompt`.

    `id`, `tag`, `include` and `exclude` may stand beside them, for rewards that need GenEval's metadata. Lines
    without an `id` of one text (and tag) are images of one prompt: intervals are clustered by it.

    Raises:
        ConfigError: a broken line, with file and line number, or a path that leaves the list's folder; not UTF-8.
    """
    if not path.is_file():
        raise ConfigError(f"no image list {path}")
    paths, prompts = [], []
    known: dict[tuple[str, str], str] = {}
    for number, line in enumerate(text_lines(path, path.read_bytes()), start=1):
        try:
            file, prompt = _entry(line, path.parent, number, known)
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        paths.append(file)
        prompts.append(prompt)
    return paths, prompts


def _entry(
    line: str, folder: Path, number: int, known: dict[tuple[str, str], str]
) -> tuple[Path, Prompt]:
    """A line's file and prompt; `known` holds the ids of prompts that have none of their own, by text and tag."""
    record = json_object(line)
    name = required(record, "image", str)
    if "\0" in name:
        raise ConfigError(f"expected 'image' to be a path, got {name!r}, which holds a null byte")
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ConfigError(f"{name!r} leaves the list's folder; put the list above its images")
    target = {k: record[k] for k in ("include", "exclude") if k in record}
    text, tag = required(record, "prompt", str), str(record.get("tag", ""))
    own = record["id"] if "id" in record else known.setdefault((text, tag), f"{number - 1:05d}")
    return file, Prompt(id=check_id(own), text=text, tag=tag, target=target)
