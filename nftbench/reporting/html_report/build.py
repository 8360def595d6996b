"""The report: run folders in, one folder of HTML out that needs neither a server nor a network.

    OUT/index.html, report.css, report.js   the page; words and tables stand in it
    OUT/data/N.js                           the samples of one benchmark, for the gallery
    OUT/images/                             images_of and thumbnails, numbered

It is made beside its place and renamed into it, so a report that was stopped leaves the old one as it was.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

import nftbench
from nftbench.reporting.html_report import charts as report_charts
from nftbench.reporting.html_report import data as report_data
from nftbench.reporting.html_report.data import SAME, Evaluated, Trained, column_of
from nftbench.reporting.html_report.images import ReportImage, place_all
from nftbench.reporting.naming import aggregate_name
from nftbench.runs.io import write_atomic
from nftbench.runs.rows import Row
from nftbench.stats.estimates import Estimate
from rewards.base import ConfigError, Progress

PAGE = "index.html"
MARK = '<meta name="generator" content="nftbench report">'
"""By this a folder is known to be a report, which may be replaced."""
HEALTH = (
    "x_0_norm",
    "velocity_ratio",
    "kl",
    "brightness",
    "saturation",
    "zero_spread",
    "grad_norm",
    "loss",
)
"""What a training logs about itself, as far as a reader needs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenReport:
    """What was written."""

    page: Path
    images: int
    missing: int
    """Images of the runs that could not be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """One benchmark, ready for the page."""

    name: str
    passing: str
    head: tuple[str, str]
    """Column and aggregate of the number that stands for the benchmark."""
    table: Sequence[tuple[str, str, Sequence[tuple[Row | None, Estimate | None]]]]
    """(metric, of, a number and its difference to the first run's, run by run)."""
    bars: Sequence[report_charts.Bars]
    plots: Sequence[report_charts.Plot]
    differs: str
    """Protocol fields in which the runs differ."""
    missing: int
    images: int


def write_report(
    folders: Sequence[Path], out: Path | None, report: Progress, *, live: bool = False
) -> WrittenReport:
    """Write the report of one run or of several beside one another.

    Args:
        folders: of evaluations and trainings.
        out: where to; None is `report` in the first folder.
        report: told of progress.
        live: the page is served, and looks for a newer one.

    Raises:
        ConfigError: a folder that is no finished run, or an `out` that holds something else.
    """
    evaluated, trained = report_data.read_runs(folders)
    out = (out or folders[0] / "report").absolute()
    _refuse(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(new, ignore_errors=True)
    try:
        written = _write(new, evaluated, trained, report, live=live)
        if out.exists():
            shutil.rmtree(out)
        new.replace(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return WrittenReport(page=out / PAGE, images=written.images, missing=written.missing)


def _refuse(out: Path) -> None:
    page = out / PAGE
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is not a folder; choose another --out")
    empty = not out.exists() or not any(out.iterdir())
    if not empty and not (page.is_file() and MARK in page.read_text("utf-8", "replace")):
        raise ConfigError(f"{out} holds something that is not a report; choose another --out")


def _write(
    out: Path,
    evaluated: Sequence[Evaluated],
    trained: Sequence[Trained],
    report: Progress,
    *,
    live: bool,
) -> WrittenReport:
    benches = []
    for number, name in enumerate(report_data.names(evaluated)):
        data, images_of = _gallery(evaluated, name, out, report)
        write_atomic(out / "data" / f"{number}.js", script(data))
        benches.append(_bench(evaluated, name, images_of))
    grids = [_grids(one, out) for one in trained]
    page = (
        _environment()
        .get_template(PAGE)
        .render(
            mark=MARK,
            live=live,
            version=nftbench.__version__,
            title=_title(evaluated, trained),
            evaluated=evaluated,
            trained=trained,
            benches=benches,
            training=_training(trained),
            changes={one.letter: report_data.changes(one) for one in trained},
            grids=[(one, found) for one, found in zip(trained, grids, strict=True) if found],
        )
    )
    write_atomic(out / PAGE, page.encode())
    for name in ("report.css", "report.js"):
        source = jinja2.PackageLoader("nftbench.reporting", "templates/report").get_source(
            _environment(), name
        )
        write_atomic(out / name, source[0].encode())
    return WrittenReport(
        page=out / PAGE,
        images=sum(b.images for b in benches),
        missing=sum(b.missing for b in benches),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nftbench.reporting", "templates/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": report_charts.number,
        "signed": lambda v: f"{v:+.3f}",
        "aggregate": aggregate_name,
        "half": lambda row: report_charts.number((row.high - row.low) / 2),
    }
    environment.tests["known"] = lambda e: math.isfinite(e.stderr)
    environment.tests["sure"] = lambda e: e.low > 0 or e.high < 0
    return environment


def _title(evaluated: Sequence[Evaluated], trained: Sequence[Trained]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in (*evaluated, *trained)))


# --- evaluations ----------------------------------------------------------------------------------


def _bench(
    runs: Sequence[Evaluated], name: str, images_of: Mapping[str, list[ReportImage]]
) -> Bench:
    mine = report_data.holding(runs, name)
    columns = report_data.shared_metrics(mine, name)
    kinds = dict.fromkeys(
        (column_of(row), row.aggregate) for one in mine for row in one.rows if row.benchmark == name
    )
    order = {column: place for place, column in enumerate(columns)}
    lines = sorted(kinds, key=lambda kind: order.get(kind[0], len(order)))
    first = [kind for kind in lines if kind[0] == lines[0][0]]
    placed = [image for listed in images_of.values() for image in listed]
    return Bench(
        name=name,
        passing=report_data.passing(runs, name),
        head=next((k for k in first if k[1] == "task_mean"), first[0]),
        table=[(column, of, _cells(runs, name, column, of)) for column, of in lines],
        bars=report_charts.bars(mine, name),
        plots=report_charts.distributions(mine, name, columns),
        differs=_differs(mine, name),
        missing=sum(bool(image.fault) for image in placed),
        images=len(placed),
    )


def _differs(runs: Sequence[Evaluated], name: str) -> str:
    """The protocol fields in which runs differ: `guidance_scale (A 1.0, B 4.5)`."""
    fields = [one.protocols[name].model_dump(mode="json") for one in runs]
    differing = [
        f"{field} ({', '.join(f'{o.letter} {f[field]}' for o, f in zip(runs, fields, strict=True))})"
        for field in fields[0]
        if any(f[field] != fields[0][field] for f in fields)
    ]
    return ", ".join(differing)


def _cells(
    runs: Sequence[Evaluated], name: str, column: str, aggregate: str
) -> list[tuple[Row | None, Estimate | None]]:
    rows = [one.row(name, column, aggregate) for one in runs]
    return [
        (row, report_data.difference(runs[0], one, row) if row and one is not runs[0] else None)
        for one, row in zip(runs, rows, strict=True)
    ]


def _gallery(
    runs: Sequence[Evaluated], name: str, out: Path, report: Progress
) -> tuple[dict[str, Any], dict[str, list[ReportImage]]]:
    """One benchmark's samples for the page's script, and where their images_of went."""
    samples = report_data.sample_keys(runs, name)
    prompts = samples[["prompt_id", "prompt", "tag"]].drop_duplicates(ignore_index=True)
    prompts["number"] = range(len(prompts))
    numbered = samples.merge(prompts, on=["prompt_id", "prompt", "tag"], how="left")
    images_of, sides = {}, []
    for one in report_data.holding(runs, name):
        images_of[one.letter] = _place(one, name, out, report)
        sides.append(_side(one, name, samples, images_of[one.letter]))
    return {
        "name": name,
        "passing": report_data.passing(runs, name),
        "metrics": report_data.shared_metrics(runs, name),
        "prompts": prompts[["prompt_id", "prompt", "tag"]].to_numpy().tolist(),
        "prompt": numbered["number"].tolist(),
        "key": samples["key"].tolist(),
        "index": samples["image_index"].tolist(),
        "seed": samples["seed"].astype(str).tolist(),  # 63 bits: more than a script's numbers hold
        "runs": sides,
    }, images_of


def _place(one: Evaluated, name: str, out: Path, report: Progress) -> list[ReportImage]:
    sources = [str(source) for source in one.tables[name]["image"]]
    under = f"images/{one.letter}-{list(one.tables).index(name)}"
    placed = []
    for image in place_all(sources, one.run.folder / name, out, under):
        placed.append(image)
        report(f"{one.letter} {name}: images", len(placed), len(sources))
    return placed


def _side(
    one: Evaluated, name: str, samples: pd.DataFrame, images_of: Sequence[ReportImage]
) -> dict[str, Any]:
    """One run's part of the samples; None where it has no such image."""
    table = one.tables[name]
    places = samples.merge(table[SAME].assign(place=range(len(table))), on=SAME, how="left")[
        "place"
    ]
    rows = [None if math.isnan(place) else int(place) for place in places]
    details = {
        key: [words(row) if row is not None else {} for row in rows]
        for key, words in report_data.rewards_of(one, name)
    }
    shown = [images_of[row] if row is not None else None for row in rows]
    return {
        "letter": one.letter,
        "name": one.name,
        "file": [p and p.file for p in shown],
        "thumbnail": [p and p.thumbnail for p in shown],
        "size": [p and [p.width, p.height] for p in shown],
        "fault": [p and p.fault for p in shown],
        "values": {c: _values(table[c], rows) for c in one.metrics(name)},
        "details": details,
    }


def _values(column: pd.Series, rows: Sequence[int | None]) -> list[float | None]:
    values = column.to_numpy(np.float64)
    return [
        float(f"{values[row]:.6g}") if row is not None and math.isfinite(values[row]) else None
        for row in rows
    ]


def script(data: Mapping[str, Any]) -> bytes:
    r"""Data as a script that hands it to the page; nothing in it can end the script or begin a tag.

    Args:
        data: JSON-ready; text of any kind.
    """
    text = json.dumps(data, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f"REPORT.add({text});\n".encode("ascii")


# --- trainings ------------------------------------------------------------------------------------


def _training(runs: Sequence[Trained]) -> list[tuple[str, str, list[report_charts.Plot]]]:
    """(heading, what it shows, plots); headings without a plot are left out."""
    held_out = report_data.curves(runs, "held_out/")
    rewards = [c for c in report_data.curves(runs, "reward/") if c != "reward/spread"]
    groups = [
        (
            "Held-out reward against wall-clock",
            "prompts that were not trained on",
            held_out,
            "minutes",
        ),
        ("Held-out reward by iteration", "the same validations", held_out, "iteration"),
        ("Training reward", "mean over the images of an iteration", rewards, "iteration"),
        ("Health", "what the guards watch", HEALTH, "iteration"),
    ]
    drawn = [(h, about, list(_plots(runs, columns, along))) for h, about, columns, along in groups]
    return [group for group in drawn if group[2]]


def _plots(
    runs: Sequence[Trained], columns: Sequence[str], along: str
) -> Iterator[report_charts.Plot]:
    for column in columns:
        title = column.removeprefix("held_out/").removeprefix("reward/")
        plot = report_charts.curve(runs, column, along, title)
        if plot:
            yield plot


def _grids(one: Trained, out: Path) -> list[tuple[int, ReportImage]]:
    """The images_of of the same prompts over time."""
    numbers = [number for number, _ in one.grids]
    sources = [path.name for _, path in one.grids]
    placed = place_all(sources, one.folder / "grids", out, f"images/{one.letter}-grids")
    return [(n, p) for n, p in zip(numbers, placed, strict=True) if not p.fault]
