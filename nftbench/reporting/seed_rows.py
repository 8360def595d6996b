"""Rows of a result: a run's own, or the means over several seeds with the error of seeds and prompts."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from nftbench.benchmark.schema import Protocol
from nftbench.reporting.results import Result
from nftbench.runs.row_files import run_rows
from nftbench.runs.rows import Provenance, Row, metric_range, summarise
from nftbench.runs.run_folder import Run
from nftbench.stats.estimates import Estimate
from nftbench.stats.seeds import alike, mean_image, spread, with_seeds
from rewards.base import PART, WORDS, ConfigError, Metric, RewardInfo
from rewards.own import file_digest

SCORED_BY = ("weights", "files", "needs", "higher_is_better")
"""Of what a reward says of itself: what makes it another reward under the same name, besides the user's own code."""


def rows_of(result: Result) -> list[Row]:
    """The rows of an evaluation; `benchmark` is the name in the run, which may hold one under several protocols.

    Raises:
        ConfigError: no rows, broken ones, or seeds that were drawn or scored differently.
    """
    runs = [Run.open(folder) for folder in result.runs]
    protocols = runs[0].protocols()
    rows = [_under_its_folder(row, protocols) for row in run_rows(runs[0])]
    if len(runs) == 1:
        return rows
    for run in runs[1:]:
        refuse_other_seeds(runs[0], run)
    means = {
        (row.benchmark, row.spelled, row.aggregate): row
        for name, protocol in protocols.items()
        for row in _means(runs, name, protocol)
    }
    found = [(row, means.get((row.benchmark, row.spelled, row.aggregate))) for row in rows]
    return [_combined(row, mean) for row, mean in found if mean is not None]


def _combined(row: Row, mean: Row) -> Row:
    fields = ("value", "stderr", "low", "high", "n", "n_failed", "n_prompts")
    return row.model_copy(update={field: getattr(mean, field) for field in fields})


def _under_its_folder(row: Row, protocols: Mapping[str, Protocol]) -> Row:
    """A run may hold one benchmark under several protocols, each in a folder of its own."""
    names = (name for name, protocol in protocols.items() if protocol.hash == row.protocol)
    return row.model_copy(update={"benchmark": next(names, row.benchmark)})


def refuse_other_seeds(first: Run, other: Run) -> None:
    """Refuse two seeds whose evaluations are not alike, or are of one checkpoint: a copy is no seed of its own.

    Raises:
        ConfigError: names what is wrong.
    """
    made, others = (run.manifest["checkpoint"]["digest"] for run in (first, other))
    if made == others:
        raise ConfigError(
            f"{first.folder} and {other.folder} hold images of one checkpoint ({made}), which are no two seeds; "
            "evaluate each seed's own"
        )
    mine, theirs = first.protocols(), other.protocols()
    if list(mine) != list(theirs):
        raise ConfigError(f"{first.folder} and {other.folder} hold different benchmarks")
    for name, protocol in mine.items():
        faults = [
            protocol.difference(theirs[name]),
            *other_rewards(scored_by(first, name), scored_by(other, name)),
        ]
        fault = next(filter(None, faults), "")
        if fault:
            raise ConfigError(
                f"{first.folder} and {other.folder} differ in {name}: {fault}; evaluate all seeds alike"
            )


def scored_by(run: Run, name: str) -> dict[str, dict[str, Any]]:
    """Reward of a benchmark -> what makes it another reward under the same name."""
    return {
        key: {f: info[f] for f in SCORED_BY if f in info}
        | {"code": file_digest(str(info.get("source", "")))}
        for key, info in run.manifest["rewards"][name].items()
    }


def other_rewards(
    mine: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Rewards that have one name in two runs and are not the same, in words.

    Args:
        mine: as `scored_by` gives them.
        theirs: of the other run.
    """
    return [
        f"{key} is another reward (other {field})"
        for key in mine
        if key in theirs
        for field in mine[key]
        if field in theirs[key] and mine[key][field] != theirs[key][field]
    ]


def _means(runs: Sequence[Run], name: str, protocol: Protocol) -> Iterator[Row]:
    """Rows of one benchmark over seeds."""
    infos = [RewardInfo(**info) for info in runs[0].manifest["rewards"][name].values()]
    tables = [run.read_samples(name) for run in runs]
    columns = [
        c for c in map(str, tables[0]) if _is_number(c, infos) and all(c in t for t in tables)
    ]
    whole = mean_image(tables, columns)
    each = [_rows(t, infos, name, protocol) for t in alike(tables, whole, columns)]
    for place, row in enumerate(_rows(whole, infos, name, protocol)):
        info = next(i for i in infos if i.key == Metric.parse(str(row.spelled)).key)
        within = metric_range(info, row.metric.partition(PART)[2])
        estimate = with_seeds(_estimate(row), spread([of[place].value for of in each]), within)
        yield row.model_copy(
            update={f: getattr(estimate, f) for f in ("value", "stderr", "low", "high")}
        )


def _is_number(column: str, infos: Sequence[RewardInfo]) -> bool:
    of = Metric.parse(column)
    return of.part not in WORDS and any(info.key == of.key for info in infos)


def _rows(
    table: pd.DataFrame, infos: Sequence[RewardInfo], name: str, protocol: Protocol
) -> list[Row]:
    about = Provenance(
        model="",
        checkpoint="",
        benchmark=name,
        protocol=protocol.hash,
        limited=protocol.limit is not None,
        by_task=protocol.aggregation == "task_mean",
        date=datetime.date.min,
    )
    return summarise(table, infos, about)


def _estimate(row: Row) -> Estimate:
    fields: dict[str, Any] = {f: getattr(row, f) for f in Estimate.__slots__}
    return Estimate(**fields)
