"""A table as text in six formats; what users named (models, folders) is data in all of them, never markup."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from nftbench.parsing import plain
from nftbench.reporting.tables.grid import Grid, GridCell, GridLine
from nftbench.reporting.tables.terminal import show
from rewards.base import ConfigError

SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".tex": "latex",
    ".csv": "csv",
    ".html": "html",
    ".json": "json",
}
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


def format_of(name: str | None, out: Path | None) -> str:
    """The format asked for by name, else by the ending of the file, else the terminal's.

    Raises:
        ConfigError: no such format, or an ending that means another one.
    """
    known = list(SUFFIXES.values())
    if name is None and out and out.suffix and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{out}: expected an ending of {', '.join(SUFFIXES)}, got {out.suffix}")
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
        records: what CSV and JSON hold instead, a line each, all with the same keys.
    """
    if form == "csv":
        return _csv(records)
    if form == "json":
        return json.dumps(plain(list(records)), indent=2, ensure_ascii=False, default=str) + "\n"
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
        texts = [
            f"<u>{t}</u>" if c.underlined else t for c, t in zip(line.cells, texts, strict=True)
        ]
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
    """A table as a paper has it: booktabs, never wider than the text."""
    columns = "l" * grid.words + "r" * (len(grid.headings) - grid.words)
    lines = [r"% needs \usepackage{booktabs,graphicx} and \usepackage[table]{xcolor}"]
    lines += [r"\begin{table}", r"\centering\small", rf"\caption{{{_tex(grid.title)}}}"]
    lines += [rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', grid.name.lower())}}}"] * bool(grid.name)
    lines += [rf"\textbf{{{_tex(warning)}}}\par" for warning in grid.warnings]
    lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, grid.headings)) + r" \\", r"\midrule"]
    for place, line in enumerate(grid.lines):
        if line.rule and place:
            lines.append(r"\midrule")
        lines.append(" & ".join(_tex_cell(c, line) for c in line.cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\raggedright"]
    lines += [rf"{{\footnotesize {_tex(note)}\par}}" for note in grid.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _tex_cell(cell: GridCell, line: GridLine) -> str:
    text = _tex(cell.text)
    if not text:
        return ""
    if cell.bold or line.strong:
        text = rf"\textbf{{{text}}}"
    elif cell.underlined:
        text = rf"\underline{{{text}}}"
    elif line.detail:
        text = rf"\scriptsize {text}"
    return rf"\cellcolor{{black!12}}{text}" if cell.shaded else text


def _tex(text: str) -> str:
    """Text that LaTeX prints as it is: a minus before a number, two hyphens as two."""
    escaped = "".join(LATEX.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", re.sub("-(?=-)", "-{}", escaped))
