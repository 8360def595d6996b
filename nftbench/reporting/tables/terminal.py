"""Tables in a terminal of any width. Keys and numbers are never cut: columns go, or the table is stacked."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nftbench.reporting.tables.grid import Grid, GridCell, GridLine

PROSE = 24
"""Least width that a wrapped column keeps."""


def show(console: Console, grids: Sequence[Grid]) -> None:
    """Print tables; a text above or below one is a line of its own, however long it is.

    A table that is wider than the console first wraps its `prose`, then leaves out its `spare` columns one by one, and
    is at last stacked: a heading and a text a line.
    """
    for grid in grids:
        above = [Text(grid.title, "italic")] if grid.title else []
        above += [Text(warning, "bold yellow") for warning in grid.warnings]
        for text in above:
            console.print(text, soft_wrap=True)
        kept = _kept(grid, console.width)
        if kept is None:
            console.print(_stacked(grid), soft_wrap=True)
        else:
            console.print(_table(grid, kept))
        below = [Text(note) for note in (*grid.notes, *_left_out(grid, kept)) if note]
        for text in [*below, Text()] if below else []:
            console.print(text, soft_wrap=True)


def _kept(grid: Grid, width: int) -> list[int] | None:
    """Places of the columns that there is room for; None where even the least are too wide."""
    columns = list(range(len(grid.headings)))
    spare = [grid.headings.index(heading) for heading in grid.spare if heading in grid.headings]
    while sum(_least(grid, column) + 3 for column in columns) + 1 > width:
        if not spare:
            return None
        columns.remove(spare.pop(0))
    return columns


def _least(grid: Grid, column: int) -> int:
    """Fewest characters that a column can be shown in."""
    texts = [grid.headings[column], *(_shown(line.cells[column]) for line in grid.lines)]
    natural = max(map(cell_len, texts))
    return min(natural, PROSE) if grid.headings[column] in grid.prose else natural


def _left_out(grid: Grid, kept: list[int] | None) -> list[str]:
    if kept is None or len(kept) == len(grid.headings):
        return []
    gone = [heading for place, heading in enumerate(grid.headings) if place not in kept]
    return [f"no room for: {', '.join(gone)}; a wider terminal or a pipe shows all columns"]


def _table(grid: Grid, kept: Sequence[int]) -> Table:
    table = Table()
    for place in kept:
        heading = grid.headings[place]
        table.add_column(
            Text(heading),
            justify="left" if place < grid.words else "right",
            no_wrap=heading not in grid.prose,
            overflow="fold",
        )
    for line in grid.lines:
        if line.rule:
            table.add_section()
        table.add_row(*(_text(line.cells[place], line) for place in kept))
    return table


def _stacked(grid: Grid) -> RenderableType:
    """A block a line: its first cell, and below it every other one behind its heading."""
    text = Text()
    wide = max(cell_len(heading) for heading in grid.headings)
    for line in grid.lines:
        text.append_text(_text(line.cells[0], line)).append("\n")
        for heading, cell in zip(grid.headings[1:], line.cells[1:], strict=True):
            if cell.text:
                text.append(f"  {heading:<{wide}}  ").append_text(_text(cell, line)).append("\n")
    return text


def _text(cell: GridCell, line: GridLine) -> Text:
    if cell.bold or line.strong:
        return Text(_shown(cell), "bold")
    quiet = "dim " * (line.detail or cell.shaded)
    return Text(_shown(cell), f"{quiet}{'underline' * cell.underlined}".strip())


def _shown(cell: GridCell) -> str:
    """A cell's text; what is piped from the terminal has no bold, so a star says it too."""
    return f"{cell.text} *" if cell.bold else cell.text
