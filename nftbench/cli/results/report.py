"""`nftbench table`, `compare` and `report`: runs beside a paper, beside one another, and as a folder of HTML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nftbench.cli import console, names

if TYPE_CHECKING:
    from nftbench.reporting.tables.grid import Grid

app = typer.Typer()

Form = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="terminal, markdown, latex, csv, json or html; the ending of --out when left out.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write it there and not to the screen.")]


@app.command()
def table(
    suite: Annotated[str, typer.Argument(help="A suite with a table: table1, pocket-table1, ...")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders; RUN=LABEL says which line of the table one is."),
    ] = None,
    form: Form = None,
    out: Out = None,
    as_json: console.Json = False,
) -> None:
    """Make a paper's table with our rows beside the published ones: do they agree?"""
    names.check(suite=suite, runs=runs or ())
    from nftbench.benchmark.registry import load_suite
    from nftbench.reporting.paper.render import as_table
    from nftbench.reporting.paper.table import paper_table
    from nftbench.reporting.tables.text_tables import format_of

    _show(format_of(form, out), out, *as_table(paper_table(load_suite(suite), runs or [])))


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(help="The run compared with, or a parent of --seeds; RUN=LABEL names it."),
    ],
    b: Annotated[str, typer.Argument(help="The other one; differences are B less A.")],
    benchmark: Annotated[str | None, typer.Option(help="This one alone.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare different protocols all the same, marked.")
    ] = False,
    form: Form = None,
    out: Out = None,
    as_json: console.Json = False,
) -> None:
    """Compare two runs image by image: difference, interval, p-value, wins by prompt."""
    names.check(runs=(a, b))
    from nftbench.reporting import compare as comparing
    from nftbench.reporting.results import read_results
    from nftbench.reporting.tables.text_tables import format_of

    written_as = format_of(form, out)
    first, second = read_results([a, b])
    found = comparing.compare(first, second, benchmark=benchmark, force=force)
    _show(
        written_as,
        out,
        comparing.grids(first, second, found),
        comparing.records(first, second, found),
    )


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders of `nftbench eval` and `nftbench train`, parents of --seeds; RUN=LABEL names one."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The report's folder; `report` in the first run's.")
    ] = None,
) -> None:
    """Write runs as one folder of HTML: numbers, charts, curves, and every image with its reasons."""
    names.check(runs=runs)
    from nftbench.reporting.html_report.build import write_report

    with console.progress() as bar:
        written = write_report(runs, out, bar)
    missing = f", {written.missing} of them missing" if written.missing else ""
    console.line(f"report: {written.page} ({written.images} images{missing})")


def _show(
    form: str, out: Path | None, grids: "Sequence[Grid]", records: Sequence[Mapping[str, Any]]
) -> None:
    from nftbench.reporting.tables import text_tables
    from nftbench.runs.io import followed, write_atomic

    if out is not None:
        write_atomic(followed(out), text_tables.render(form, grids, records).encode())
        console.line(f"table: {out}")
    elif form == "terminal":
        console.answer(grids, records)
    else:
        console.write(text_tables.render(form, grids, records))
