"""Charts as numbers for the templates: paths in a box of 100 x 100, ticks in percent of it. Text stays HTML.

So a chart is as wide as the page lets it be, and its words never shrink with it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nftbench.reporting.html_report.data import Evaluated, Trained, column_of, holding, numbers
from nftbench.reporting.naming import aggregate_name
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
    """JSON [[x, y], ...] in the units of the axes."""
    last: str
    """The last value."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """One metric, task by task."""

    title: str
    groups: Sequence[tuple[str, Sequence[Bar]]]
    ticks: Sequence[Tick]


def number(value: float) -> str:
    """A number as every table of the report shows it: three decimals, nothing where there is none."""
    return f"{value:.3f}" if math.isfinite(value) else "none"


def short(value: float) -> str:
    """A number for an axis."""
    return f"{value:.4g}"


def _span(values: Iterable[float]) -> tuple[float, float]:
    """Lowest and highest finite value, moved apart where they are one."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if low == high:
        room = abs(low) * 0.05 or 0.5
        return low - room, high + room
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    inside = MaxNLocator(TICKS).tick_values(low, high)
    slack = (high - low) * 1e-9
    return [float(v) for v in inside if low - slack <= v <= high + slack]


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 3)


def _marks(low: float, high: float) -> list[Tick]:
    return [(_percent(v, low, high), short(v)) for v in _ticks(low, high)]


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
    return Bars(title=title, groups=list(groups.items()), ticks=_marks(low, top))


def _bar(one: Evaluated, row: Row, low: float, top: float) -> Bar:
    known = math.isfinite(row.low) and math.isfinite(row.high)
    inside = [
        min(max(v, low), top) if math.isfinite(v) else low for v in (row.value, row.low, row.high)
    ]
    value, under, over = (_percent(v, low, top) for v in inside)
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
    low, high = _span(np.concatenate(values))
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
    percent = [(place, f"{float(text) * 100:g}%") for place, text in _marks(0.0, top)]
    return Plot(
        title=column,
        unit="score",
        lines=lines,
        x_ticks=_marks(low, high),
        y_ticks=percent,
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


# --- curves ---------------------------------------------------------------------------------------


def curve(runs: Sequence[Trained], column: str, along: str, title: str) -> Plot | None:
    """A logged metric of every training that has it.

    Args:
        runs: trainings.
        column: of their metrics.
        along: what runs along x, `iteration` or `minutes`.
        title: what the plot is called.

    Returns:
        None where fewer than two points are known.
    """
    series = []
    for one in runs:
        if column in one.metrics and along in one.metrics:
            known = one.metrics[[along, column]].dropna().to_numpy(np.float64)
            known = known[np.isfinite(known).all(1)]
            if len(known):
                series.append((one, known))
    if sum(len(known) for _, known in series) < 2:
        return None
    every = np.concatenate([known for _, known in series])
    box = (*_span(every[:, 0]), *_span(every[:, 1]))
    return Plot(
        title=title,
        unit=along,
        lines=[_line(one, known, box) for one, known in series],
        x_ticks=_marks(*box[:2]),
        y_ticks=_marks(*box[2:]),
        box=json.dumps(box),
    )


def _line(one: Trained, known: np.ndarray, box: tuple[float, ...]) -> Curve:
    places = [
        (_percent(x, box[0], box[1]), 100 - _percent(y, box[2], box[3])) for x, y in known.tolist()
    ]
    return Curve(
        letter=one.letter,
        name=one.name,
        path="M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places),
        dots="".join(f"M{x:.2f} {y:.2f}h0" for x, y in places) if len(places) <= BINS else "",
        points=json.dumps(_pairs(known[:, 0], known[:, 1])),
        last=short(float(known[-1, 1])),
    )


def _pairs(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    return [[float(f"{a:.6g}"), float(f"{b:.6g}")] for a, b in zip(x, y, strict=True)]
