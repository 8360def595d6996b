"""A paper's table as it is shown: a line of numbers, below it how they stand to the paper's; the rest in notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nftbench.benchmark.suites import Column
from nftbench.reporting.paper.protocol import OPEN
from nftbench.reporting.paper.table import PaperCell, PaperLine, PaperTable
from nftbench.reporting.results import Result
from nftbench.reporting.tables.grid import Grid, GridCell, GridLine
from nftbench.runs.row_files import stated
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from nftbench.stats.intervals import half_width

HELD_OUT = " °"


class _Notes:
    """What is said below the table; a text that is needed twice has one letter."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """The letters that stand for a text."""
        if text not in self.texts:
            self.texts.append(text)
        return f"({_letters(self.texts.index(text))})"

    @property
    def lines(self) -> list[str]:
        """All texts, each behind its letters."""
        return [f"({_letters(i)}) {text}" for i, text in enumerate(self.texts)]


def _letters(place: int) -> str:
    """a, b, ... z, aa, ab ..."""
    before = _letters(place // 26 - 1) if place >= 26 else ""
    return before + chr(ord("a") + place % 26)


def grid(table: PaperTable) -> Grid:
    """The table as lines and notes."""
    notes, lines, group = _Notes(), [], None
    for line, name in zip(table.lines, _names(table), strict=True):
        first, *more = (
            _ours(table, line, name, notes) if line.cells else [_paper(table, line, notes)]
        )
        place = table.suite.line(line.label).group
        parted = place != group if table.suite.lines else bool(lines and lines[-1].detail)
        lines += [replace(first, rule=bool(lines) and parted), *more]
        group = place
    headings = [
        *_effort_headings(table),
        *(c.name + HELD_OUT * c.held_out for c in table.suite.columns),
    ]
    return Grid(
        title=table.suite.title,
        name=table.suite.name,
        headings=["", *headings],
        lines=lines,
        notes=[*notes.lines, *_legend(table), *_provenance(table)],
        spare=[*reversed(_effort_headings(table))],
    )


def _effort_headings(table: PaperTable) -> list[str]:
    """Columns of a published table that tell what a line cost and how large it was drawn."""
    return ["#Iter", "res."] if table.suite.published else []


def _effort(table: PaperTable, line: PaperLine) -> list[GridCell]:
    """Iterations of training and the resolution: of a published line as it is told, of ours as it was drawn."""
    if not table.suite.published:
        return []
    said = [stated(entry.row.settings) for entry in line.published.values()]
    iterations = next((s["iterations"] for s in said if "iterations" in s), "")
    sizes = {_size(s.get("height"), s.get("width")) for s in said}
    if line.result:
        drawn = Run(line.result.runs[0]).protocols().values()
        sizes = {_size(p.height, p.width) for p in drawn}
    known = sorted(size for size in sizes if size)
    return [GridCell(str(iterations)), GridCell(", ".join(known))]


def _size(height: Any, width: Any) -> str:
    """`512` of a square, `512x768` of height and width; empty where it is open."""
    if {height, width} & {None, OPEN}:
        return ""
    return str(height) if str(height) == str(width) else f"{height}x{width}"


def _look(table: PaperTable, line: PaperLine, column: Column, number: float) -> dict[str, bool]:
    """How the paper sets off a cell: the best bold, the second underlined, in-domain ones shaded."""
    return {
        "bold": number == table.best[column],
        "underlined": number == table.second[column],
        "shaded": column.name in table.suite.line(line.label).trained_on,
    }


def _paper(table: PaperTable, line: PaperLine, notes: _Notes) -> GridLine:
    """A published line."""
    cells = [_printed(table, line, column, notes) for column in table.suite.columns]
    shown = table.suite.line(line.label).shown or line.label
    return GridLine(cells=[GridCell(shown), *_effort(table, line), *cells])


def _names(table: PaperTable) -> list[str]:
    """Each line's name: the label, of ours with what tells it from the published line and from other runs."""
    ours = [line.label for line in table.lines if line.cells]
    names = []
    for line in table.lines:
        further = []
        if line.cells and table.suite.published:
            further.append("ours")
        if line.result and not line.called and ours.count(line.label) > 1:
            further.append(line.result.folder.name)
        shown = line.called or table.suite.line(line.label).shown or line.label
        names.append(shown + (f" ({', '.join(further)})" if further else ""))
    return names


def _printed(table: PaperTable, line: PaperLine, column: Column, notes: _Notes) -> GridCell:
    entry = line.published.get(column)
    if entry is None:
        return GridCell("")
    said = {
        "B": "confidence B: in one full text alone",
        "C": "confidence C: in secondary sources alone",
    }
    doubt = said.get(entry.row.confidence)
    text = f"{entry.value} {notes.mark(doubt)}" if doubt else entry.value
    return GridCell(text, **_look(table, line, column, entry.row.value))


def _ours(table: PaperTable, line: PaperLine, name: str, notes: _Notes) -> list[GridLine]:
    """A run's numbers and, where there is anything to say of them, a second line that says it."""
    effort = _effort(table, line)
    beside = "  less the published" if table.suite.published else ""
    numbers = [GridCell(name), *effort]
    words = [GridCell(beside), *(GridCell("") for _ in effort)]
    for cell in line.cells:
        if cell.row is None:
            numbers.append(GridCell(f"missing {notes.mark(f'fill with: {cell.command}')}"))
        else:
            look = {} if cell.faults else _look(table, line, cell.column, cell.row.value)
            numbers.append(GridCell(value(cell), **look))
        words.append(GridCell(_words(cell, notes)))
    return [GridLine(cells=numbers)] + [GridLine(cells=words, detail=True)] * any(
        c.text for c in words[1:]
    )


def value(cell: PaperCell) -> str:
    """A number of ours with the half-width of its 95% interval."""
    row, digits = cell.row, cell.column.digits
    assert row is not None, "a missing cell has no value"
    half = f"{half_width(row.low, row.high):.{digits}f}" if math.isfinite(row.stderr) else "?"
    return f"{row.value:.{digits}f} ± {half}"


def _words(cell: PaperCell, notes: _Notes) -> str:
    """Difference and verdict, the latter short: what differs is told in a note."""
    if cell.row is None:
        return ""
    apart = cell.difference
    shown = f"{apart:+.{cell.column.digits}f} " if math.isfinite(apart) else ""
    short = f"protocol differs {notes.mark(cell.verdict)}" if cell.faults else cell.verdict
    return f"{shown}{short}".strip()


def _legend(table: PaperTable) -> list[str]:
    ours = [cell for line in table.lines for cell in line.cells]
    held = [cell for cell in ours if cell.row and cell.published]
    found = [
        "±: half-width of the 95% interval, clustered by prompt. Bold or *: the best number of a column; "
        "underlined: the second."
    ]
    if any(line.trained_on for line in table.suite.lines):
        found.append("Grey: in-domain, the model was trained on this reward.")
    if any(column.held_out for column in table.suite.columns):
        found.append("°: held out, none of the paper's models was trained on it.")
    if held:
        found.append(
            "agrees: the published number, give or take its rounding, lies in our interval."
        )
    if any(cell.faults for cell in ours):
        found.append(
            "protocol differs: the field, then ours and theirs; not compared further, never bold."
        )
    left = sorted({name for cell in held for name in cell.open})
    if left:
        found.append(f"Left open by the paper, so not held against ours: {', '.join(left)}.")
    sources = dict.fromkeys(e.row.citation for line in table.lines for e in line.published.values())
    if sources:
        found.append(f"Published: {'; '.join(sources)}.")
    return found


def _provenance(table: PaperTable) -> list[str]:
    """Where each line of ours comes from, and how many images stand behind it."""
    found = []
    for line, name in zip(table.lines, _names(table), strict=True):
        if line.result:
            rows = [cell.row for cell in line.cells if cell.row]
            protocols = dict.fromkeys(f"{r.benchmark} {r.protocol} (n = {r.n})" for r in rows)
            failed = sum(r.n_failed or 0 for r in rows)
            found.append(
                f"{name}: {line.result.folder}, {_checkpoint(line.result)}; "
                f"protocols {', '.join(protocols) or 'none'}; {failed} scores failed."
            )
            found += line.result.notes
        found += [f"{name}: {line.note}"] * bool(line.note)
    return found


def _named(made: Mapping[str, Any]) -> str:
    return f"{made['name']} {made['digest']}"


def _checkpoint(result: Result) -> str:
    made = [Run(folder).manifest["checkpoint"] for folder in result.runs]
    plural = "s" * (len(made) > 1)
    return f"checkpoint{plural} {', '.join(_named(one) for one in made)}"


def records(table: PaperTable) -> list[dict[str, Any]]:
    """One record a cell, for CSV and JSON; what is unknown is None."""
    found = []
    for line in table.lines:
        for column in (c for c in table.suite.columns if c in line.published):
            entry = line.published[column]
            found.append(_record(line, column, row=entry.row, number=entry.value))
        for cell in line.cells:
            found.append(_record(line, cell.column, row=cell.row, cell=cell))
    return found


def _record(
    line: PaperLine,
    column: Column,
    row: Row | None,
    number: str = "",
    cell: PaperCell | None = None,
) -> dict[str, Any]:
    fields = (
        "value",
        "stderr",
        "low",
        "high",
        "n",
        "n_failed",
        "protocol",
        "confidence",
        "citation",
    )
    known = {f: getattr(row, f) if row else None for f in fields}
    known = {f: None if v != v else v for f, v in known.items()}
    published = cell.published if cell else None
    apart = cell.difference if cell else math.nan
    return {
        "label": line.label,
        "source": "measured" if cell else "published",
        "called": line.called,
        "run": str(line.result.folder) if line.result else "",
        "seeds": " ".join(map(str, line.result.seeds)) if line.result else "",
        "column": column.name,
        "benchmark": column.benchmark,
        "metric": column.metric,
        "variant": row.variant if row else column.variant,
        "aggregate": row.aggregate if row else column.aggregate,
        **known,
        **({"value": number} if number else {}),
        "held_out": column.held_out,
        "published": published.value if published else "",
        "difference": None if math.isnan(apart) else apart,
        "verdict": cell.verdict if cell else "",
        "open": " ".join(cell.open) if cell and published else "",
        "command": cell.command if cell else "",
    }


def as_table(table: PaperTable) -> tuple[Sequence[Grid], list[dict[str, Any]]]:
    """What `grid.render` takes."""
    return [grid(table)], records(table)
