"""`nftbench view`: runs in a browser while they go on."""

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nftbench.cli import console, names

app = typer.Typer()


@app.command()
def view(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Runs, or folders of runs; runs/ when left out.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of this machine; 0 takes a free one.")
    ] = 6007,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two updates.")] = 5.0,
) -> None:
    """Show runs in a browser while they go on: curves, images, warnings. Only this machine can see it."""
    for folder in runs or ():
        names.there(folder, "a run, or a folder of runs such as runs/")
    from nftbench.reporting.html_report.live import serving
    from nftbench.runs.run_folder import RUNS

    with suppress(KeyboardInterrupt), serving(runs or [RUNS], port, every) as address:
        stops: list[int] = []  # an exception could be lost in a library's callback
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: stops.append(number))
        console.line(f"view: {address} (Ctrl-C stops it)")
        while not stops:
            time.sleep(0.2)
