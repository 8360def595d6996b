"""`nftbench train`, `average` and `pocket build`: can a checkpoint be made better?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nftbench.cli import console, flags, names

if TYPE_CHECKING:
    from nftbench.generation.checkpoint import Allowed

app = typer.Typer()
pocket = typer.Typer(
    help="The pocket world: a text-to-image model that fits into the repository.",
    no_args_is_help=True,
)


@app.command()
@flags.grouped
def train(
    *,
    checkpoint: Annotated[
        str | None, typer.Argument(help="Where to start; the recipe's own when left out.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A shipped recipe or a .toml file; when left out, pocket's for the rewards."
        ),
    ] = None,
    rewards: Annotated[
        str | None,
        typer.Option(
            help="Rewards of every stage, with weights: ocr,pickscore:0.5; or FILE.py:NAME:0.5, which runs that file."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompts of every stage: benchmarks, or your own .txt, .jsonl or .csv."),
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="nft, or the baseline flow-grpo.")] = None,
    combine: Annotated[
        str | None, typer.Option(help="sum of rewards, or advantages, each normalised on its own.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations of every stage.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, such as 0,1,2: a run each, and their mean.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, as often as wanted.")
    ] = None,
    loading: flags.Loading,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from the last checkpoint of this run folder.")
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Train a checkpoint on rewards; print what it gained on held-out prompts."""
    given = {"prompts": prompts, "rewards": rewards, "combine": combine, "iterations": iterations}
    stages = {f"stages.{name}": value for name, value in given.items() if value is not None}
    settings = [f"{name}={value}" for name, value in stages.items()]
    top = {
        "checkpoint": loading.named_if_any(checkpoint),
        "algorithm": algorithm,
        "seed": seed,
    }
    names.check_settings(stages | top, set_ or [])
    everything = (recipe, [*settings, *(set_ or [])], top)
    if resume is None or recipe:
        names.check_recipe(*everything)
    if seeds is not None:
        names.check_seeds(seeds)
    if resume:
        names.there(resume, "the folder of a training run")
    if seeds is not None:
        _train_seeds(everything, seeds, out, resume, loading.allowed)
        return
    from nftbench import commands
    from nftbench.reporting.tables import summary_tables

    with console.progress() as progress:
        folder, changes = commands.train_checkpoint(
            *everything,
            out=out,
            resume=resume,
            progress=progress,
            say=console.line,
            allowed=loading.allowed,
        )
    console.answer(summary_tables.changes(changes), {"run": str(folder), "changes": changes})
    console.line(f"run: {folder}; evaluate it with: nftbench eval {folder}")


def _train_seeds(
    everything: tuple[str | None, list[str], dict[str, Any]],
    seeds: str,
    out: Path | None,
    resume: Path | None,
    allowed: "Allowed",
) -> None:
    from nftbench import commands
    from nftbench.reporting.tables import summary_tables
    from rewards.base import ConfigError

    if resume:
        raise ConfigError("--seeds goes on by itself where it stopped: name its folder with --out")
    with console.progress() as progress:
        parent, changes = commands.train_seeds(
            *everything, seeds, out=out, progress=progress, say=console.line, allowed=allowed
        )
    console.answer(summary_tables.changes(changes), {"runs": str(parent), "changes": changes})
    console.line(f"runs: {parent}, one folder a seed; the table is their mean")


@app.command()
def average(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="Trained runs of one base, or a parent of several seeds: its finished runs."
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new folder, for `nftbench eval`.")],
) -> None:
    """Average the weights of trained policies: what differs between seeds is mostly noise."""
    for policy in policies:
        names.check(checkpoint=policy, several=True)
    from nftbench import commands
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.training.average import average as averaged

    quiet()
    averaged(policies, commands.named(out) or out, console.line)
    console.line(f"average: {out}; evaluate it with: nftbench eval {out}")


@pocket.command()
def build(
    work: Annotated[
        Path, typer.Option(help="Checkpoints of the training; goes on where it stopped.")
    ] = Path("pocket-build"),
    out: Annotated[Path, typer.Option(help="Where the finished weights go.")] = Path(
        "pocket-weights"
    ),
    start: Annotated[
        str | None, typer.Option(help="Train this pocket checkpoint's policy further; judges stay.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train the pocket policy and its judges from nothing."""
    from nftbench import commands
    from nftbench.generation.checkpoint import local_folder
    from nftbench.pocket.train.build import build_all
    from nftbench.runs.io import make_folder

    for folder in (work, commands.named(out) or out):  # before hours of training
        make_folder(folder)
    with console.progress() as progress:
        build_all(work, out, threads, progress, start=local_folder(start) if start else None)
    console.line(f"weights: {out}")
