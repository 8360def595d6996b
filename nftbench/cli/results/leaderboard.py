"""`nftbench leaderboard`: add runs, build the pages, verify a run, export it for a model card."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import console, names

if TYPE_CHECKING:
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
def add(
    run: RunFolder,
    leaderboards: Leaderboards = None,
    name: Annotated[
        str, typer.Option(help="The model's name in the leaderboard; the checkpoint's otherwise.")
    ] = "",
) -> None:
    """Add a run's rows; refused from a --limit run, without protocol hash, error or images."""
    names.check(runs=[run])
    from nftbench.reporting.leaderboard import board as leaderboard
    from nftbench.runs.run_folder import Run

    opened = Run.open(run)
    others = [other for other in leaderboard.namesakes(opened, leaderboards) if other != name]
    for path in leaderboard.add(opened, leaderboards, name=name):
        console.line(f"published: {path}")
    if others:
        console.line(f"note: the same weights stand there as {', '.join(others)}, too")


@app.command()
def remove(
    benchmark: Annotated[str, typer.Argument(help="Whose leaderboard: geneval-pocket.")],
    model: Annotated[str, typer.Argument(help="As its rows name it.")],
    protocol: Annotated[
        str, typer.Option(help="Rows of this protocol's hash alone; all when left out.")
    ] = "",
    leaderboards: Leaderboards = None,
) -> None:
    """Take a model's measured rows from a leaderboard; published ones stay."""
    from nftbench.reporting.leaderboard import board as leaderboard

    gone = leaderboard.remove(benchmark, model, protocol, leaderboards)
    console.line(f"{gone} rows of {model} removed from {benchmark}")


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
        console.line(f"written: {path}")
    console.line(f"{len(changed)} files changed; page: {out / 'index.html'}")


@app.command()
def verify(
    run: RunFolder,
    fraction: Annotated[float, typer.Option(help="Part of the images that is scored again.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Chooses them.")] = 0,
    rewards: Annotated[
        str | None,
        typer.Option(help="Your own rewards that scored it, FILE.py:NAME; runs the files."),
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Score a random part of a run's images again; exit code 1 when its numbers are not theirs."""
    names.check(runs=[run])
    import rewards as registry
    from nftbench.evaluation.verify import verify as verify_run
    from nftbench.runs.run_folder import Run

    if rewards is not None:
        registry.add_files(rewards)
    opened = Run.open(run)
    with console.progress() as progress:
        found = verify_run(opened, fraction, seed, progress)
    for check in found.checks:
        console.line(_agreement(check))
    for problem in found.problems:
        console.line(f"problem: {problem}")
    unseen = found.images - found.seen
    looked = f"{found.seen} of {found.images} images scored again"
    rest = f"; of the other {unseen} only the digests were looked at" if unseen else ""
    console.line(f"{run}: {'verified' if found.ok else 'NOT VERIFIED'}: {looked}{rest}")
    if as_json:
        console.answer([], {"run": str(run), "ok": found.ok, **asdict(found)})
    if not found.ok:
        raise typer.Exit(console.FAILED)


@app.command()
def card(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Write it there and not to the screen.")] = None,
    readme: Annotated[
        bool, typer.Option("--readme", help="The model's whole README, with how to use it.")
    ] = False,
) -> None:
    """Print a run as Hugging Face model-card metadata (`model-index`), to stand between `---` lines."""
    names.check(runs=[run])
    from nftbench.reporting.leaderboard import model_card
    from nftbench.runs.io import followed, write_atomic
    from nftbench.runs.run_folder import Run

    text = (model_card.readme if readme else model_card.card)(Run.open(run))
    if out is None:
        console.write(text)
        return
    write_atomic(followed(out), text.encode())
    console.line(f"card: {out}")


def _agreement(check: "Checked") -> str:
    apart = f"largest difference {check.largest:.3g} at {check.worst}"
    return f"{check.benchmark} {check.reward}: {check.agree} of {check.n} agree, {apart}"
