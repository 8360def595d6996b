"""Held-out prompts, drawn by the averaged policy: during training a look, before and after it the whole comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from accelerate.utils import gather_object
from diffusers import DiffusionPipeline

from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.schema import Protocol
from nftbench.generation.sampling import Sample, generate, samples
from nftbench.runs.rows import PART
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import PAIR, mean
from nftbench.training.config.recipe import Recipe
from nftbench.training.rollouts import WeightedReward, score_all
from rewards.base import ConfigError

COLUMNS = ("benchmark", *PAIR)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSet:
    """One benchmark with those of the judges that can judge it."""

    protocol: Protocol
    judges: Sequence[WeightedReward]

    def by_task(self, column: str) -> bool:
        """Whether a column is GenEval's, whose tasks weigh alike."""
        mine = [j for j in self.judges if j.spec.key == column.partition(PART)[0]]
        return self.protocol.aggregation == "task_mean" and any(
            j.reward.info.needs == "geneval metadata" for j in mine
        )


def held_out(
    recipe: Recipe, judges: Sequence[WeightedReward], *, whole: bool
) -> list[ValidationSet]:
    """What is asked of a policy, for a look or (`whole`) before and after training."""
    config = recipe.evaluation
    asked = []
    for name in config.benchmarks:
        protocol = load_benchmark(name).protocol(
            num_inference_steps=config.num_inference_steps,
            dtype=recipe.policy.dtype,
            limit=None if whole else config.limit,
            images_per_prompt=None if whole else config.images_per_prompt,
        )
        prompts = load_benchmark(name).load()
        mine = [j for j in judges if all(j.applies(p) for p in prompts)]
        if mine:
            asked.append(ValidationSet(protocol=protocol, judges=mine))
    return asked


def validate(
    pipeline: DiffusionPipeline,
    asked: Sequence[ValidationSet],
    *,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    report: Callable[[str, int, int], None],
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Draw and score.

    Args:
        pipeline: with the weights that are to be looked at.
        asked: what.
        batch_size: images at once.
        share: (rank, number of processes); the processes' tables are put together.
        report: told of progress.

    Returns:
        One row an image: `COLUMNS`, each reward and its parts, NaN where it does not judge; and the images of this
        process by `BENCHMARK/KEY`.
    """
    tables, images = [], {}
    for one in asked:
        prompts = choose(load_benchmark(one.protocol.benchmark).load(), one.protocol.limit)
        everything = samples(prompts, one.protocol.images_per_prompt)
        starts = range(share[0] * batch_size, len(everything), share[1] * batch_size)
        for start in starts:
            batch = everything[start : start + batch_size]
            pixels = generate(pipeline, batch, one.protocol)
            tables.append(_table(one, batch, pixels))
            name = one.protocol.benchmark
            images |= {f"{name}/{s.key}": p for s, p in zip(batch, pixels, strict=True)}
            report(f"held out: {name}", start + len(batch), len(everything))
    if share[1] > 1:
        tables = gather_object(tables)
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values(list(COLUMNS), ignore_index=True), images


def _table(asked: ValidationSet, batch: Sequence[Sample], pixels: np.ndarray) -> pd.DataFrame:
    columns = {
        "benchmark": asked.protocol.benchmark,
        "prompt_id": [s.prompt.id for s in batch],
        "tag": [s.prompt.tag for s in batch],
        "image_index": [s.index for s in batch],
    }
    for key, scores in score_all(asked.judges, pixels, [s.prompt for s in batch]).items():
        columns[key] = scores.values.astype(np.float64)
        columns |= {f"{key}{PART}{p}": v.astype(np.float64) for p, v in scores.parts.items()}
    return pd.DataFrame(columns)


def estimates(
    table: pd.DataFrame, asked: Sequence[ValidationSet]
) -> dict[tuple[str, str], Estimate]:
    """(benchmark, metric) -> mean: the task mean where the metric is GenEval's, else the mean over images."""
    found = {}
    for one in asked:
        mine = table[table["benchmark"] == one.protocol.benchmark]
        for metric in _metrics(mine, one):
            found[one.protocol.benchmark, metric] = mean(
                mine, mine[metric], by_task=one.by_task(metric)
            )
    return found


def by_task(table: pd.DataFrame, asked: Sequence[ValidationSet]) -> dict[str, dict[str, bool]]:
    """Benchmark -> metric -> whether its tasks weigh alike: what `stats.paired.changes` compares."""
    found = {}
    for one in asked:
        name = one.protocol.benchmark
        metrics = _metrics(table[table["benchmark"] == name], one)
        found[name] = {metric: one.by_task(metric) for metric in metrics}
    return found


def _metrics(table: pd.DataFrame, asked: ValidationSet) -> list[str]:
    keys = {j.spec.key for j in asked.judges}
    return [c for c in table.columns if c.partition(PART)[0] in keys]


def total(
    table: pd.DataFrame, asked: Sequence[ValidationSet], trained: Mapping[str, float]
) -> float:
    """One number to choose the best checkpoint by: the weighted sum of held-out rewards, averaged over benchmarks.

    Args:
        table: of a look.
        asked: what it asked.
        trained: weight / training scale of each trained reward.

    Raises:
        ConfigError: nothing was scored.
    """
    found = estimates(table, asked)
    sums = [
        sum(trained.get(metric, 0.0) * e.value for (b, metric), e in found.items() if b == name)
        for name in dict.fromkeys(b for b, _ in found)
    ]
    if not sums or not np.isfinite(sums).all():
        raise ConfigError("no held-out image could be scored; look at the reasons in metrics.jsonl")
    return float(np.mean(sums))
