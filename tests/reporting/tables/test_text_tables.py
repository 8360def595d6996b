"""What users named is text in every format, never markup."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench.reporting.tables.grid import Grid, GridCell, GridLine
from nftbench.reporting.tables.text_tables import format_of, render
from rewards.base import ConfigError
from tests.helpers.runs.made_tables import FORMATS, Texts

NASTY = r"<script>alert(1)</script> & 100% $x$ #1 a_b {c} \d ~ ^ | *e* _f_ [g](h) `i` --limit -0.5"


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"csv"}))
def test_a_name_is_never_markup(form):
    grid = Grid(
        title=NASTY,
        headings=["", "OCR"],
        lines=[
            GridLine(cells=[GridCell(NASTY), GridCell("1", bold=True)]),
            GridLine(cells=[GridCell(NASTY), GridCell("")]),
        ],
        notes=[NASTY],
    )
    text = render(form, [grid], [])
    if form == "html":
        page = Texts()
        page.feed(text)
        assert [r[0] for r in page.rows[1:]] == [NASTY, NASTY] and page.notes == [NASTY]
        assert "script" not in page.tags
    if form == "terminal":
        assert text.count(NASTY) == 4
    if form == "markdown":
        cells = next(line for line in text.splitlines() if line.startswith(r"| &lt;script"))
        assert len(re.findall(r"(?<!\\)\|", cells)) == 3
        assert r"\*e\* \_f\_ \[g\](h) \`i\` --limit" in cells and " a_b " in cells
    if form == "latex":
        bare = re.sub(r"\\[&%$#_{}]", "", text.partition(r"\midrule")[2].partition(r"\end{tab")[0])
        assert "%" not in bare and "#" not in bare and "_" not in bare and "~" not in bare
        assert bare.count("&") == 2 and "-{}-limit $-$0.5" in bare


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1))
def test_html_shows_any_text_as_it_is(text):
    grid = Grid(title="t", headings=["a"], lines=[GridLine(cells=[GridCell(text)])], notes=[])
    page = Texts()
    page.feed(render("html", [grid], []))
    assert page.rows[1] == [text]


def test_the_ending_of_a_file_is_its_format(tmp_path):
    assert format_of(None, None) == "terminal"
    assert format_of(None, tmp_path / "a.TEX") == "latex"
    assert format_of("csv", tmp_path / "a.tex") == "csv"
    with pytest.raises(ConfigError, match=r"'docx'.*markdown"):
        format_of("docx", None)
