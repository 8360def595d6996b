"""`nftbench import`: finished images become a run."""

from pathlib import Path
from typing import Annotated

import typer

from nftbench.cli import console, names
from nftbench.cli.running.evaluate import Rewards

app = typer.Typer()


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="GenEval's folder, a list images.jsonl of {image, prompt} lines, or a folder of images."
        ),
    ],
    name: Annotated[str, typer.Option(help="The model that made them, as tables show it.")],
    benchmark: Annotated[
        str | None, typer.Option(help="Whose prompts they answer; the images' own when left out.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of a plain folder: .txt, .jsonl or .csv.")
    ] = None,
    benchmark_path: Annotated[
        list[Path] | None, typer.Option(help="Folder of your own benchmarks.")
    ] = None,
    rewards: Rewards = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
) -> None:
    """Make a run of finished images: to be scored, tabled, compared and reported as any other."""
    names.there(source, "a folder or a list of images")
    names.check(rewards=rewards)
    from nftbench import commands
    from nftbench.benchmark import places
    from nftbench.evaluation.given import import_images
    from nftbench.reporting.tables import summary_tables
    from nftbench.runs.run_folder import RUNS, folder_name
    from rewards.base import ConfigError

    for folder in benchmark_path or ():
        places.add(folder)
    where = (
        commands.named(out) or RUNS / f"{folder_name(name)}-{folder_name(source.resolve().stem)}"
    )
    with console.progress() as progress:
        run = import_images(
            source, name, where, benchmark=benchmark, prompts=prompts, progress=progress
        )
        try:
            rows = commands.score_run(where, rewards, progress) if rewards else []
        except ConfigError as error:
            way_on = f"the images are in {where} by now: nftbench score {where} --rewards ..."
            raise type(error)(f"{error}; {way_on}") from None
    if rows:
        console.show(summary_tables.scores(rows))
    (protocol,) = run.protocols().values()
    console.line(f"images given, of {protocol.benchmark}; nobody knows how they were drawn")
    for note in run.manifest["drawn"][protocol.benchmark]["notes"][1:]:
        console.line(note)
    console.line(f"run: {run.folder}")
    if not rows:
        console.line(f"score it: nftbench score {run.folder}")
