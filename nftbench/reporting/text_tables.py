"""A table as text in five formats; what users named (models, folders) is data in all of them, never markup."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rewards.base import ConfigError

SUFFIXES = {".txt": "terminal", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}
"""Ending of a file -> its format."""
WIDTH = 200
"""Columns of a terminal table that goes into a file: nothing is cut off there at 80."""
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
class Cell:
    """What stands in one place."""

    text: str
    bold: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a table."""

    cells: Sequence[Cell]
    detail: bool = False
    """Says more of the line above it, in a quieter voice."""
    rule: bool = False
    """A new part begins here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table to be shown."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Line]
    notes: Sequence[str]
    words: int = 1
    """How many columns, from the left, hold words; the others hold numbers."""


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
        console = Console(width=WIDTH, file=io.StringIO())
        console.print(terminal(grids))
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
    write = {"markdown": _markdown, "latex": _latex}[form]
    return "\n".join(map(write, grids))


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def terminal(grids: Sequence[Grid]) -> Group:
    """Tables for rich to print."""
    parts = []
    for grid in grids:
        table = Table(title=Text(grid.title), title_justify="left")
        for place, heading in enumerate(grid.headings):
            table.add_column(Text(heading), justify="left" if place < grid.words else "right")
        for line in grid.lines:
            if line.rule:
                table.add_section()
            style = "dim" if line.detail else ""
            table.add_row(*(_text(cell, style) for cell in line.cells))
        parts += [table, *map(Text, grid.notes), Text()]
    return Group(*parts)


def _text(cell: Cell, style: str) -> Text:
    """A cell in the terminal; what is piped from there has no bold, so a star says it too."""
    return Text(f"{cell.text} *", "bold") if cell.bold else Text(cell.text, style)


def _markdown(grid: Grid) -> str:
    def row(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    places = range(len(grid.headings))
    lines = [f"**{_plain(grid.title)}**", "", row([_plain(h) for h in grid.headings])]
    lines.append(row(["---" if place < grid.words else "---:" for place in places]))
    for line in grid.lines:
        texts = [_plain(c.text) for c in line.cells]
        marks = ["**" if c.bold and c.text else "" for c in line.cells]
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
    lines += [rf"\caption{{{_tex(grid.title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, grid.headings)) + r" \\", r"\midrule"]
    for place, line in enumerate(grid.lines):
        if line.rule and place:
            lines.append(r"\midrule")
        size = r"\scriptsize " if line.detail else ""
        lines.append(" & ".join(_tex_cell(c, size) for c in line.cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines += [rf"{{\footnotesize {_tex(note)}\par}}" for note in grid.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _tex_cell(cell: Cell, size: str) -> str:
    text = _tex(cell.text)
    if not text:
        return ""
    return rf"\textbf{{{text}}}" if cell.bold else f"{size}{text}"


def _tex(text: str) -> str:
    """Text that LaTeX prints as it is: a minus before a number, two hyphens as two."""
    escaped = "".join(LATEX.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", re.sub("-(?=-)", "-{}", escaped))
