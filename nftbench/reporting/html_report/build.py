"""The report: run folders in, one folder of HTML out that needs neither a server nor a network.

    OUT/index.html, *.css, *.js             the page; words and tables stand in it
    OUT/data/N.js                           the samples of one benchmark, for the gallery
    OUT/images/                             images_of and thumbnails, numbered

It is made beside its place and renamed into it, so a report that was stopped leaves the old one as it was.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

import nftbench
from nftbench.reporting.html_report import charts as report_charts
from nftbench.reporting.html_report import curves as report_curves
from nftbench.reporting.html_report import data as report_data
from nftbench.reporting.html_report import trainings as report_trainings
from nftbench.reporting.html_report.data import SAME, Evaluated, EvaluationFolder, column_of
from nftbench.reporting.html_report.images import ReportImage, place_all
from nftbench.reporting.html_report.trainings import Trained, grid_folder
from nftbench.reporting.naming import aggregate_name, number
from nftbench.reporting.results import pair_seeds, split_label
from nftbench.reporting.seed_rows import other_rewards, scored_by
from nftbench.runs.io import followed, whole_folder, write_atomic
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import folder_name
from nftbench.stats.estimates import Estimate
from nftbench.stats.intervals import half_width
from rewards.base import ConfigError, Progress

PAGE = "index.html"
ASSETS = ("report.css", "report.js", "gallery.js", "downloads.js")
MARK = '<meta name="generator" content="nftbench report">'
"""By this a folder is known to be a report, which may be replaced."""


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
    runs: Sequence[str | Path], out: Path | None, progress: Progress, *, live: bool = False
) -> WrittenReport:
    """Write the report of one run or of several beside one another.

    Args:
        runs: evaluations and trainings, and parents of several seeds': `RUN` or `RUN=LABEL`.
        out: where to; None is `report` in the first folder.
        progress: told of what is done.
        live: the page is served, and looks for a newer one.

    Raises:
        ConfigError: a folder that is no finished run, or an `out` that holds something else.
    """
    evaluated, trained = report_data.read_runs(runs)
    out = (followed(out) if out else split_label(runs[0])[0] / "report").absolute()
    _refuse(out)
    with whole_folder(out, aside=".{name}.nftbench-old", durable=False) as new:
        written = _write(new, evaluated, trained, progress, live=live)
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
    progress: Progress,
    *,
    live: bool,
) -> WrittenReport:
    benches = []
    for place, name in enumerate(report_data.names(evaluated)):
        data, images_of = _gallery(evaluated, name, out, progress)
        write_atomic(out / "data" / f"{place}.js", script(data))
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
            training=report_curves.groups(trained),
            changes={one.letter: report_trainings.changes(one) for one in trained},
            prompts_shown={one.letter: report_trainings.prompts_shown(one) for one in trained},
            notes=[
                *_pairings(evaluated),
                *(n for one in (*evaluated, *trained) for n in one.result.notes),
            ],
            grids=[
                (one, seed, found)
                for one, listed in zip(trained, grids, strict=True)
                for seed, found in listed
            ],
        )
    )
    write_atomic(out / PAGE, page.encode())
    for name in ASSETS:
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
        "number": number,
        "signed": lambda v: f"{v:+.3f}",
        "aggregate": aggregate_name,
        "half": lambda row: number(half_width(row.low, row.high)),
    }
    environment.tests["known"] = lambda e: math.isfinite(e.stderr)
    environment.tests["sure"] = lambda e: e.low > 0 or e.high < 0
    return environment


def _title(evaluated: Sequence[Evaluated], trained: Sequence[Trained]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in (*evaluated, *trained)))


def _pairings(runs: Sequence[Evaluated]) -> list[str]:
    """How the seeds of runs are compared with those of the first."""
    said = [(one, pair_seeds(runs[0].result, one.result).said) for one in runs[1:]]
    return [f"{runs[0].name} and {one.name}: {words}" for one, words in said if words]


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
    """The protocol fields in which runs differ: `guidance_scale (A 1.0, B 4.5)`; and rewards that are others in one."""
    fields = [one.protocols[name].model_dump(mode="json") for one in runs]
    differing = [
        f"{field} ({', '.join(f'{o.letter} {f[field]}' for o, f in zip(runs, fields, strict=True))})"
        for field in fields[0]
        if any(f[field] != fields[0][field] for f in fields)
    ]
    mine, *others = [scored_by(one.parts[0].run, name) for one in runs]
    for one, theirs in zip(runs[1:], others, strict=True):
        differing += [f"in {one.letter} {fault}" for fault in other_rewards(mine, theirs)]
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
    runs: Sequence[Evaluated], name: str, out: Path, progress: Progress
) -> tuple[dict[str, Any], dict[str, list[ReportImage]]]:
    """One benchmark's samples for the page's script, and where their images_of went."""
    samples = report_data.sample_keys(runs, name)
    prompts = samples[["prompt_id", "prompt", "tag"]].drop_duplicates(ignore_index=True)
    prompts["number"] = range(len(prompts))
    numbered = samples.merge(prompts, on=["prompt_id", "prompt", "tag"], how="left")
    images_of, sides = {}, []
    for one in report_data.holding(runs, name):
        for part in one.parts:
            placed = _place(one, part, name, out, progress)
            images_of[f"{one.letter}{part.seed}"] = placed
            sides.append(_side(one, part, name, samples, placed))
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


def _place(
    one: Evaluated, part: EvaluationFolder, name: str, out: Path, progress: Progress
) -> list[ReportImage]:
    sources = [str(source) for source in part.tables[name]["image"]]
    under = f"images/{one.letter}{folder_name(part.seed)}-{list(one.tables).index(name)}"
    placed = []
    digests = [str(digest) for digest in part.tables[name]["sha256"]]
    for image in place_all(sources, part.run.folder / name, out, under, digests):
        placed.append(image)
        progress(f"{one.letter} {part.seed} {name}: images", len(placed), len(sources))
    return placed


def _side(
    one: Evaluated,
    part: EvaluationFolder,
    name: str,
    samples: pd.DataFrame,
    images_of: Sequence[ReportImage],
) -> dict[str, Any]:
    """One seed's part of the samples; None where it has no such image."""
    table = part.tables[name]
    places = samples.merge(table[SAME].assign(place=range(len(table))), on=SAME, how="left")[
        "place"
    ]
    rows = [None if math.isnan(place) else int(place) for place in places]
    details = {
        key: [words(row) if row is not None else {} for row in rows]
        for key, words in report_data.rewards_of(one, part, name)
    }
    shown = [images_of[row] if row is not None else None for row in rows]
    return {
        "letter": one.letter,
        "name": f"{one.name}, {part.seed}" if part.seed else one.name,
        "file": [p and p.file for p in shown],
        "thumbnail": [p and p.thumbnail for p in shown],
        "size": [p and [p.width, p.height] for p in shown],
        "fault": [p and p.fault for p in shown],
        "values": {c: _values(table[c], rows) for c in one.metrics(name) if c in table},
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


def _grids(one: Trained, out: Path) -> list[tuple[str, list[tuple[int, ReportImage]]]]:
    """The same prompts over time: of each seed its name, iterations and pictures."""
    found = []
    for part, listed in one.grids:
        sources = [path.name for _, path in listed]
        under = f"images/{one.letter}-grids{grid_folder(part)}"
        placed = place_all(sources, part.folder / "grids", out, under)
        shown = [(n, p) for (n, _), p in zip(listed, placed, strict=True) if not p.fault]
        if shown:
            found.append((part.seed, shown))
    return found
