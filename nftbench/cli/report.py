"""`nftbench report`: runs as a folder of HTML."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of `nftbench eval` and `nftbench train`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The report's folder; `report` in the first run's.")
    ] = None,
) -> None:
    """Write runs as one folder of HTML: numbers, charts, curves, and every image with its reasons."""
    from rich.console import Console
    from rich.progress import Progress

    from nftbench.reporting.html_report.build import write_report

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        written = write_report(runs, out, tell)
    missing = f", {written.missing} of them missing" if written.missing else ""
    sys.stdout.write(f"report: {written.page} ({written.images} images{missing})\n")
