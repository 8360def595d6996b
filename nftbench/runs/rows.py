"""Scored images to rows: one number, its error, and all that is needed to trust and repeat it."""

import datetime
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, field_validator

import nftbench
from nftbench.stats import estimates as statistics
from nftbench.stats.intervals import SHARE, UNBOUNDED, MetricRange
from nftbench.stats.paired import clusters
from rewards.base import PART, SHARES, WORDS, Metric, RewardInfo

MAX_FAILED = 0.01
"""Share of images without a score above which a number is not publishable, and a command ends with exit code 4."""


NUMBERS = ("value", "stderr", "low", "high")


class Row(BaseModel):
    """One published or measured number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    checkpoint: str
    """Digest of the weights, or the hub's commit; of a published number a hub id, where one is named."""
    benchmark: str
    metric: str
    """Reward, with `:part` for a sub-score; `spelled` is it with its variant."""
    variant: str
    aggregate: str
    """`image_mean`, `task_mean`, or `task:NAME`."""
    value: float
    stderr: float
    """NaN where it is unknown, as with the interval."""
    low: float
    """95% confidence interval, clustered by prompt, inside the metric's range; see `nftbench.stats.intervals`."""
    high: float
    n: int | None
    """Images scored; None where a paper does not say, as with the two below."""
    n_failed: int | None
    n_prompts: int | None
    protocol: str
    """Hash of the protocol; of a published number the name of its table's, such as `nft-table1`."""
    limited: bool
    """Not all prompts were asked: not publishable."""
    certificate: str = ""
    """Verdict of the reward's certificate when the number was measured; empty where it has none."""
    source: Literal["measured", "published"] = "measured"
    citation: str = ""
    """Of a published number: where it stands."""
    confidence: Literal["", "A", "B", "C"] = ""
    """Of a published number: A seen twice, B in one full text, C in secondary sources alone."""
    settings: str = ""
    """What is said of the protocol, `guidance_scale=4.5 num_inference_steps=?`; in leaderboards, for readers."""
    version: str = nftbench.__version__
    date: datetime.date

    @field_validator("model", "checkpoint", "benchmark", "metric", "variant", "protocol")
    @classmethod
    def _one_line(cls, text: str) -> str:
        """Names stand in tables, pages and CSV files: a line each."""
        if not text.isprintable() and any(
            unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text
        ):
            raise ValueError(
                f"expected a name without line breaks or control characters, got {text!r}"
            )
        return text

    @property
    def spelled(self) -> Metric:
        """The metric as it is written everywhere but in these two columns."""
        name, _, part = self.metric.partition(PART)
        return Metric(name, self.variant, part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What all rows of one table have in common."""

    model: str
    checkpoint: str
    benchmark: str
    protocol: str
    limited: bool
    by_task: bool
    """Whether GenEval's task means are wanted."""
    date: datetime.date


def summarise(table: pd.DataFrame, infos: Sequence[RewardInfo], about: Provenance) -> list[Row]:
    """All rows of one table of scored images.

    Args:
        table: `prompt_id`, `tag`, `cluster` where there are any, and a column for each reward and sub-score, one row
            an image.
        infos: what the rewards are.
        about: what the images are.
    """
    return [row for info in infos for row in _rows(table, info, about)]


def _rows(table: pd.DataFrame, info: RewardInfo, about: Provenance) -> Iterator[Row]:
    tasks = about.by_task and info.needs_metadata
    common = asdict(about)
    del common["by_task"]
    for column, metric in _metrics(table, info):
        within = metric_range(info, column.partition(PART)[2])
        for aggregate, estimate in _estimates(table, column, within, tasks=tasks):
            if PART in metric and aggregate.startswith("task:"):
                continue
            yield Row(
                metric=metric,
                variant=info.variant,
                aggregate=aggregate,
                **common,
                **asdict(estimate),
            )


def _metrics(table: pd.DataFrame, info: RewardInfo) -> Iterator[tuple[str, str]]:
    """(column, metric name) of a reward and of its numeric sub-scores."""
    yield info.key, info.name
    for column in table.columns:
        part = column.removeprefix(info.key + PART)
        if part != column and part not in WORDS:
            yield column, f"{info.name}{PART}{part}"


def lost(values: np.ndarray, tags: np.ndarray) -> list[str]:
    """Tasks of which not one image was scored: a mean over the others would be of another benchmark.

    Args:
        values: (N,), NaN where unscored.
        tags: (N,) the task of each image.
    """
    return [t for t in dict.fromkeys(tags.tolist()) if np.isnan(values[tags == t]).all()]


def metric_range(info: RewardInfo, part: str = "") -> MetricRange:
    """What a reward's values, or those of one of its sub-scores, can be.

    Args:
        info: of the reward.
        part: name of the sub-score; empty for the reward itself.
    """
    if part in SHARES:
        return SHARE
    if info.ends is not None:
        low, high = info.ends
        return MetricRange(low=low, high=high, piles_up=True)
    return UNBOUNDED if part else MetricRange(low=info.low, high=info.high)


def _estimates(
    table: pd.DataFrame, column: str, within: MetricRange, *, tasks: bool
) -> Iterator[tuple[str, statistics.Estimate]]:
    values, tags = (table[c].to_numpy() for c in (column, "tag"))
    prompts = clusters(table).to_numpy()
    values = values.astype(np.float64)
    if not tasks:
        yield "image_mean", statistics.clustered_mean(values, prompts, within)
        return
    for tag in dict.fromkeys(tags.tolist()):
        chosen = tags == tag
        yield f"task:{tag}", statistics.clustered_mean(values[chosen], prompts[chosen], within)
    mean = statistics.task_mean(values, prompts, tags, within)
    yield (
        "task_mean",
        replace(mean, **dict.fromkeys(NUMBERS, math.nan)) if lost(values, tags) else mean,
    )
    yield "image_mean", statistics.stratified_mean(values, prompts, tags, within)
