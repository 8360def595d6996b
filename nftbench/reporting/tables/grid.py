"""What a table is, before it is text: headings, lines, notes, and what may go where there is no room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GridCell:
    """What stands in one place."""

    text: str
    bold: bool = False
    """The best of its column."""
    underlined: bool = False
    """The second best."""
    shaded: bool = False
    """Of a model that was trained on this very column."""


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
    name: str = ""
    """What refers to it in a paper: LaTeX's label."""
    headings: Sequence[str]
    lines: Sequence[GridLine]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    """What must not be overlooked: above the table, each a line of its own that nothing wraps."""
    words: int = 1
    """How many columns, from the left, hold words; the others hold numbers."""
    prose: Sequence[str] = ()
    """Headings of columns that may be wrapped on a narrow terminal; keys and numbers never are."""
    spare: Sequence[str] = ()
    """Headings of columns that a narrow terminal leaves out, the first one first; a note says so."""


def grid_of(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 0, **more: Any
) -> Grid:
    """A table of plain texts.

    Args:
        headings: of the columns.
        rows: a text for each heading.
        words: as `Grid.words`; 0 is every column.
        **more: `title`, `prose`, `spare` and the other fields of `Grid`.
    """
    lines = [GridLine(cells=[GridCell(text) for text in row]) for row in rows]
    return Grid(headings=headings, lines=lines, words=words or len(headings), **more)
