"""What a report shows, read from run folders: rows, samples, paired differences, curves. Nothing is written here."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from nftbench.benchmark.schema import Protocol
from nftbench.runs.row_files import run_rows
from nftbench.runs.rows import Row, metric_range
from nftbench.runs.run_folder import MANIFEST, Run
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import Averaging, Change, change, paired_samples
from nftbench.training.callbacks.metrics_log import (
    HELD_OUT,
    METRICS,
    read_changes,
    read_metrics,
    without_ends,
)
from rewards.base import PART, ConfigError, Metric, RewardInfo

LETTERS = "ABCDEFGH"
"""Runs are told apart by letter and colour; there are eight colours."""
SAME = ["prompt_id", "prompt", "image_index", "seed"]
"""Two images that agree in these come from the same prompt and the same noise."""
WORDS = frozenset({"reason", "evidence"})
"""Columns of a reward that hold no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A run of `nftbench eval`."""

    letter: str
    run: Run
    manifest: Mapping[str, Any]
    protocols: Mapping[str, Protocol]
    rows: Sequence[Row]
    tables: Mapping[str, pd.DataFrame]
    """Benchmark -> one row an image, as `evaluate.sample_table` makes it."""

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.run.folder.resolve().name

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A run of `nftbench train`."""

    letter: str
    folder: Path
    recipe: Mapping[str, Any]
    metrics: pd.DataFrame
    """One row an iteration."""

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.folder.resolve().name

    @property
    def guards(self) -> list[tuple[int, str]]:
        """(iteration, a guard's warning)."""
        if "guards" not in self.metrics:
            return []
        warned = self.metrics[["iteration", "guards"]].dropna()
        return [(int(i), text) for i, words in warned.to_numpy() for text in _listed(words)]

    @property
    def grids(self) -> list[tuple[int, Path]]:
        """(iterations done, picture of the same prompts)."""
        found = sorted((self.folder / "grids").glob("*.png"))
        return [(int(path.stem), path) for path in found if path.stem.isdecimal()]


def _listed(words: Any) -> list[str]:
    return [str(word) for word in words] if isinstance(words, list) else [str(words)]


def column_of(row: Row) -> str:
    """The column that a row was made of: `geneval:strict` of variant `pocket` is `geneval@pocket:strict`."""
    return str(row.spelled)


def read_runs(folders: Sequence[Path]) -> tuple[list[Evaluated], list[Trained]]:
    """Evaluations and trainings, each kind in the order given; letters count through both.

    Raises:
        ConfigError: none or too many folders, one twice, one that is not a run, or a run that is not finished.
    """
    if not 1 <= len(folders) <= len(LETTERS):
        raise ConfigError(f"expected 1 to {len(LETTERS)} run folders, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("expected different run folders, got one of them twice; leave it out")
    evaluated, trained = [], []
    for letter, folder in zip(LETTERS, folders, strict=False):
        if (folder / MANIFEST).is_file():
            evaluated.append(_evaluated(letter, Run(folder)))
        elif (folder / METRICS).is_file():
            trained.append(_trained(letter, folder))
        else:
            raise ConfigError(
                f"{folder} is not a run: it holds neither {MANIFEST} nor {METRICS}; "
                "expected a folder made by `nftbench eval` or `nftbench train`"
            )
    return evaluated, trained


def _evaluated(letter: str, run: Run) -> Evaluated:
    protocols = run.protocols()
    rows = [_under_its_folder(row, protocols) for row in run_rows(run)]
    empty = set(protocols) - {row.benchmark for row in rows}
    if empty:
        raise ConfigError(
            f"{run.folder} is not finished: {min(empty)} has no rows; run: nftbench score {run.folder}"
        )
    return Evaluated(
        letter=letter,
        run=run,
        manifest=run.manifest,
        protocols=protocols,
        rows=rows,
        tables={name: run.read_samples(name) for name in protocols},
    )


def _under_its_folder(row: Row, protocols: Mapping[str, Protocol]) -> Row:
    """A run may hold one benchmark under several protocols, each in a folder of its own."""
    names = (name for name, protocol in protocols.items() if protocol.hash == row.protocol)
    return row.model_copy(update={"benchmark": next(names, row.benchmark)})


def _trained(letter: str, folder: Path) -> Trained:
    recipe = folder / "recipe.json"
    try:
        metrics = read_metrics(folder)
        settings = json.loads(recipe.read_bytes()) if recipe.is_file() else {}
    except ValueError as error:
        raise ConfigError(
            f"{folder} holds a file that is not JSON: {error}; remove the broken line"
        ) from None
    if "iteration" not in metrics:
        raise ConfigError(f"{folder / METRICS} holds no iteration; train a little longer")
    return Trained(letter=letter, folder=folder, recipe=settings, metrics=metrics)


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
    """A column's scored values, float64, run by run; an empty array where a run has none."""
    found = []
    for one in holding(runs, benchmark):
        table = one.tables[benchmark]
        values = table[column].to_numpy(np.float64) if column in table else np.empty(0)
        found.append(values[np.isfinite(values)])
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
    pairs = paired_samples(a.tables[name], b.tables[name][[*SAME, column]], tuple(SAME))
    if row.aggregate.startswith("task:"):
        pairs = pairs[pairs["tag"] == row.aggregate.removeprefix("task:")]
    if pairs.empty:
        return None
    reward, _, part = column.partition(PART)
    info = RewardInfo(**b.manifest["rewards"][name][reward])
    how = Averaging(within=metric_range(info, part), by_task=row.aggregate == "task_mean")
    return change(pairs, name, column, how).difference


def sample_keys(runs: Sequence[Evaluated], benchmark: str) -> pd.DataFrame:
    """Every image of the runs, once: `SAME`, `key` and `tag`, in the first run's order."""
    tables = [one.tables[benchmark] for one in holding(runs, benchmark)]
    return pd.concat([t[[*SAME, "key", "tag"]] for t in tables]).drop_duplicates(
        SAME, ignore_index=True
    )


def rewards_of(one: Evaluated, benchmark: str) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """(reward, row number -> its `reason` and `evidence` there, those that are not empty)."""
    table = one.tables[benchmark]
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
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"the evidence of {key} is not JSON: {error}; run: nftbench score RUN"
        ) from None


# --- of a training --------------------------------------------------------------------------------


def changes(one: Trained) -> list[Change]:
    """Held-out metrics before and after a finished training; empty before its end.

    Raises:
        ConfigError: its tables are broken.
    """
    try:
        return read_changes(one.folder)
    except (pyarrow.ArrowInvalid, OSError, ValueError, KeyError) as error:
        where = one.folder / HELD_OUT
        raise ConfigError(
            f"{where} is broken: {error}; leave this run out, or train again"
        ) from None


def curves(runs: Sequence[Trained], prefix: str) -> list[str]:
    """Metrics of numbers under a prefix that any training logged, in order."""
    return list(
        dict.fromkeys(
            column
            for one in runs
            for column in without_ends(one.metrics.columns)
            if column.startswith(prefix) and pd.api.types.is_numeric_dtype(one.metrics[column])
        )
    )
