"""A paper's table: cells inside, outside and under another protocol, in every format; what is missing."""

import csv
import io
import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nftbench.benchmark.registry import load_benchmark, load_suite
from nftbench.benchmark.schema import SamplingSettings
from nftbench.benchmark.suites import Column, Suite, SuiteRow
from nftbench.cli import main as cli
from nftbench.reporting.leaderboard.site import number
from nftbench.reporting.paper import render as paper_render
from nftbench.reporting.paper.render import as_table
from nftbench.reporting.paper.table import PaperCell, paper_table, rounding
from nftbench.reporting.tables.text_tables import render
from nftbench.runs.row_files import Entry, read_rows
from nftbench.runs.seeds import write_parent
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs import made_runs
from tests.helpers.runs.made_tables import (
    BASE,
    COLUMN,
    FORMATS,
    LABEL,
    NFT,
    SHOWN,
    SUITE,
    made,
    printed,
    read,
    row,
)


@pytest.fixture
def table1() -> Suite:
    return load_suite("table1")


@pytest.fixture
def placed(tmp_path, table1) -> str:
    """The NFT row measured again: GenEval inside, OCR outside, DrawBench at 20 steps, UniRwd not scored."""
    numbers = {
        "GenEval": (0.93, 0.012),
        "OCR": (0.8, 0.02),
        "PickScore": (23.8, 0.1),
        "ClipScore": (0.29, 0.01),
    }
    drawn = {"drawbench": {"num_inference_steps": 20}}
    return str(made(tmp_path / "my_run", table1, numbers, drawn=drawn).folder)


def ours(suite: Suite, *runs: str) -> dict[str, PaperCell]:
    """Cells of the last run, by column."""
    lines = [line for line in paper_table(suite, runs).lines if line.result]
    return {cell.column.name: cell for cell in lines[-1].cells}


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "value", "half", "verdict"),
    [
        ("0.94", 0.93, 0.01, "agrees"),
        ("0.94", 0.925, 0.01, "agrees"),  # 0.935 touches what 0.94 may have been rounded from
        ("0.94", 0.924, 0.01, "differs"),
        ("0.940", 0.925, 0.01, "differs"),  # a digit more
        ("0.94", 0.956, 0.01, "differs"),
        ("0.94", 0.955, 0.01, "agrees"),
        ("-0.58", -0.6, 0.0, "differs"),
        ("-0.58", -0.6, 0.02, "agrees"),
        ("0.94", 0.94, math.nan, "error unknown"),
    ],
)
def test_inside_or_outside(published, value, half, verdict):
    cell = PaperCell(column=COLUMN, row=row(COLUMN, value, half), published=printed(published))
    assert cell.verdict == verdict
    assert cell.difference == pytest.approx(value - float(published), abs=1e-12)


@given(st.integers(-500, 500), st.integers(-500, 500), st.integers(0, 50), st.integers(0, 3))
def test_agreement_is_two_intervals_that_meet(published, value, half, digits):
    """In thousandths and in fractions: |ours - theirs| at most our half-width and half a last digit."""
    written = f"{published / 1000:.{digits}f}"
    cell = PaperCell(
        column=COLUMN, row=row(COLUMN, value / 1000, half / 1000), published=printed(written)
    )
    apart = abs(Fraction(value, 1000) - Fraction(written))
    meet = apart <= Fraction(half, 1000) + Fraction(1, 2 * 10**digits)
    assert cell.verdict == ("agrees" if meet else "differs")


@pytest.mark.parametrize(
    ("written", "half"),
    [
        ("0.94", 0.005),
        ("22.42", 0.005),
        ("-0.58", 0.005),
        ("0.287", 0.0005),
        ("5", 0.5),
        ("1.0", 0.05),
        ("3e-2", 0.005),
        ("1.5E1", 0.5),
    ],
)
def test_rounding_is_half_the_last_digit(written, half):
    assert rounding(written) == pytest.approx(half, rel=1e-12)


def test_no_published_number_is_no_verdict():
    cell = PaperCell(column=COLUMN, row=row(COLUMN, 0.5), published=None)
    assert cell.verdict == "" and math.isnan(cell.difference)


# --- table1, as it ships --------------------------------------------------------------------------


def test_table1_holds_the_papers_numbers(table1):
    """Nine rows of eight, some of them by hand."""
    lines = {line.label: line.published for line in paper_table(table1, []).lines}
    by_name = {column.name: column for column in table1.columns}
    assert len(lines) == 9 and all(len(cells) == 8 for cells in lines.values())
    for label, name, value in [
        (LABEL, "GenEval", "0.94"),
        (LABEL, "UniRwd", "3.49"),
        ("SD3.5-M w/o CFG", "ImgRwd", "-0.58"),
        ("SD-XL", "PickScore", "22.42"),
    ]:
        assert lines[label][by_name[name]].value == value


def test_table1_inside_outside_and_under_another_protocol(placed, table1):
    cells = ours(table1, placed)
    steps = "protocol differs: num_inference_steps (20, 40)"
    assert {name: cell.verdict for name, cell in cells.items()} == {
        "GenEval": "agrees",
        "OCR": "differs",
        "PickScore": steps,
        "ClipScore": steps,
        **dict.fromkeys(("HPSv2.1", "Aesthetic", "ImgRwd", "UniRwd"), "missing"),
    }
    assert cells["GenEval"].difference == pytest.approx(0.93 - 0.94)
    assert "max_sequence_length" in cells["GenEval"].open
    assert cells["UniRwd"].command == f"nftbench eval {NFT} --suite table1"


def test_the_line_is_the_one_whose_guidance_is_ours(tmp_path, table1):
    """SD3.5-M stands twice in the table, without guidance and with it."""
    cells = {"GenEval": (0.24, 0.01)}
    without = made(tmp_path / "a", table1, cells, name=BASE)
    settings = {name: {"guidance_scale": 4.5} for name in table1.benchmarks}
    guided = made(tmp_path / "b", table1, cells, name=BASE, drawn=settings)
    lines = paper_table(table1, [str(without.folder), str(guided.folder)]).lines
    found = {line.result.folder.name: line for line in lines if line.result}
    assert found["a"].label == "SD3.5-M w/o CFG" and found["b"].label == "SD3.5-M + CFG"
    assert found["a"].cells[0].verdict == "agrees" and found["b"].cells[0].verdict == "differs"
    places = [line.label for line in lines]
    assert places.index("SD3.5-M + CFG") + 1 == lines.index(found["b"])
    assert (
        found["b"]
        .cells[1]
        .command.endswith("nftbench score " + str(tmp_path / "b") + " --rewards ocr@pp2.9")
    )


def test_neither_line_is_chosen_by_chance(tmp_path, table1):
    settings = {name: {"guidance_scale": 3.0} for name in table1.benchmarks}
    run = made(tmp_path / "a", table1, {"GenEval": (0.5, 0.01)}, name=BASE, drawn=settings)
    (line,) = [line for line in paper_table(table1, [str(run.folder)]).lines if line.result]
    assert line.label == BASE and "'SD3.5-M w/o CFG'" in line.note and "=LABEL" in line.note
    assert line.cells[0].verdict == "" and line.cells[0].published is None


def test_a_label_says_which_line_is_meant(placed, table1):
    cells = ours(table1, f"{placed}=SD3.5-M + CFG")
    assert cells["GenEval"].verdict == "protocol differs: guidance_scale (1.0, 4.5)"
    assert cells["GenEval"].difference == pytest.approx(0.93 - 0.63)


def test_an_unknown_checkpoint_stands_alone(tmp_path, table1):
    run = made(tmp_path / "a", table1, {"OCR": (0.5, 0.01)}, name="mine/own")
    cells = ours(table1, str(run.folder))
    assert cells["OCR"].verdict == "" and math.isnan(cells["OCR"].difference)
    assert paper_table(table1, [str(run.folder)]).lines[-1].label == "mine/own"


def test_of_two_protocols_in_a_run_the_wanted_one_is_taken(tmp_path, table1):
    run = made(tmp_path / "a", table1, {"OCR": (0.905, 0.01)})
    other = load_benchmark("ocr").protocol(**table1.settings.given | {"guidance_scale": 4.5})
    manifest = run.manifest
    manifest["protocols"] = {"ocr+cfg": other.model_dump(mode="json")} | manifest["protocols"]
    run.save_manifest(manifest)
    (mine,) = [entry.row for _, entry in read_rows(run.folder / "rows.csv")]
    run.save_rows([row(table1.columns[1], 0.1, protocol=other.hash, model=mine.model), mine])
    cell = ours(table1, str(run.folder))["OCR"]
    assert cell.row.value == 0.905 and cell.verdict == "agrees"


def test_the_better_number_of_comparable_cells_is_best(tmp_path, placed, table1):
    table = paper_table(table1, [placed])
    best = {column.name: value for column, value in table.best.items()}
    assert best["GenEval"] == 0.95 and best["ImgRwd"] == 1.49
    better = made(tmp_path / "b", table1, {"GenEval": (0.97, 0.01)})
    drawn = {"geneval-nft": {"num_inference_steps": 20}}
    unlike = made(tmp_path / "c", table1, {"GenEval": (0.99, 0.01)}, drawn=drawn)
    table = paper_table(table1, [str(better.folder), str(unlike.folder)])
    assert table.best[table1.columns[0]] == 0.97


def test_what_stands_behind_a_number_is_half_of_its_interval_as_on_the_leaderboard():
    mine = row(COLUMN, 0.858).model_copy(update={"low": 0.794, "high": 0.896})
    assert paper_render.value(PaperCell(column=COLUMN, row=mine, published=None)) == "0.86 ± 0.05"
    assert number(Entry(row=mine, cells=())) == "0.858 ± 0.051"


# --- every format ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"csv", "json"}))
def test_every_format_tells_the_same(placed, table1, form):
    rows, notes = read(form, render(form, *as_table(paper_table(table1, [placed]))))
    assert all(len(cells) == 11 for cells in rows)
    place = next(i for i, cells in enumerate(rows) if cells[0] == f"{SHOWN} (ours)")
    assert rows[place][1:6] == ["", "512", "0.93 ± 0.01", "0.80 ± 0.02", "23.80 ± 0.10"]
    assert rows[place + 1][3:5] == ["-0.01 agrees", "-0.11 differs"]
    assert rows[place - 1][:6] == [SHOWN, "1.7k", "512", "0.94", "0.91", "23.80"]
    letter = re.fullmatch(r"\+0.00 protocol differs \((\w)\)", rows[place + 1][5])[1]
    assert f"({letter}) protocol differs: num_inference_steps (20, 40)" in notes
    letter = re.fullmatch(r"missing \((\w)\)", rows[place][10])[1]
    assert f"({letter}) fill with: nftbench eval {NFT} --suite table1" in notes
    assert "max_sequence_length" in notes and "arXiv:2509.16117 Table 1" in notes


def test_what_is_not_comparable_is_never_bold(placed, table1):
    """Ours under another protocol equals the best published PickScore."""
    text = render("markdown", *as_table(paper_table(table1, [placed])))
    assert "| **23.80** |" in text and "| 23.80 ± 0.10 |" in text


def test_the_papers_own_order_and_marks(table1):
    """Groups, second best and in-domain cells, as Table 1 sets them."""
    grid = as_table(paper_table(table1, []))[0][0]
    names = [line.cells[0].text for line in grid.lines]
    assert names[:4] == ["SD-XL", "SD3.5-L", "FLUX.1-dev", "SD3.5-M w/o CFG"]
    assert [n for n, line in zip(names, grid.lines, strict=True) if line.rule] == names[3:4]
    ours = dict(zip(grid.headings, grid.lines[names.index(SHOWN)].cells, strict=True))
    assert [h for h, c in ours.items() if c.shaded] == [
        *("GenEval", "OCR", "PickScore", "ClipScore", "HPSv2.1")
    ]
    assert ours["GenEval"].underlined and not ours["GenEval"].bold  # 0.94 behind 0.95
    assert ours["PickScore"].bold


def test_csv_holds_a_line_a_cell(placed, table1):
    text = render("csv", *as_table(paper_table(table1, [placed])))
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 9 * 8 + 8
    mine = {r["column"]: r for r in found if r["source"] == "measured"}
    assert mine["GenEval"]["verdict"] == "agrees" and mine["OCR"]["verdict"] == "differs"
    assert mine["PickScore"]["verdict"] == "protocol differs: num_inference_steps (20, 40)"
    assert mine["UniRwd"]["value"] == "" and mine["UniRwd"]["command"].startswith("nftbench eval")
    assert float(mine["OCR"]["difference"]) == pytest.approx(0.8 - 0.91)
    assert [r["value"] for r in found if r["label"] == "SD-XL"][2] == "22.42"


# --- pocket-table1: rows that commands make -------------------------------------------------------


def test_rows_by_label_in_the_suites_order(tmp_path):
    suite = load_suite("pocket-table1")
    cells = {c.name: (0.5, 0.1) for c in suite.columns}
    guided = {name: {"guidance_scale": 4.5} for name in suite.benchmarks}
    nft = made(tmp_path / "n", suite, cells, name="pocket-nft")
    cfg = made(tmp_path / "g", suite, cells, name="pocket", drawn=guided)
    table = paper_table(suite, [str(nft.folder), str(cfg.folder)])
    assert [line.label for line in table.lines] == [r.label for r in suite.rows]
    found = {line.label: line for line in table.lines}
    assert found["+ CFG"].result.folder == cfg.folder
    assert {c.verdict for c in found["+ CFG"].cells} == {""}
    assert {c.verdict for c in found["+ NFT (GenEval)"].cells} == {""}
    missing = found["pocket w/o CFG"].cells
    assert {c.command for c in missing} == {"nftbench eval pocket --suite pocket-table1"}
    ocr = next(r for r in suite.rows if r.checkpoint == "pocket-flowgrpo-ocr").label
    assert found[ocr].cells[0].command == "nftbench eval pocket-flowgrpo-ocr --suite pocket-table1"


def test_the_command_names_the_settings_of_a_row():
    suite = SUITE.model_copy(
        update={
            "published": "",
            "rows": (
                SuiteRow(label="a", checkpoint="my model"),
                SuiteRow(label="b", checkpoint="m", settings=SamplingSettings(guidance_scale=4.5)),
                SuiteRow(label="c", checkpoint="m", settings=SamplingSettings(guidance_scale=1)),
            ),
        }
    )
    commands = [line.cells[0].command for line in paper_table(suite, []).lines]
    assert commands == [
        "nftbench eval 'my model' --suite mine",
        "nftbench eval m --suite mine --guidance-scale 4.5",
        "nftbench eval m --suite mine",
    ]


# --- bad input, and the command -------------------------------------------------------------------


def test_a_label_of_ones_own_names_the_row(placed, table1):
    """It is shown in every format, escaped, and the run is still held against the line it is drawn like."""
    table = paper_table(table1, [f"{placed}=Mine & <b>yours</b>"])
    (line,) = [line for line in table.lines if line.result]
    assert (line.label, line.called) == (LABEL, "Mine & <b>yours</b>")
    texts = {form: render(form, *as_table(table)) for form in FORMATS}
    assert "Mine &amp; &lt;b&gt;yours&lt;/b&gt; (ours)" in texts["html"]
    assert r"Mine \& " in texts["latex"] and "<b>yours" not in texts["html"]
    cells = csv.DictReader(io.StringIO(texts["csv"]))
    assert {cell["called"] for cell in cells} == {"", "Mine & <b>yours</b>"}


def test_seeds_in_a_papers_table(tmp_path, monkeypatch):
    """The mean of three runs in a line, with the error of seeds in its interval."""
    monkeypatch.setattr(made_runs, "BENCHMARK", "geneval-pocket")
    parent = tmp_path / "seeds"
    for run in write_parent(parent, [0, 1, 2]):
        made_runs.evaluation(run, ["a star", "two stars"])
    suite = made_suite()
    (line,) = [one for one in paper_table(suite, [f"{parent}=Ours"]).lines if one.result]
    cell = line.cells[0]
    assert line.label == "Ours" and cell.row.value == pytest.approx(21.5)
    notes = render("markdown", *as_table(paper_table(suite, [str(parent)])))
    assert "seeds: mean over seeds 0, 1, 2." in notes
    with pytest.raises(ConfigError, match="evaluate it first: nftbench eval"):
        paper_table(suite, [str(made_runs.training(tmp_path / "train"))])


def made_suite() -> Suite:
    """A suite of one column that the made runs have."""
    column = Column(name="Pick", benchmark=made_runs.BENCHMARK, metric="pick", variant="made")
    return Suite(name="made", title="Made", benchmarks=(made_runs.BENCHMARK,), columns=(column,))


def test_refusals(placed, table1, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown label 'SD-XXL'.*'SD-XL'"):
        paper_table(table1, [f"{placed}=SD-XXL"])
    with pytest.raises(ConfigError, match="is not a run: "):
        paper_table(table1, [str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="has no table"):
        paper_table(load_suite("geneval-pocket"), [])


def test_a_number_over_half_of_the_images_is_no_match_and_never_bold(tmp_path):
    """The published 0.94 of half of the images is not the paper's number."""
    half = {"OCR": {"n": 50, "n_failed": 50}}
    one = made(tmp_path / "a", load_suite("table1"), {"OCR": (0.99, 0.06)}, rows=half)
    code, said = run_here(tmp_path, "table", "table1", str(one.folder), "--format", "csv")
    (line,) = [line for line in said.splitlines() if ",OCR," in line and "measured" in line]
    assert code == 0 and "images without a score (50 of 100, at most 1%)" in line
    code, said = run_here(tmp_path, "table", "table1", str(one.folder), "--format", "markdown")
    assert code == 0 and "0.99 ± 0.06" in said and "**0.99" not in said


def test_given_images_are_not_told_to_be_drawn(tmp_path):
    run = made(tmp_path / "a", load_suite("pocket-table1"), {}, name="Their model")
    unknown = {"noise": "given", "num_inference_steps": None}
    given = run.protocols()["geneval-pocket"].model_copy(update=unknown).model_dump(mode="json")
    run.save_manifest(run.manifest | {"protocols": {"geneval-pocket": given}})
    code, said = run_here(tmp_path, "table", "pocket-table1", "a", "--format", "csv")
    mine = [line for line in said.splitlines() if "Their model" in line]
    assert code == 0 and len(mine) == 4 and not any("nftbench eval" in line for line in mine)
    (ocr,) = [line for line in mine if ",OCR," in line]
    assert ocr.endswith("--name 'Their model' --benchmark ocr-pocket")
    assert all("nftbench score a --rewards " in line for line in mine if line != ocr)


def test_an_ending_that_means_another_format_is_refused(tmp_path):
    code, said = run_here(tmp_path, "table", "pocket-table1", "--out", "table.xlsx")
    assert code == 2 and said.count("\n") == 1 and "expected an ending of .txt, .md" in said
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_file_whole(placed, tmp_path):
    out = tmp_path / "out" / "table.md"
    result = CliRunner().invoke(cli.app, ["table", "table1", placed, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"| {SHOWN} (ours) |  | 512 | 0.93 ± 0.01 | 0.80 ± 0.02 |" in out.read_text("utf-8")
    assert [p.name for p in out.parent.iterdir()] == ["table.md"]
    result = CliRunner().invoke(cli.app, ["table", "table1", placed, "--format", "csv"])
    assert result.exit_code == 0 and result.output.count("\n") == 1 + 9 * 8 + 8
