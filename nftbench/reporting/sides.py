"""The two sides of a comparison: evaluations by their sample tables, trainings by their held-out images at the end."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

import rewards as registry
from nftbench.benchmark.schema import Protocol
from nftbench.parsing import parse_json
from nftbench.reporting.leaderboard.board import LOWER_IS_BETTER
from nftbench.reporting.results import EVALUATION, Result
from nftbench.reporting.seed_rows import refuse_other_seeds, scored_by
from nftbench.runs.rows import metric_range
from nftbench.runs.run_folder import Run
from nftbench.stats.paired import Averaging
from nftbench.training.callbacks.metrics_log import (
    HELD_OUT,
    MEASURED,
    held_out_table,
    is_measured,
    read_averaging,
)
from nftbench.training.seeds import refuse_other_seeds as refuse_other_trainings
from rewards.base import WORDS, ConfigError, Metric, RewardInfo


class EvaluationSide:
    """A run of `nftbench eval`, or those of several seeds."""

    key = ("prompt",)
    """What an image's counterpart must agree in, beside the prompt's id, task and image index."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self._runs = [Run.open(folder) for folder in result.runs]
        for run in self._runs[1:]:
            refuse_other_seeds(self._runs[0], run)

    @cached_property
    def protocols(self) -> dict[str, Protocol]:
        """Of each benchmark."""
        return self._runs[0].protocols()

    def rewards(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """Reward -> field -> what makes it another reward under the same name."""
        return scored_by(self._runs[0], name)

    def tables(self, name: str) -> list[pd.DataFrame]:
        """Scored images of a benchmark, a table a seed."""
        return [run.read_samples(name) for run in self._runs]

    def metrics(self, name: str) -> dict[str, Averaging]:
        """Columns of numbers, and how each is averaged."""
        infos = {k: RewardInfo(**i) for k, i in self._runs[0].manifest["rewards"][name].items()}
        by_task = self.protocols[name].aggregation == "task_mean"
        found = {}
        for column in map(str, self._runs[0].read_samples(name)):
            of = Metric.parse(column)
            if of.key in infos and of.part not in WORDS:
                info = infos[of.key]
                tasks = by_task and info.needs_metadata
                found[column] = Averaging(
                    within=metric_range(info, of.part),
                    by_task=tasks,
                    higher_is_better=self.higher_is_better(name, column),
                )
        return found

    def higher_is_better(self, name: str, metric: str) -> bool:
        """Which way a metric runs."""
        of = Metric.parse(metric)
        info = self._runs[0].manifest["rewards"][name][of.key]
        return of.part not in LOWER_IS_BETTER and (bool(of.part) or info["higher_is_better"])


class TrainingSide:
    """A run of `nftbench train`, or those of several seeds: every held-out image of the policy at the end."""

    key = ()

    def __init__(self, result: Result) -> None:
        self.result = result
        refuse_other_trainings(result.runs)
        self._noted = [_measured(folder) for folder in result.runs]
        self._tables = [_after(folder) for folder in result.runs]
        for folder, noted in zip(result.runs[1:], self._noted[1:], strict=True):
            if noted != self._noted[0]:
                raise ConfigError(
                    f"{result.runs[0]} and {folder} were validated differently; train all seeds alike"
                )

    @cached_property
    def protocols(self) -> dict[str, Protocol]:
        """Of each benchmark."""
        try:
            return {n: Protocol(**noted["whole"]) for n, noted in self._noted[0].items()}
        except (ValidationError, KeyError, TypeError):
            raise ConfigError(
                f"{self.result.runs[0] / HELD_OUT / MEASURED} is of another version of nftbench; train again"
            ) from None

    def rewards(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """Reward -> what makes it another reward under the same name."""
        return {k: {"digest": d} for k, d in self._noted[0][name]["rewards"].items()}

    def tables(self, name: str) -> list[pd.DataFrame]:
        """Scored images of a benchmark, a table a seed."""
        return [t.loc[t["benchmark"] == name] for t in self._tables]

    def metrics(self, name: str) -> dict[str, Averaging]:
        """Columns of numbers, and how each is averaged."""
        return read_averaging(self.result.runs[0], self._tables[0]).get(name, {})

    def higher_is_better(self, name: str, metric: str) -> bool:
        """Which way a metric runs, as the training noted it; else a reward that is not here is taken to run upwards."""
        noted = self.metrics(name)[metric].higher_is_better
        if noted is not None:
            return noted
        of = Metric.parse(metric)
        if of.part:
            return of.part not in LOWER_IS_BETTER
        try:
            return registry.reward_info(of.key).higher_is_better
        except ConfigError:
            return True


Side = EvaluationSide | TrainingSide


def side_of(result: Result) -> Side:
    """A result, ready to be compared.

    Raises:
        ConfigError: it is not finished or broken, or its seeds were drawn or scored differently.
    """
    return EvaluationSide(result) if result.kind == EVALUATION else TrainingSide(result)


def _measured(folder: Path) -> dict[str, Any]:
    path = folder / HELD_OUT / MEASURED
    try:
        return dict(parse_json(path.read_bytes())["sets"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{folder} does not say how it was validated: {path} is missing or broken; "
            "compare evaluations instead: nftbench eval RUN"
        ) from None


def _after(folder: Path) -> pd.DataFrame:
    if not is_measured(folder):
        raise ConfigError(
            f"{folder} is not finished: its end was not measured; run: nftbench train --resume {folder}"
        )
    return held_out_table(folder / HELD_OUT / "after.parquet")
