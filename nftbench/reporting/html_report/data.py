"""What a report shows, read from run folders: rows, samples, paired differences, curves. Nothing is written here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nftbench.benchmark.schema import Protocol
from nftbench.parsing import parse_json
from nftbench.reporting.html_report.trainings import Trained, read_trained
from nftbench.reporting.results import EVALUATION, Result, pair_seeds, read_results
from nftbench.reporting.seed_rows import rows_of
from nftbench.runs.rows import Row, metric_range
from nftbench.runs.run_folder import Run
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import Averaging
from nftbench.stats.seeds import change_over_seeds
from rewards.base import PART, WORDS, ConfigError, Metric, RewardInfo

LETTERS = "ABCDEFGH"
"""Runs are told apart by letter and colour; there are eight colours."""
SAME = ["prompt_id", "prompt", "image_index", "seed"]
"""Two images that agree in these come from the same prompt and the same noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationFolder:
    """One run folder of `nftbench eval`."""

    seed: str
    """`seed 0` of a parent's run: the seed of the training; empty of a run that stands for itself."""
    run: Run
    tables: Mapping[str, pd.DataFrame]
    """Benchmark -> one row an image, as `evaluate.sample_table` makes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One evaluation, or those of several seeds' trainings."""

    letter: str
    result: Result
    manifest: Mapping[str, Any]
    """Of the first seed."""
    protocols: Mapping[str, Protocol]
    """Of every seed."""
    rows: Sequence[Row]
    """The means over seeds."""
    parts: Sequence[EvaluationFolder]
    """At least one."""

    @property
    def name(self) -> str:
        """As the user calls it, or the folder's name."""
        return self.result.name

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Of the first seed."""
        return self.parts[0].tables

    @property
    def checkpoints(self) -> list[tuple[str, str]]:
        """(name, digest) of each seed."""
        made = [part.run.manifest["checkpoint"] for part in self.parts]
        return [(one["name"], one["digest"]) for one in made]

    def metrics(self, benchmark: str) -> list[str]:
        """Columns of numbers, reward by reward, its parts behind it."""
        columns = self.tables[benchmark].columns
        return [
            column
            for key in self.manifest["rewards"][benchmark]
            for column in columns
            if (of := Metric.parse(column)).key == key and of.part not in WORDS
        ]

    def row(self, benchmark: str, column: str, aggregate: str) -> Row | None:
        """The number of a column, if the run has it."""
        return next(
            (
                row
                for row in self.rows
                if (row.benchmark, column_of(row), row.aggregate) == (benchmark, column, aggregate)
            ),
            None,
        )


def column_of(row: Row) -> str:
    """The column that a row was made of: `geneval:strict` of variant `pocket` is `geneval@pocket:strict`."""
    return str(row.spelled)


def read_runs(
    runs: Sequence[str | Path], *, whole: bool = False
) -> tuple[list[Evaluated], list[Trained]]:
    """Evaluations and trainings, each kind in the order given; letters count through both.

    Args:
        runs: `RUN` or `RUN=LABEL`, run folders and parents of several seeds'.
        whole: as `results.read_result` takes it.

    Raises:
        ConfigError: none or too many folders, one twice, one that is not a run, or a run that is not finished.
    """
    if not 1 <= len(runs) <= len(LETTERS):
        raise ConfigError(f"expected 1 to {len(LETTERS)} run folders, got {len(runs)}")
    evaluated, trained = [], []
    for letter, result in zip(LETTERS, read_results(runs, whole=whole), strict=False):
        if result.kind == EVALUATION:
            evaluated.append(_evaluated(letter, result))
        else:
            trained.append(read_trained(letter, result))
    return evaluated, trained


def _evaluated(letter: str, result: Result) -> Evaluated:
    names = [f"seed {seed}" for seed in result.seeds] or [""]
    runs = [Run(folder) for folder in result.runs]
    rows, protocols = rows_of(result), runs[0].protocols()
    empty = set(protocols) - {row.benchmark for row in rows}
    if empty:
        raise ConfigError(
            f"{result.folder} is not finished: {min(empty)} has no rows; run: nftbench score {result.runs[0]}"
        )
    return Evaluated(
        letter=letter,
        result=result,
        manifest=runs[0].manifest,
        protocols=protocols,
        rows=rows,
        parts=[
            EvaluationFolder(seed=name, run=run, tables={b: run.read_samples(b) for b in protocols})
            for name, run in zip(names, runs, strict=True)
        ],
    )


# --- of a benchmark -------------------------------------------------------------------------------


def names(runs: Sequence[Evaluated]) -> list[str]:
    """All benchmarks of the runs, in order."""
    return list(dict.fromkeys(name for one in runs for name in one.tables))


def holding(runs: Sequence[Evaluated], benchmark: str) -> list[Evaluated]:
    """The runs of a benchmark."""
    return [one for one in runs if benchmark in one.tables]


def shared_metrics(runs: Sequence[Evaluated], benchmark: str) -> list[str]:
    """Columns that any run has, in the first one's order."""
    return list(
        dict.fromkeys(c for one in holding(runs, benchmark) for c in one.metrics(benchmark))
    )


def numbers(runs: Sequence[Evaluated], benchmark: str, column: str) -> list[np.ndarray]:
    """A column's scored values of all seeds, float64, run by run; an empty array where a run has none."""
    found = []
    for one in holding(runs, benchmark):
        tables = [part.tables[benchmark] for part in one.parts]
        values = [t[column].to_numpy(np.float64) for t in tables if column in t]
        together = np.concatenate([*values, np.empty(0)])
        found.append(together[np.isfinite(together)])
    return found


def passing(runs: Sequence[Evaluated], benchmark: str) -> str:
    """The first column that is nothing but 0 and 1: what "pass" means here; empty where there is none."""
    for column in shared_metrics(runs, benchmark):
        values = np.concatenate(numbers(runs, benchmark, column))
        if len(values) and np.isin(values, (0, 1)).all():
            return column
    return ""


def difference(a: Evaluated, b: Evaluated, row: Row) -> Estimate | None:
    """`b` minus `a` over images of the same prompt and noise, with the error of pairs, clustered by prompt.

    Args:
        a: the run compared with.
        b: the run of the row.
        row: metric and aggregate.

    Returns:
        None where the two share no image of that metric.
    """
    column, name = column_of(row), row.benchmark
    if any(name not in one.tables or column not in one.tables[name] for one in (a, b)):
        return None
    paired = pair_seeds(a.result, b.result)
    sides = [
        [_of_row(one.parts[i].tables[name], row) for i in places]
        for one, places in ((a, paired.places[0]), (b, paired.places[1]))
    ]
    shared = sides[0][0][SAME].merge(sides[1][0][SAME], on=SAME)
    if shared.empty:
        return None
    reward, _, part = column.partition(PART)
    info = RewardInfo(**b.manifest["rewards"][name][reward])
    how = Averaging(within=metric_range(info, part), by_task=row.aggregate == "task_mean")
    before, after = ([t.merge(shared, on=SAME) for t in tables] for tables in sides)
    return change_over_seeds(before, after, name, column, how, paired=paired.same).difference


def _of_row(table: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The images that a row is over."""
    task = row.aggregate.removeprefix("task:")
    return table if task == row.aggregate else table.loc[table["tag"] == task]


def sample_keys(runs: Sequence[Evaluated], benchmark: str) -> pd.DataFrame:
    """Every image of the runs, once: `SAME`, `key` and `tag`, in the first run's order."""
    tables = [part.tables[benchmark] for one in holding(runs, benchmark) for part in one.parts]
    return pd.concat([t.loc[:, [*SAME, "key", "tag"]] for t in tables]).drop_duplicates(
        SAME, ignore_index=True
    )


def rewards_of(
    one: Evaluated, part: EvaluationFolder, benchmark: str
) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """(reward, row number -> its `reason` and `evidence` there, those that are not empty) of one seed."""
    table = part.tables[benchmark]
    for key in one.manifest["rewards"][benchmark]:
        if key in table:
            yield key, _details(table, key)


def _details(table: pd.DataFrame, key: str) -> Callable[[int], Any]:
    empty = [""] * len(table)
    reasons = list(table.get(f"{key}{PART}reason", empty))
    evidence = list(table.get(f"{key}{PART}evidence", empty))

    def details(place: int) -> Any:
        shown = _parsed(evidence[place], key)
        reason = reasons[place] if isinstance(reasons[place], str) else ""
        found = {"reason": reason} if reason else {}
        return found | ({"evidence": shown} if shown else {})

    return details


def _parsed(text: Any, key: str) -> Any:
    if not isinstance(text, str) or not text:
        return {}
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(
            f"the evidence of {key} is not JSON: {error}; run: nftbench score RUN"
        ) from None
