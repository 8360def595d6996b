"""Validation on held-out prompts, drawn by the averaged policy: of some during training, of all before and after it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline

from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.samples import Sample, samples
from nftbench.benchmark.schema import Protocol
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.sampling import generate
from nftbench.generation.settings.described import as_drawn
from nftbench.generation.settings.effective import Effective, learn_settings
from nftbench.runs.contact_sheet import Tile, heading
from nftbench.runs.rows import metric_range
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import PAIR, Averaging, mean
from nftbench.training import RewardFailed
from nftbench.training.config.recipe import Recipe
from nftbench.training.processes import TrainingProcesses
from nftbench.training.stages import Failures, WeightedReward, failure_reasons, score_all
from rewards.base import PART, ConfigError, Metric, Progress, Prompt, Scores

if TYPE_CHECKING:
    from nftbench.training.setup import Setup  # which imports this module

COLUMNS = ("benchmark", *PAIR)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSet:
    """One benchmark with those of the rewards that can score it."""

    protocol: Protocol
    """As it is drawn."""
    settings: Effective
    rewards: Sequence[WeightedReward]

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.protocol.benchmark

    def averaging(self, column: str) -> Averaging:
        """How a column is averaged: the tasks of GenEval's weigh alike."""
        metric = Metric.parse(column)
        info = next(r.reward.info for r in self.rewards if r.key == metric.key)
        tasks = self.protocol.aggregation == "task_mean" and info.needs_metadata
        return Averaging(
            within=metric_range(info, metric.part),
            by_task=tasks,
            higher_is_better=None if metric.part else info.higher_is_better,
        )


def validation_sets(
    recipe: Recipe,
    rewards: Sequence[WeightedReward],
    base: LoadedModel,
    *,
    whole: bool,
    alone: bool = False,
) -> list[ValidationSet]:
    """What a policy is validated on: parts of the benchmarks during training, or (`whole`) all before and after it.

    What a benchmark and the checkpoint leave open is as the rollouts have it. `alone` draws one image a call.
    """
    config = recipe.evaluation
    found = []
    if not config.every:
        return found
    for name in config.benchmarks:
        benchmark = load_benchmark(name)
        protocol = benchmark.protocol(
            num_inference_steps=config.num_inference_steps,
            dtype=recipe.policy.dtype,
            limit=None if whole else config.limit,
            images_per_prompt=None if whole else config.images_per_prompt,
        ).filled(base.own)
        protocol = protocol.filled(recipe.rollout.sampling.model_dump(exclude_none=True))
        prompts = benchmark.load()
        mine = [r for r in rewards if all(r.applies(p) for p in prompts)]
        if mine:
            settings = replace(learn_settings(base.pipeline, protocol), one_by_one=alone)
            drawn = as_drawn(protocol, settings)
            found.append(ValidationSet(protocol=drawn, settings=settings, rewards=mine))
    return found


def left_out(setup: "Setup", sets: Sequence[ValidationSet]) -> list[str]:
    """What a recipe asks to have measured, and none of these sets does, in words."""
    config = setup.recipe.evaluation
    if not config.every:
        return []
    drawn = {one.name: {r.key for r in one.rewards} for one in sets}
    benchmarks = [
        f"not validated: {name}; no reward of this run can score all of its prompts"
        for name in config.benchmarks
        if name not in drawn
    ]
    rewards = [
        f"not measured: {r.key}; no benchmark of evaluation.benchmarks has prompts that it can all score"
        for r in setup.watched
        if not any(r.key in keys for keys in drawn.values())
    ]
    return [*benchmarks, *rewards]


def trained_on(setup: "Setup", sets: Sequence[ValidationSet]) -> list[str]:
    """Held-out prompts that are trained on, word by word: a gain there shows no more than that."""
    mine = {_words(prompt) for data in setup.stages for prompt in data.prompts}
    held_out = {one.name: {_words(p) for p in load_benchmark(one.name).load()} for one in sets}
    return [
        f"trained on, too: {len(mine & theirs)} of the {len(theirs)} held-out prompts of {name}; what is gained there "
        "may be learnt by heart"
        for name, theirs in held_out.items()
        if mine & theirs
    ]


def _words(prompt: Prompt) -> str:
    return " ".join(prompt.text.split()).casefold()


def validate(
    pipeline: DiffusionPipeline,
    sets: Sequence[ValidationSet],
    *,
    batch_size: int,
    processes: TrainingProcesses,
    progress: Progress,
) -> tuple[pd.DataFrame, dict[str, Tile], list[Failures]]:
    """Draw and score.

    Args:
        pipeline: with the weights that are to be validated.
        sets: on what.
        batch_size: images at once.
        processes: each draws a part; their tables are put together.
        progress: told how far it is.

    Returns:
        One row an image: `COLUMNS`, each reward and its parts, NaN where it does not apply; the images of this
        process by `BENCHMARK/KEY`, with their captions; and what could not be scored.

    Raises:
        Interrupted: a stop was asked for.
    """
    own = partial(_own_part, pipeline, sets, batch_size, processes, progress)
    tables, images, failed = processes.agreed(own, (ConfigError, torch.OutOfMemoryError))
    table = pd.concat(processes.gather(tables), ignore_index=True)
    failures = list(_failures(processes.gather(failed), table))
    return table.sort_values(list(COLUMNS), ignore_index=True), images, failures


def _own_part(
    pipeline: DiffusionPipeline,
    sets: Sequence[ValidationSet],
    batch_size: int,
    processes: TrainingProcesses,
    progress: Progress,
) -> tuple[list[pd.DataFrame], dict[str, Tile], list[tuple[str, str]]]:
    """This process's batches of `validate`: their tables, images and failures by reward."""
    tables, images = [], {}
    failed: list[tuple[str, str]] = []
    for one in sets:
        prompts = choose(load_benchmark(one.name).load(), one.protocol.limit)
        everything = samples(prompts, one.protocol.images_per_prompt)
        for start in processes.share(range(0, len(everything), batch_size)):
            batch = everything[start : start + batch_size]
            processes.stop_here_if_asked()
            pixels = generate(pipeline, batch, one.settings)
            scored = score_all(one.rewards, pixels, [s.prompt for s in batch])
            tables.append(_table(one, batch, scored))
            failed += [
                pair for i in range(len(batch)) for pair in failure_reasons(scored, i).items()
            ]
            images |= _tiles(one.name, batch, pixels, scored)
            progress(f"validation: {one.name}", start + len(batch), len(everything))
    return tables, images, failed


def _tiles(
    name: str, batch: Sequence[Sample], pixels: np.ndarray, scored: Mapping[str, Scores]
) -> dict[str, Tile]:
    """Each image with its task, its score by the first reward and its prompt."""
    key, scores = next(iter(scored.items()))
    return {
        f"{name}/{s.key}": Tile(p, heading(s.prompt.tag, key, float(value)), s.prompt.text)
        for s, p, value in zip(batch, pixels, scores.values, strict=True)
    }


def _failures(failed: Sequence[tuple[str, str]], table: pd.DataFrame) -> Iterator[Failures]:
    for key in dict.fromkeys(key for key, _ in failed):
        reasons = [reason for other, reason in failed if other == key]
        of = len(reasons) + int(table[key].notna().sum())
        yield Failures(key=key, count=len(reasons), of=of, reason=reasons[0])


def _table(
    validation_set: ValidationSet, batch: Sequence[Sample], scored: Mapping[str, Scores]
) -> pd.DataFrame:
    columns = {
        "benchmark": validation_set.name,
        "prompt_id": [s.prompt.id for s in batch],
        "tag": [s.prompt.tag for s in batch],
        "image_index": [s.index for s in batch],
    }
    for key, scores in scored.items():
        columns[key] = scores.values.astype(np.float64)
        columns |= {f"{key}{PART}{p}": v.astype(np.float64) for p, v in scores.parts.items()}
    return pd.DataFrame(columns)


def estimates(
    table: pd.DataFrame, sets: Sequence[ValidationSet]
) -> dict[tuple[str, str], Estimate]:
    """(benchmark, metric) -> mean: the task mean where the metric is GenEval's, else the mean over images."""
    found = {}
    for one in sets:
        mine = table[table["benchmark"] == one.name]
        for metric in _metrics(mine, one):
            found[one.name, metric] = mean(mine, mine[metric], one.averaging(metric))
    return found


def averaging(
    table: pd.DataFrame, sets: Sequence[ValidationSet]
) -> dict[str, dict[str, Averaging]]:
    """Benchmark -> metric -> how it is averaged: what `stats.paired.changes` compares."""
    found = {}
    for one in sets:
        metrics = _metrics(table[table["benchmark"] == one.name], one)
        found[one.name] = {metric: one.averaging(metric) for metric in metrics}
    return found


def _metrics(table: pd.DataFrame, validation_set: ValidationSet) -> list[str]:
    keys = {r.key for r in validation_set.rewards}
    return [c for c in table.columns if Metric.parse(c).key in keys]


def total(
    table: pd.DataFrame, sets: Sequence[ValidationSet], trained: Mapping[str, float]
) -> float:
    """One number to choose the best checkpoint by: the weighted sum of held-out rewards, averaged over benchmarks.

    Args:
        table: of a validation.
        sets: on what it was made.
        trained: weight / training scale of each trained reward.

    Raises:
        RewardFailed: nothing was scored.
    """
    found = estimates(table, sets)
    sums = [
        sum(
            trained[metric] * e.value
            for (b, metric), e in found.items()
            if b == name and metric in trained
        )
        for name in dict.fromkeys(b for b, _ in found)
    ]
    if not sums or not np.isfinite(sums).all():
        raise RewardFailed("no held-out image could be scored")
    return float(np.mean(sums))
