"""Ranking benchmarks: does a reward order ready images of one prompt as people did? Nothing is generated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from pydantic import Field

from nftbench.benchmark import data_cache as data
from nftbench.benchmark.registry import known, names, read
from nftbench.benchmark.schema import Frozen
from nftbench.evaluation.scoring.files import score_files
from nftbench.parsing import parse_json
from nftbench.stats.estimates import Estimate, clustered_mean
from nftbench.stats.intervals import SHARE
from rewards.base import ConfigError, Progress, Prompt, Reward, Weight


class Ranking(Frozen):
    """One TOML of `benchmarks/` whose kind is `ranking`."""

    kind: Literal["ranking"]
    name: str
    version: int = Field(ge=1)
    title: str
    licence: str
    citation: str
    images: str
    """Where people get the images from; they lie in a folder of the user's."""
    items: int = Field(ge=1)
    file: str
    """Name of the file of items in the data cache."""
    url: str = Field(pattern="^https://.+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(default=0, ge=0)

    @property
    def asset(self) -> Weight:
        """The file of items as something that can be fetched."""
        return Weight(
            name=self.file, url=self.url, sha256=self.sha256, size=self.size, licence=self.licence
        )

    def load(self) -> list["Item"]:
        """The items, checked against digest and count.

        Raises:
            ConfigError: the file was not fetched, is another one, or is broken.
        """
        path = data.found(self.file, remedy=f"nftbench data pull {self.name}")
        found = data.own_digest(path)
        if found != self.sha256:
            raise ConfigError(
                f"{path}: expected sha256 {self.sha256[:16]}…, got {found[:16]}…; fetch the file again"
            )
        items = read_items(path)
        if len(items) != self.items:
            raise ConfigError(f"{path}: expected {self.items} items, got {len(items)}")
        return items


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One prompt, its images, and the order people put them in."""

    prompt: Prompt
    images: tuple[str, ...]
    """Paths below the images' folder."""
    ranks: tuple[int, ...]
    """One an image; 1 is best, equal ranks are ties."""


def load_ranking(name: str) -> Ranking:
    """Read a ranking benchmark by name."""
    return read(Ranking, known(name, names("ranking"), "ranking benchmark"), "ranking")


def read_items(path: Path) -> list[Item]:
    """Read ImageReward's `data/test.json`: a list of `id`, `prompt`, `generations`, `ranking`.

    Raises:
        ConfigError: no such list, or an item that is broken; names its number.
    """
    try:
        records = parse_json(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON ({error})") from None
    if not isinstance(records, list):
        raise ConfigError(f"{path}: expected a list of items, got {type(records).__name__}")
    return [_item(path, number, record) for number, record in enumerate(records)]


def _item(path: Path, number: int, record: object) -> Item:
    where = f"{path}, item {number}"
    fields = record if isinstance(record, dict) else {}
    images, ranks = fields.get("generations"), fields.get("ranking")
    if not (isinstance(fields.get("prompt"), str) and _are(images, str) and _are(ranks, int)):
        raise ConfigError(f"{where}: expected prompt, generations (paths) and ranking (numbers)")
    if len(images) != len(ranks):
        raise ConfigError(f"{where}: expected one rank an image, got {len(ranks)} of {len(images)}")
    outside = [name for name in images if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ConfigError(f"{where}: {outside[0]!r} leaves the images' folder")
    prompt = Prompt(id=f"{number:05d}", text=fields["prompt"])
    return Item(prompt=prompt, images=tuple(images), ranks=tuple(ranks))


def _are(values: object, kind: type) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and all(
        isinstance(v, kind) and not isinstance(v, bool) for v in values
    )


def pairs(ranks: Sequence[int], scores: Sequence[float] | np.ndarray) -> Iterator[float]:
    """Of each pair of images that people told apart, whether a reward agrees.

    Args:
        ranks: one an image; lower is better. Pairs of equal rank are left out.
        scores: one an image; higher is better.

    Yields:
        1 where the better image scores higher; 0 where it scores lower or as high; NaN where one is unscored.

    Source: THUDM/ImageReward@c1392c6 test.py:18-39.
    Differs: upstream leaves a pair with a NaN out without a word.
    """
    for i, rank in enumerate(ranks):
        for j in range(i + 1, len(ranks)):
            if rank == ranks[j]:
                continue
            better, worse = (i, j) if rank < ranks[j] else (j, i)
            told = np.isfinite(scores[i]) and np.isfinite(scores[j])
            yield float(scores[better] > scores[worse]) if told else np.nan


def accuracy(items: Sequence[Item], scores: Sequence[Sequence[float] | np.ndarray]) -> Estimate:
    """Share of the pairs that people told apart on which a reward agrees with them, clustered by item.

    Args:
        items: what people said.
        scores: one list an item, one score an image.

    Returns:
        The estimate; `n` counts pairs, `n_failed` those with an unscored image, `n_prompts` items.
    """
    told = [list(pairs(i.ranks, s)) for i, s in zip(items, scores, strict=True)]
    values = np.array([value for one in told for value in one], dtype=np.float64)
    clusters = np.repeat(np.arange(len(told)), [len(one) for one in told])
    return clustered_mean(values, clusters, SHARE)


def rank(
    items: Sequence[Item],
    images: Path,
    judges: Mapping[str, Reward],
    batch_size: int,
    progress: Progress,
) -> dict[str, Estimate]:
    """How often each reward agrees with people.

    Args:
        items: what people said.
        images: folder of the images.
        judges: rewards by key.
        batch_size: images judged at once.
        progress: called after each batch with (reward, images done, of how many).

    Returns:
        Accuracy by reward; of a reward whose lower values are better, of its negative.
    """
    pairs = [(item.prompt, images / name) for item in items for name in item.images]
    found = {}
    for key, judge in judges.items():
        judge.check([item.prompt for item in items])
        values: list[np.ndarray] = []
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            scores = score_files(judge, [path for _, path in batch], [p for p, _ in batch])
            values.append(scores.values)
            progress(key, start + len(batch), len(pairs))
        signed = np.concatenate(values) * (1 if judge.info.higher_is_better else -1)
        ends = np.cumsum([len(item.images) for item in items])[:-1]
        found[key] = accuracy(items, np.split(signed, ends))
    return found
