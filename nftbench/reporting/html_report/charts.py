"""Charts as numbers for the templates: paths in a box of 100 x 100, ticks in percent of it. Text stays HTML.

So a chart is as wide as the page lets it be, and its words never shrink with it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nftbench.reporting.html_report.data import Evaluated, column_of, holding, numbers
from nftbench.reporting.naming import aggregate_name, number
from nftbench.runs.rows import Row

BINS = 24
TICKS = 4

Tick = tuple[float, str]
"""Place in percent from the left or the bottom, and what stands there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One run's curve."""

    letter: str
    name: str
    path: str
    """Of an SVG, in a box of 100 x 100 with y downwards."""
    dots: str
    """Its points, as a path of strokes without length; empty where they stand too close."""
    points: str
    """JSON [[x, y], ...] or [[x, y, low, high], ...] in the units of the axes."""
    last: str
    """The last value."""
    band: str = ""
    """Outline of its interval, as a path."""
    thin: Sequence[str] = ()
    """Paths of what the curve is the mean of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """Lines over one pair of axes."""

    title: str
    unit: str
    """What runs along x."""
    lines: Sequence[Curve]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    box: str
    """JSON [x low, x high, y low, y high], for the pointer."""
    filled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One run's value with its interval, places in percent of the axis."""

    letter: str
    name: str
    value: float
    low: float
    high: float
    text: str
    known: bool
    """Whether there is an interval."""
    data: str
    """JSON [run, value, low, high, images], for a table; unknown ends are empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """One metric, task by task."""

    title: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    ticks: Sequence[Tick]


def short(value: float) -> str:
    """A number for an axis."""
    return f"{value:.4g}"


def span(values: Iterable[float], least: float = 0.0) -> tuple[float, float]:
    """Lowest and highest finite value, moved apart where they are one.

    Args:
        values: NaN is passed over.
        least: share of the largest value that lies between the two at least.
    """
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if low == high:
        room = abs(low) * 0.05 or 0.5
        return low - room, high + room
    room = max(least * max(abs(low), abs(high)) - (high - low), 0.0) / 2
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    inside = MaxNLocator(TICKS).tick_values(low, high)
    slack = (high - low) * 1e-9
    return [float(v) for v in inside if low - slack <= v <= high + slack]


def percent(value: float, low: float, high: float) -> float:
    """Where a value lies between two others."""
    return round(100 * (value - low) / (high - low), 3)


def marks(low: float, high: float) -> list[Tick]:
    """Ticks of an axis."""
    return [(percent(v, low, high), short(v)) for v in _ticks(low, high)]


# --- bars -----------------------------------------------------------------------------------------


def bars(runs: Sequence[Evaluated], benchmark: str) -> list[Bars]:
    """Task bars of every metric that is told task by task."""
    rows = [(one, row) for one in runs for row in one.rows if row.benchmark == benchmark]
    columns = dict.fromkeys(column_of(r) for _, r in rows if r.aggregate.startswith("task:"))
    return [_bars([(o, r) for o, r in rows if column_of(r) == c], c) for c in columns]


def _bars(rows: Sequence[tuple[Evaluated, Row]], title: str) -> Bars:
    values = [r.value for _, r in rows if math.isfinite(r.value)]
    top = max([1.0, *values])
    low = min([0.0, *values])
    groups: dict[str, list[Bar]] = {}
    for one, row in rows:
        label = aggregate_name(row.aggregate)
        groups.setdefault(label, []).append(_bar(one, row, low, top))
    return Bars(title=title, groups=list(groups.items()), ticks=marks(low, top))


def _bar(one: Evaluated, row: Row, low: float, top: float) -> Bar:
    known = math.isfinite(row.low) and math.isfinite(row.high)
    inside = [
        min(max(v, low), top) if math.isfinite(v) else low for v in (row.value, row.low, row.high)
    ]
    value, under, over = (percent(v, low, top) for v in inside)
    interval = f" ({number(row.low)} to {number(row.high)})" if known else ""
    text = f"{one.letter}: {number(row.value)}{interval}, {row.n} images"
    return Bar(
        letter=one.letter,
        name=number(row.value),
        value=value,
        low=under,
        high=over,
        text=text,
        known=known,
        data=json.dumps(
            [
                one.name,
                *(f"{v:.6g}" if math.isfinite(v) else "" for v in (row.value, row.low, row.high)),
                row.n,
            ]
        ),
    )


# --- distributions --------------------------------------------------------------------------------


def distributions(runs: Sequence[Evaluated], benchmark: str, columns: Sequence[str]) -> list[Plot]:
    """A histogram of every column that has more to tell than 0 or 1."""
    found = []
    for column in columns:
        values = numbers(runs, benchmark, column)
        if any(not np.isin(v, (0, 1)).all() for v in values):
            found.append(_histogram(holding(runs, benchmark), values, column))
    return found


def _histogram(runs: Sequence[Evaluated], values: Sequence[np.ndarray], column: str) -> Plot:
    low, high = span(np.concatenate(values))
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(v, edges)[0] / max(len(v), 1) for v in values]
    top = max(float(s.max()) for s in shares) * 1.05
    box = (low, high, 0.0, top)
    lines = [
        Curve(
            letter=one.letter,
            name=one.name,
            path=_steps(share / top),
            dots="",
            points=json.dumps(_pairs((edges[:-1] + edges[1:]) / 2, share)),
            last=f"mean {number(float(v.mean()))}",
        )
        for one, v, share in zip(runs, values, shares, strict=True)
        if len(v)
    ]
    shares_of = [(place, f"{float(text) * 100:g}%") for place, text in marks(0.0, top)]
    return Plot(
        title=column,
        unit="score",
        lines=lines,
        x_ticks=marks(low, high),
        y_ticks=shares_of,
        box=json.dumps(box),
        filled=True,
    )


def _steps(heights: np.ndarray) -> str:
    """Outline of a histogram whose bins fill the box."""
    width = 100 / len(heights)
    path = ["M0 100"]
    for i, height in enumerate(heights):
        path.append(f"V{100 - 100 * height:.2f}H{(i + 1) * width:.2f}")
    return "".join([*path, "V100"])


def _pairs(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    return [[float(f"{a:.6g}"), float(f"{b:.6g}")] for a, b in zip(x, y, strict=True)]
