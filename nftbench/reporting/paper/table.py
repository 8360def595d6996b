"""A paper's table with our rows beside the published ones: is my number the paper's?

A published number says little of how it was measured. What it says must hold of ours before the two are compared; what
it leaves open (`?`) is left out of that and named under the table.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import rewards as registry
from nftbench.benchmark.registry import known
from nftbench.benchmark.schema import Protocol
from nftbench.benchmark.suites import Column, Suite
from nftbench.reporting.leaderboard import board as leaderboard
from nftbench.reporting.naming import MEANS
from nftbench.reporting.paper.protocol import OPEN, Wanted, comparable, wanted
from nftbench.reporting.results import TRAINING, Result, read_results
from nftbench.reporting.seed_rows import rows_of
from nftbench.runs.row_files import Entry, stated
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from nftbench.runs.seeds import is_parent
from rewards.base import ConfigError, Metric

NEAR = 0.8
"""Likeness from which a label is taken for a misspelled line of the table."""
FLAGS = {
    "guidance_scale": "--guidance-scale",
    "num_inference_steps": "--steps",
    "solver": "--solver",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperCell:
    """One number of ours, and how it stands to the published one."""

    column: Column
    row: Row | None
    """None where it is missing."""
    published: Entry | None
    faults: tuple[str, ...] = ()
    """Fields in which the protocols differ: `guidance_scale (1.0, 4.5)`, ours before theirs."""
    open: tuple[str, ...] = ()
    """Fields that the paper does not tell."""
    command: str = ""
    """Fills a missing cell."""

    @property
    def difference(self) -> float:
        """Ours less the published one; NaN where there is no such pair."""
        if self.row is None or self.published is None:
            return math.nan
        return self.row.value - self.published.row.value

    @property
    def verdict(self) -> str:
        """`agrees`, `differs`, `protocol differs: FIELD (ours, theirs)`, `missing`; empty where nothing is printed."""
        if self.row is None:
            return "missing"
        if self.faults:
            return f"protocol differs: {', '.join(self.faults)}"
        if self.published is None:
            return ""
        if not math.isfinite(self.row.stderr):
            return "error unknown"
        slack = rounding(self.published.value) + 1e-9  # decimals are not exact in binary
        low, high = self.row.low - slack, self.row.high + slack
        return "agrees" if low <= self.published.row.value <= high else "differs"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperLine:
    """One line of the table: a published model's, or a run's."""

    label: str
    called: str = ""
    """What the user calls it, where that is not the label of a line."""
    result: Result | None = None
    """None of a published line, and of one that nobody ran."""
    published: Mapping[Column, Entry] = field(default_factory=dict)
    """Of a published line."""
    cells: Sequence[PaperCell] = ()
    """Of a line of ours, column by column."""
    note: str = ""
    """Why a run is held against no published line, though it could be against several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperTable:
    """All lines, in the suite's order; a run stands below the published line that it is held against."""

    suite: Suite
    lines: Sequence[PaperLine]
    best: Mapping[Column, float]
    """The best number among published cells and those of ours that are drawn alike; NaN without any."""
    second: Mapping[Column, float]
    """The next one."""


def _leaders(column: Column, lines: Sequence[PaperLine]) -> tuple[float, float]:
    """The best number of a column and the next one; NaN where there is none."""
    cells = [cell for line in lines for cell in line.cells if cell.column == column]
    values = [cell.row.value for cell in cells if cell.row and not cell.faults]
    values += [line.published[column].row.value for line in lines if column in line.published]
    sign = 1 if higher_is_better(column) else -1
    known = sorted({v for v in values if math.isfinite(v)}, key=lambda v: -sign * v)
    best, second = [*known, math.nan, math.nan][:2]
    return best, second


def higher_is_better(column: Column) -> bool:
    """Which way a column runs; a reward that is not here is taken to run upwards."""
    if Metric.parse(column.metric).part in leaderboard.LOWER_IS_BETTER:
        return False
    try:
        return registry.reward_info(column.reward).higher_is_better
    except ConfigError:
        return True


def rounding(written: str) -> float:
    """Half a unit of a number's last written digit: 0.005 of `0.94`."""
    digits = written.strip().lower().partition("e")[0].partition(".")[2]
    exponent = written.strip().lower().partition("e")[2]
    return 0.5 * 10.0 ** (int(exponent or 0) - len(digits))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rival:
    """What a run is held against."""

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the line, in place of the suite's."""
    published: Mapping[Column, Entry] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    """Fields that may be anything."""

    @property
    def flags(self) -> dict[str, Any]:
        """Settings of the line that `nftbench eval` is told."""
        said = [stated(e.row.settings) for e in self.published.values()]
        told = {f: s[f] for s in said for f in FLAGS if s.get(f, OPEN) != OPEN}
        return told | dict(self.settings)


def paper_table(suite: Suite, runs: Sequence[str], where: Path | None = None) -> PaperTable:
    """The table of a suite.

    Args:
        suite: with columns.
        runs: folders, and parents of several seeds', each `RUN` or `RUN=LABEL`: the label of the line that it is
            held against, or a name of one's own.
        where: the leaderboards' folder, which holds the published rows; the project's own when None.

    Raises:
        ConfigError: a suite without a table, a folder that is no run or is not finished, a bad label.
    """
    if not suite.columns:
        raise ConfigError(
            f"suite {suite.name} has no table: it has no columns; expected one such as table1"
        )
    printed = _published(suite, where)
    own = {row.label: row for row in suite.rows}
    rivals = {
        label: _Rival(
            label=label,
            settings=own[label].settings.given if label in own else {},
            published=printed.get(label, {}),
        )
        for label in [*own, *(p for p in printed if p not in own)]
    }
    lines: dict[str, list[PaperLine]] = {
        label: [PaperLine(label=label, published=rival.published)] * bool(rival.published)
        for label, rival in rivals.items()
    }
    for result in read_results(runs):
        if result.kind == TRAINING:
            raise ConfigError(
                f"{result.folder} is a training; evaluate it first: nftbench eval {result.folder} --suite {suite.name}"
            )
        line = _measured(suite, rivals, result)
        lines.setdefault(line.label, []).append(line)
    for label in own:
        lines[label] = lines[label] or [_not_run(suite, rivals[label], own[label].checkpoint)]
    flat = [line for group in lines.values() for line in group]
    leaders = {column: _leaders(column, flat) for column in suite.columns}
    return PaperTable(
        suite=suite,
        lines=sorted(flat, key=lambda line: _place(suite, line.label)),
        best={column: best for column, (best, _) in leaders.items()},
        second={column: second for column, (_, second) in leaders.items()},
    )


def _place(suite: Suite, label: str) -> int:
    """Where a label stands; what the suite does not order keeps its order, at the end."""
    labels = [line.label for line in suite.lines]
    return labels.index(label) if label in labels else len(labels)


def _published(suite: Suite, where: Path | None) -> dict[str, dict[Column, Entry]]:
    """Label -> column -> what is printed there."""
    found: dict[str, dict[Column, Entry]] = {}
    benchmarks = dict.fromkeys(c.benchmark for c in suite.columns if suite.published)
    paths = [(where or leaderboard.folder()) / f"{name}.csv" for name in benchmarks]
    entries = [entry for path in paths if path.is_file() for entry in leaderboard.read(path)]
    for entry, column in product(entries, suite.columns):
        if _stands_in(entry.row, column, suite):
            cells = found.setdefault(entry.row.model, {})
            if column not in cells or entry.row.aggregate == column.aggregate:
                cells[column] = entry
    return found


def _stands_in(row: Row, column: Column, suite: Suite) -> bool:
    """Whether a published row is a cell of a column; which of the two means it is, papers do not always say."""
    fields = ("benchmark", "metric", "variant")
    mean = {row.aggregate, column.aggregate} <= set(MEANS)
    return (
        (row.source, row.protocol) == ("published", suite.published)
        and all(getattr(row, f) == getattr(column, f) for f in fields)
        and (mean or row.aggregate == column.aggregate)
    )


# --- our lines ------------------------------------------------------------------------------------


def _measured(suite: Suite, rivals: Mapping[str, _Rival], result: Result) -> PaperLine:
    """A result's line, against the line it names, else against that of its checkpoint which is drawn most alike."""
    run = Run.open(result.runs[0])
    name, label = run.manifest["checkpoint"]["name"], result.label
    called = "" if label in rivals else label
    if called and get_close_matches(called, list(rivals), n=1, cutoff=NEAR):
        known(called, list(rivals), "label")  # a line is meant, and misspelled: refused
    mine = [r for r in rivals.values() if name in _checkpoints(suite, r)]
    chosen = [rivals[label]] if label and not called else mine
    held = [(rival, _cells(suite, result, rival)) for rival in chosen]
    apart = [sum(len(c.faults) for c in cells) for _, cells in held]
    nearest = [h for h, n in zip(held, apart, strict=True) if n == min(apart)]
    if len(nearest) == 1:
        rival, cells = nearest[0]
        return PaperLine(label=rival.label, called=called, result=result, cells=cells)
    alike = " or ".join(repr(r.label) for r, _ in nearest)
    note = f"could be held against {alike}: say {result.folder}=LABEL" if nearest else ""
    alone = _Rival(label=called or name, free=frozenset({"guidance_scale"}))
    return PaperLine(
        label=alone.label, result=result, cells=_cells(suite, result, alone), note=note
    )


def _checkpoints(suite: Suite, rival: _Rival) -> set[str]:
    known = {row.checkpoint for row in suite.rows if row.label == rival.label}
    return known | {e.row.checkpoint for e in rival.published.values()} - {""}


def _cells(suite: Suite, result: Result, rival: _Rival) -> list[PaperCell]:
    run = Run.open(result.runs[0])
    protocols = {p.hash: p for p in run.protocols().values()}
    rows = [
        row.model_copy(update={"benchmark": protocols[row.protocol].benchmark})
        for row in rows_of(result)
    ]
    name, cells = run.manifest["checkpoint"]["name"], []
    again = _evaluate(suite, _checkpoint(result, name), rival)
    made_elsewhere = any(p.noise == "given" for p in protocols.values())
    for column in suite.columns:
        entry = rival.published.get(column)
        target = wanted(suite, column, rival.settings, entry, rival.free)
        row, faults = _nearest(column, target, rows, protocols)
        drawn = [p for p in protocols.values() if p.benchmark == column.benchmark]
        score = " && ".join(
            f"nftbench score {shlex.quote(str(folder))} --rewards {column.reward}"
            for folder in result.runs
        )
        given = f"nftbench import IMAGES --name {shlex.quote(name)} --benchmark {column.benchmark}"
        ready = any(made_elsewhere or not target.faults(p) for p in drawn)
        cells.append(
            PaperCell(
                column=column,
                row=row,
                published=entry,
                faults=faults,
                open=target.open,
                command="" if row else score if ready else given if made_elsewhere else again,
            )
        )
    return cells


def _checkpoint(result: Result, name: str) -> str:
    """What is evaluated again: of several seeds their parent, which is all of them."""
    parent = Path(name).parent
    return str(parent) if result.seeds and is_parent(parent) else name


def _nearest(
    column: Column, target: Wanted, rows: Sequence[Row], protocols: Mapping[str, Protocol]
) -> tuple[Row | None, tuple[str, ...]]:
    """A run's number for a column, the one that was drawn most as it is asked, and where even that differs."""
    fields = ("benchmark", "metric", "aggregate")
    mine = [r for r in rows if all(getattr(r, f) == getattr(column, f) for f in fields)]
    found = [(row, target.faults(protocols[row.protocol], row)) for row in mine]
    return min(found, key=lambda pair: len(pair[1]), default=(None, ()))


def _not_run(suite: Suite, rival: _Rival, checkpoint: str) -> PaperLine:
    command = _evaluate(suite, checkpoint, rival)
    cells = [PaperCell(column=c, row=None, published=None, command=command) for c in suite.columns]
    return PaperLine(label=rival.label, cells=cells)


def _evaluate(suite: Suite, checkpoint: str, rival: _Rival) -> str:
    """The command that makes a line; a setting that the suite has anyway needs no flag."""
    usual = suite.settings.given
    flags = [
        f"{FLAGS[f]} {v}" for f, v in rival.flags.items() if f in FLAGS and _other(usual.get(f), v)
    ]
    return " ".join(["nftbench eval", shlex.quote(checkpoint), "--suite", suite.name, *flags])


def _other(usual: Any, value: Any) -> bool:
    return usual is None or comparable(usual) != comparable(value)
