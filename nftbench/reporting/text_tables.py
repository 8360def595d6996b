"""A table as text in five formats; what users named (models, folders) is data in all of them, never markup."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rewards.base import ConfigError

SUFFIXES = {".txt": "terminal", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}
"""Ending of a file -> its format."""
WIDTH = 240
"""Columns of a table that goes into a file or a pipe: programs read it, so nothing is cut off there at 80."""
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "°": r"$^\circ$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
}


@dataclass(frozen=True, slots=True)
class GridCell:
    """What stands in one place."""

    text: str
    bold: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GridLine:
    """One line of a table."""

    cells: Sequence[GridCell]
    strong: bool = False
    """Stands for the lines around it, such as the mean of several tasks."""
    detail: bool = False
    """Says more of the line above it, in a quieter voice."""
    rule: bool = False
    """A new part begins here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table to be shown."""

    title: str = ""
    headings: Sequence[str]
    lines: Sequence[GridLine]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    """What must not be overlooked: above the table, each a line of its own that nothing wraps."""
    words: int = 1
    """How many columns, from the left, hold words; the others hold numbers."""


def grid_of(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", words: int = 0
) -> Grid:
    """A table of plain texts.

    Args:
        headings: of the columns.
        rows: a text for each heading.
        title: stands above the table.
        words: as `Grid.words`; 0 is every column.
    """
    lines = [GridLine(cells=[GridCell(text) for text in row]) for row in rows]
    return Grid(title=title, headings=headings, lines=lines, words=words or len(headings))


def format_of(name: str | None, out: Path | None) -> str:
    """The format asked for by name, else by the ending of the file, else the terminal's.

    Raises:
        ConfigError: no such format.
    """
    known = list(SUFFIXES.values())
    if name is None:
        return SUFFIXES.get(out.suffix.lower(), "terminal") if out else "terminal"
    if name not in known:
        raise ConfigError(f"unknown format {name!r}; available: {', '.join(known)}")
    return name


def render(form: str, grids: Sequence[Grid], records: Sequence[Mapping[str, Any]]) -> str:
    """Tables as text.

    Args:
        form: as `format_of` gives it.
        grids: the tables.
        records: what CSV holds instead, a line each, all with the same keys.
    """
    if form == "csv":
        return _csv(records)
    if form == "html":
        loader = jinja2.PackageLoader("nftbench.reporting")
        page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
        return page.get_template("table.html.j2").render(grids=grids)
    if form == "terminal":
        text = io.StringIO()
        show(Console(width=WIDTH, file=text, force_terminal=False), grids)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    write = {"markdown": _markdown, "latex": _latex}[form]
    return "\n".join(map(write, grids))


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def show(console: Console, grids: Sequence[Grid]) -> None:
    """Print tables; a text above or below one is a line of its own, however long it is."""
    for grid in grids:
        above = [Text(grid.title, "italic")] if grid.title else []
        above += [Text(warning, "bold yellow") for warning in grid.warnings]
        below = [Text(note) for note in grid.notes]
        for text in above:
            console.print(text, soft_wrap=True)
        console.print(_table(grid))
        for text in [*below, Text()] if below else []:
            console.print(text, soft_wrap=True)


def _table(grid: Grid) -> Table:
    table = Table()
    for place, heading in enumerate(grid.headings):
        table.add_column(Text(heading), justify="left" if place < grid.words else "right")
    for line in grid.lines:
        if line.rule:
            table.add_section()
        style = "dim" if line.detail else "bold" if line.strong else ""
        table.add_row(*(_text(cell, style) for cell in line.cells))
    return table


def _text(cell: GridCell, style: str) -> Text:
    """A cell in the terminal; what is piped from there has no bold, so a star says it too."""
    return Text(f"{cell.text} *", "bold") if cell.bold else Text(cell.text, style)


def _markdown(grid: Grid) -> str:
    def row(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    places = range(len(grid.headings))
    above = [f"**{_plain(text)}**" for text in (grid.title, *grid.warnings) if text]
    lines = [part for text in above for part in (text, "")]
    lines.append(row([_plain(h) for h in grid.headings]))
    lines.append(row(["---" if place < grid.words else "---:" for place in places]))
    for line in grid.lines:
        texts = [_plain(c.text) for c in line.cells]
        marks = ["**" if (c.bold or line.strong) and c.text else "" for c in line.cells]
        if line.detail:
            marks = ["*" if text else "" for text in texts]
        lines.append(row([f"{m}{t}{m}" for m, t in zip(marks, texts, strict=True)]))
    notes = [line for note in grid.notes for line in ("", _plain(note))]
    return "\n".join([*lines, *notes, ""])


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is; an underscore inside a word is none of its marks."""
    text = re.sub(r"([\\`*\[\]|])|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _latex(grid: Grid) -> str:
    columns = "l" * grid.words + "r" * (len(grid.headings) - grid.words)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering\small"]
    lines.append(rf"\caption{{{_tex(grid.title)}}}")
    lines += [rf"\textbf{{{_tex(warning)}}}\par" for warning in grid.warnings]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, grid.headings)) + r" \\", r"\midrule"]
    for place, line in enumerate(grid.lines):
        if line.rule and place:
            lines.append(r"\midrule")
        lines.append(" & ".join(_tex_cell(c, line) for c in line.cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines += [rf"{{\footnotesize {_tex(note)}\par}}" for note in grid.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _tex_cell(cell: GridCell, line: GridLine) -> str:
    text = _tex(cell.text)
    if text and (cell.bold or line.strong):
        return rf"\textbf{{{text}}}"
    return rf"\scriptsize {text}" if text and line.detail else text


def _tex(text: str) -> str:
    """Text that LaTeX prints as it is: a minus before a number, two hyphens as two."""
    escaped = "".join(LATEX.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", re.sub("-(?=-)", "-{}", escaped))
