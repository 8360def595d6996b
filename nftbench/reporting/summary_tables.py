"""Rows and benchmarks as tables for the terminal.

An interval is unknown where fewer than two prompts were asked.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table

from nftbench.benchmark.registry import Benchmark, Suite
from nftbench.runs.rows import Row

if TYPE_CHECKING:
    from nftbench.stats.paired import Change

AGGREGATES = {"task_mean": "task mean", "image_mean": "image mean"}


def cells(row: Row) -> list[str]:
    """What a table shows of one row: metric, aggregate, value, interval, n, failed."""
    name = AGGREGATES.get(row.aggregate, row.aggregate.removeprefix("task:"))
    metric = f"{row.metric}@{row.variant}" if row.variant else row.metric
    interval = f"{row.low:.3f} to {row.high:.3f}" if math.isfinite(row.stderr) else "unknown"
    return [metric, name, f"{row.value:.3f}", interval, str(row.n), str(row.n_failed)]


HEADINGS = ("metric", "of", "value", "95% interval", "n", "failed")


def terminal(rows: Sequence[Row]) -> list[Table]:
    """One rich table a benchmark."""
    tables = []
    for (benchmark, protocol, limited), group in groupby(
        rows, lambda r: (r.benchmark, r.protocol, r.limited)
    ):
        table = Table(title=f"{benchmark}  ({_note(protocol, limited)})", title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in ("metric", "of") else "right")
        previous = None
        for row in group:
            shown = cells(row)
            if previous not in (None, row.metric):
                table.add_section()
            previous = row.metric
            table.add_row(*shown, style="bold" if row.aggregate == "task_mean" else None)
        tables.append(table)
    return tables


def _note(protocol: str, limited: bool) -> str:
    if not protocol:
        return "nobody knows how these images were made: not publishable"
    return f"protocol {protocol}, limited: not publishable" if limited else f"protocol {protocol}"


def changes(found: Sequence["Change"]) -> list[Table]:
    """What a training gained, benchmark by benchmark; an interval that leaves out 0 is marked."""
    tables = []
    for benchmark, group in groupby(found, lambda c: c.benchmark):
        table = Table(
            title=f"{benchmark}  (held out, the same noise before and after)", title_justify="left"
        )
        for heading in ("metric", "of", "before", "after", "gain", "95% interval", "n", "failed"):
            table.add_column(heading, justify="left" if heading in ("metric", "of") else "right")
        for c in group:
            gain = c.difference
            sure = "*" if gain.low > 0 or gain.high < 0 else " "
            interval = f"{gain.low:+.3f} to {gain.high:+.3f} {sure}"
            table.add_row(
                c.metric,
                c.aggregate,
                f"{c.before.value:.3f}",
                f"{c.after.value:.3f}",
                f"{gain.value:+.3f}",
                interval if math.isfinite(gain.stderr) else "unknown",
                str(gain.n),
                str(gain.n_failed),
            )
        tables.append(table)
    return tables


def benchmarks(known: Sequence[Benchmark]) -> Table:
    """What each benchmark asks."""
    rows = [
        [
            b.name,
            f"{b.count} x {b.sampling.images_per_prompt}",
            ", ".join(b.rewards),
            b.title,
        ]
        for b in known
    ]
    return _plain(("benchmark", "prompts x images", "rewards", "what it asks"), rows)


def suites(known: Sequence[Suite]) -> Table:
    """What each suite runs."""
    return _plain(
        ("suite", "benchmarks", "title"),
        [[s.name, ", ".join(s.benchmarks), s.title] for s in known],
    )


def _plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    return table
