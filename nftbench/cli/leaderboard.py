"""`nftbench leaderboard`: add runs, build the pages, verify a run, export it for a model card."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftbench.evaluation.verify import Checked

app = typer.Typer(
    help="Leaderboards: add a run, build the pages, verify a run, export it for a model card.",
    no_args_is_help=True,
)

RunFolder = Annotated[Path, typer.Argument(help="A run folder made by `nftbench eval`.")]
Leaderboards = Annotated[
    Path | None, typer.Option(help="Folder of the CSV files; the project's own when left out.")
]


@app.command()
def add(run: RunFolder, leaderboards: Leaderboards = None) -> None:
    """Add a run's rows; refused from a --limit run, without protocol hash, error or images."""
    from nftbench.reporting.leaderboard import board as leaderboard
    from nftbench.runs.run_folder import Run

    for path in leaderboard.add(Run.open(run), leaderboards):
        typer.echo(f"published: {path}")


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the HTML page.")] = Path("leaderboard-site"),
    readme: Annotated[
        Path | None, typer.Option(help="File whose marked tables are made anew.")
    ] = None,
    leaderboards: Leaderboards = None,
) -> None:
    """Check, sort and rank the leaderboards; make the README's tables and the HTML page anew."""
    from nftbench.reporting.leaderboard import board as leaderboard
    from nftbench.reporting.leaderboard.site import build as build_all

    own = leaderboard.folder().parent / "README.md"  # of a checkout; a wheel has none
    if readme is None and leaderboards is None and own.is_file():
        readme = own
    changed = build_all(out, readme, leaderboards)
    for path in changed:
        typer.echo(f"written: {path}")
    typer.echo(f"{len(changed)} files changed; page: {out / 'index.html'}")


@app.command()
def verify(
    run: RunFolder,
    fraction: Annotated[float, typer.Option(help="Part of the images that is scored again.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Chooses them.")] = 0,
) -> None:
    """Score a random part of a run's images again; exit code 1 when its numbers are not theirs."""
    from nftbench.evaluation.verify import verify as look_again
    from nftbench.runs.run_folder import Run

    opened = Run.open(run)
    with _progress() as report:
        found = look_again(opened, fraction, seed, report)
    for check in found.checks:
        typer.echo(_said(check))
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    typer.echo(f"{run}: {'verified' if found.ok else 'NOT VERIFIED'}, {found.images} images")
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def card(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Write it there and not to the screen.")] = None,
) -> None:
    """Print a run as Hugging Face model-card metadata (`model-index`), to stand between `---` lines."""
    from nftbench.reporting.leaderboard.model_card import card as as_yaml
    from nftbench.runs.run_folder import Run, write_atomic

    text = as_yaml(Run.open(run))
    if out is None:
        sys.stdout.write(text)
        return
    write_atomic(out, text.encode())
    typer.echo(f"card: {out}")


def _said(check: "Checked") -> str:
    apart = f"largest difference {check.largest:.3g} at {check.worst}"
    return f"{check.benchmark} {check.reward}: {check.agree} of {check.n} agree, {apart}"


@contextmanager
def _progress() -> "Iterator[Callable[[str, int, int], None]]":
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def report(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=total)

        yield report
