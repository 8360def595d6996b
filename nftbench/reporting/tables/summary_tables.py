"""Rows, gains, benchmarks and suites as tables.

An interval is unknown where no image was scored, or where no two prompts differ in a metric without ends.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from nftbench.benchmark.schema import Benchmark
from nftbench.benchmark.suites import Suite
from nftbench.reporting.naming import aggregate_name, number
from nftbench.reporting.tables.grid import Grid, GridCell, GridLine, grid_of
from nftbench.runs.rows import Row
from nftbench.stats.estimates import Estimate

if TYPE_CHECKING:
    from nftbench.stats.paired import Change

LIMITED = "a part of the prompts, or prompts or images that nobody can make again: not publishable"
NO_PROTOCOL = "nobody knows how these images were made: not publishable"


def interval(estimate: Row | Estimate, sign: str = "") -> str:
    """A 95% interval as text; `unknown` without an error.

    Args:
        estimate: with `low`, `high` and `stderr`.
        sign: `+` shows the sign of a difference.
    """
    if not math.isfinite(estimate.stderr):
        return "unknown"
    return f"{estimate.low:{sign}.3f} to {estimate.high:{sign}.3f}"


def scores(rows: Sequence[Row]) -> list[Grid]:
    """What an evaluation measured, one table a benchmark and protocol."""
    groups = groupby(rows, lambda r: (r.benchmark, r.protocol, r.limited))
    return [_scores(list(group), *key) for key, group in groups]


def _scores(rows: Sequence[Row], benchmark: str, protocol: str, limited: bool) -> Grid:
    before = [None, *(row.metric for row in rows)]
    lines = [
        GridLine(
            cells=[GridCell(text) for text in _texts(row)],
            rule=above not in (None, row.metric),
            strong=row.aggregate == "task_mean",
        )
        for row, above in zip(rows, before, strict=False)
    ]
    warning = NO_PROTOCOL if not protocol else LIMITED if limited else ""
    return Grid(
        title=f"{benchmark}, protocol {protocol}" if protocol else benchmark,
        headings=("metric", "of", "value", "95% interval", "n", "failed"),
        lines=lines,
        warnings=[warning] if warning else [],
        words=2,
        spare=("n",),
    )


def _texts(row: Row) -> list[str]:
    counts = (str(row.n), str(row.n_failed))
    return [
        str(row.spelled),
        aggregate_name(row.aggregate),
        number(row.value),
        interval(row),
        *counts,
    ]


def changes(found: Sequence["Change"]) -> list[Grid]:
    """What a training gained, benchmark by benchmark; an interval that leaves out 0 is marked."""
    headings = ("metric", "of", "before", "after", "gain", "95% interval", "n", "failed")
    return [
        grid_of(
            headings,
            [_change(one) for one in group],
            title=f"{benchmark}, held out, from the same noise before and after",
            words=2,
            spare=("n", "before"),
        )
        for benchmark, group in groupby(found, lambda c: c.benchmark)
    ]


def _change(one: "Change") -> list[str]:
    gain = one.difference
    sure = "*" if gain.low > 0 or gain.high < 0 else " "
    known = math.isfinite(gain.stderr)
    return [
        one.metric,
        one.of,
        number(one.before.value),
        number(one.after.value),
        number(gain.value, "+"),
        f"{interval(gain, '+')} {sure}" if known else interval(gain),
        str(gain.n),
        str(gain.n_failed),
    ]


def benchmarks(known: Sequence[Benchmark]) -> Grid:
    """What each benchmark contains."""
    rows = [
        [b.name, f"{b.count} x {b.sampling.images_per_prompt}", ", ".join(b.rewards), b.title]
        for b in known
    ]
    headings = ("benchmark", "prompts x images", "rewards", "what it asks")
    return grid_of(headings, rows, prose=headings[2:])


def suites(known: Sequence[Suite]) -> Grid:
    """What each suite runs."""
    rows = [[s.name, ", ".join(s.benchmarks), s.title] for s in known]
    return grid_of(("suite", "benchmarks", "title"), rows, prose=("benchmarks", "title"))
