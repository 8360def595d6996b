"""Curves of trainings with their bands, as numbers for the templates; see `charts`."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from nftbench.reporting.html_report.charts import BINS, Curve, Plot, marks, percent, short, span
from nftbench.reporting.html_report.trainings import Trained, columns, range_of, ranges
from nftbench.training.callbacks.metrics_log import ENDS
from nftbench.training.seeds import curve_of

HEALTH = (
    "x_0_norm",
    "velocity_ratio",
    "kl",
    "kl_p99",
    "kl_exploded",
    "brightness",
    "saturation",
    "zero_spread",
    "grad_norm",
    "loss",
    "lr",
)
"""What a training logs about itself, as far as a reader needs it."""
LEAST = 0.04
"""Share of the largest value that an axis spans at least, so that a flat line looks flat."""
BANDS = "Bands: the 95% interval of each validation, clustered by prompt; of several seeds, of prompts and seeds."


def groups(runs: Sequence[Trained]) -> list[tuple[str, str, list[Plot]]]:
    """(heading, what it shows, plots); headings without a plot are left out."""
    held_out = columns(runs, "held_out/")
    rewards = [c for c in columns(runs, "reward/") if c != "reward/spread"]
    several = any(len(one.parts) > 1 for one in runs)
    ranged = " Bands of several seeds: from the lowest to the highest." if several else ""
    told = [
        ("Held-out reward by iteration", BANDS, held_out, "iteration"),
        (
            "Held-out reward against wall-clock",
            f"The same validations. {BANDS}",
            held_out,
            "minutes",
        ),
        (
            "Training reward",
            f"Mean over the images of an iteration.{ranged}",
            rewards,
            "iteration",
        ),
        ("Health", f"What the guards watch.{ranged}", HEALTH, "iteration"),
    ]
    drawn = [(h, about, list(_plots(runs, names, along))) for h, about, names, along in told]
    return [group for group in drawn if group[2]]


def _plots(runs: Sequence[Trained], names: Sequence[str], along: str) -> Iterator[Plot]:
    for column in names:
        title = column.removeprefix("held_out/").removeprefix("reward/")
        plot = curve(runs, column, along, title)
        if plot:
            yield plot


def curve(runs: Sequence[Trained], column: str, along: str, title: str) -> Plot | None:
    """A logged metric of every training that has it.

    Args:
        runs: trainings; of several seeds, their mean and each of them.
        column: of their metrics.
        along: what runs along x, `iteration` or `minutes`.
        title: what the plot is called.

    Returns:
        None where fewer than two points are known.
    """
    series = [(one, *_series(one, column, along)) for one in runs]
    series = [(one, mean, seeds) for one, mean, seeds in series if len(mean) or seeds]
    drawn = [t for _, mean, seeds in series for t in (mean, *seeds)]
    if sum(len(table) for table in drawn) < 2:
        return None
    xs = np.concatenate([t[along] for t in drawn])
    ys = np.concatenate([t[["value", "low", "high"]].to_numpy().ravel() for t in drawn])
    box = (*span(xs), *span(ys, LEAST))
    return Plot(
        title=title,
        unit=along,
        lines=[_line(one, mean, seeds, along, box) for one, mean, seeds in series],
        x_ticks=marks(*box[:2]),
        y_ticks=marks(*box[2:]),
        box=json.dumps(box),
    )


def _series(one: Trained, column: str, along: str) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The mean with its band, and each seed alone, without one; the latter of several seeds only."""
    within = range_of(ranges(one), column) if column.startswith("held_out/") else range_of({}, "")
    tables = [_finite(part.metrics, column, along) for part in one.parts]
    mean = curve_of(tables, column, along, within)
    if len(tables) == 1:
        return mean, []
    each = [curve_of([table], column, along, within) for table in tables]
    return mean, [t.assign(low=np.nan, high=np.nan) for t in each if len(t)]


def _finite(table: pd.DataFrame, column: str, along: str) -> pd.DataFrame:
    """A seed's metrics where both axes are known numbers."""
    if not {column, along} <= set(table):
        return table
    known = table[[along, column]].apply(pd.to_numeric, errors="coerce")
    ends = {f"{column}{end}" for end in ENDS} & set(table)
    kept = table.loc[np.all(np.isfinite(known.to_numpy(np.float64)), axis=1)]
    return kept.loc[:, ["iteration", *({along, column} - {"iteration"}), *ends]]


def _line(
    one: Trained,
    mean: pd.DataFrame,
    seeds: Sequence[pd.DataFrame],
    along: str,
    box: tuple[float, ...],
) -> Curve:
    points = _points(mean, along)
    return Curve(
        letter=one.letter,
        name=one.name,
        path=_path(_places(mean[along], mean["value"], box)),
        dots="".join(f"M{x:.2f} {y:.2f}h0" for x, y in _places(mean[along], mean["value"], box))
        if len(mean) <= BINS
        else "",
        band=_band(mean, along, box),
        thin=[_path(_places(t[along], t["value"], box)) for t in seeds],
        points=json.dumps(points),
        last=_last(points),
    )


def _last(points: Sequence[Sequence[float]]) -> str:
    if not points:
        return "no iteration of all seeds yet"
    _, value, *ends = points[-1]
    return f"{short(value)} ({short(ends[0])} to {short(ends[1])})" if ends else short(value)


def _points(mean: pd.DataFrame, along: str) -> list[list[float]]:
    """x, value, and where they are known the ends of the band."""
    rows = mean[[along, "value", "low", "high"]].to_numpy(np.float64).tolist()
    kept = [row if np.isfinite(row).all() else row[:2] for row in rows]
    return [[float(f"{v:.6g}") for v in row] for row in kept]


def _places(x: pd.Series, y: pd.Series, box: tuple[float, ...]) -> list[tuple[float, float]]:
    return [
        (percent(a, box[0], box[1]), 100 - percent(b, box[2], box[3]))
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places) if places else ""


def _band(mean: pd.DataFrame, along: str, box: tuple[float, ...]) -> str:
    known = mean[mean[["low", "high"]].notna().all(axis=1)]
    if len(known) < 2:
        return ""
    above = _places(known[along], known["high"], box)
    below = _places(known[along], known["low"], box)
    return f"{_path([*above, *reversed(below)])}Z"
