"""A table fits every terminal: keys and numbers are never cut."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nftbench.reporting.tables.grid import Grid, GridCell, GridLine, grid_of
from nftbench.reporting.tables.terminal import show

KEY, VALUE, WORDS = "geneval@pocket-nft:partial", "-12.345 to 23.456", "words " * 20
GRID = grid_of(
    ("reward", "interval", "n", "what it is"),
    [(KEY, VALUE, "1234567", WORDS.strip())],
    prose=("what it is",),
    spare=("n",),
)


def shown(grid: Grid, width: int) -> str:
    text = io.StringIO()
    show(Console(width=width, file=text), [grid])
    return text.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 86, 120, 200])
def test_keys_and_numbers_are_whole_at_any_width(width):
    text = shown(GRID, width)
    assert KEY in text and VALUE in text
    assert "…" not in text


def test_first_prose_wraps_then_spare_columns_go_then_the_table_is_stacked():
    wide, narrow, least = shown(GRID, 120), shown(GRID, 80), shown(GRID, 60)
    assert "1234567" in wide and max(map(len, wide.splitlines())) <= 120
    assert "1234567" not in narrow and "no room for: n" in narrow
    assert max(map(len, narrow.splitlines()[:-2])) <= 80
    assert "┃" not in least and "n           1234567" in least  # nothing is lost when stacked


@given(
    st.lists(st.lists(st.text("abc-9", max_size=30), min_size=3, max_size=3), min_size=1),
    st.integers(1, 130),
)
def test_no_cell_is_ever_cut(rows, width):
    grid = Grid(
        headings=("a", "b", "c"), lines=[GridLine(cells=[GridCell(t) for t in row]) for row in rows]
    )
    text = shown(grid, width)
    assert all(cell in text for row in rows for cell in row)


def test_a_wide_table_in_a_pipe_leaves_nothing_out():
    from nftbench.reporting.tables.text_tables import render

    assert "1234567" in render("terminal", [GRID], [])
