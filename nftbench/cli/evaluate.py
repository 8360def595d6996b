"""`nftbench eval`, `nftbench score` and `nftbench benchmarks`: how good is a checkpoint, and at what?"""

from pathlib import Path
from typing import Annotated

import typer

from nftbench.cli import console
from rewards.base import ConfigError

app = typer.Typer()

Rewards = Annotated[
    str | None, typer.Option(help="Rewards instead of the benchmark's own: ocr,pickscore@pocket.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images made and scored at once.")]


@app.command("eval")
def eval_(
    checkpoint: Annotated[
        str, typer.Argument(help="pocket, a diffusers folder or a hub id; +lora=PATH adds a LoRA.")
    ],
    suite: Annotated[
        str | None, typer.Option(help="Suite or benchmark; the checkpoint's own when left out.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="Classifier-free guidance; 1 is none.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts: not publishable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noise.")] = 0,
    rewards: Rewards = None,
    batch_size: BatchSize = 16,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Add the rows to leaderboards/.")
    ] = False,
) -> None:
    """Generate from a checkpoint, judge the images, print a table with error bars."""
    if publish and limit:
        raise ConfigError("--publish takes whole runs only; leave out --limit")
    from nftbench.cli import commands
    from nftbench.reporting import summary_tables
    from nftbench.reporting.leaderboard import board as leaderboard

    settings = {
        "guidance_scale": guidance_scale,
        "num_inference_steps": steps,
        "limit": limit,
        "seed": seed,
    }
    with console.progress() as report:
        run, rows = commands.evaluate_checkpoint(
            checkpoint,
            suite,
            settings,
            rewards=rewards,
            batch_size=batch_size,
            out=out,
            progress=report,
        )
    console.show(summary_tables.scores(rows))
    console.line(f"run: {run.folder}")
    for path in leaderboard.add(run) if publish else ():
        console.line(f"published: {path}")


@app.command()
def score(
    target: Annotated[
        Path, typer.Argument(help="A run folder, or a list images.jsonl of {image, prompt} lines.")
    ],
    rewards: Rewards = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of a list scored at once; a run keeps its own.")
    ] = 16,
    out: Annotated[
        Path | None,
        typer.Option(help="Where a list's scores go; LIST.scores.parquet when left out."),
    ] = None,
) -> None:
    """Score images that exist: a run's, or any that a list names."""
    from nftbench.cli import commands
    from nftbench.reporting import summary_tables

    with console.progress() as report:
        if target.is_dir():
            if out:
                raise ConfigError("--out is for lists; a run's scores stay in its folder")
            rows, written = commands.score_run(target, rewards, report), target
        else:
            rows, written = commands.score_list(target, rewards, batch_size, out, report)
    console.show(summary_tables.scores(rows))
    console.line(f"scores: {written}")


@app.command()
def benchmarks() -> None:
    """List benchmarks and suites."""
    from nftbench.benchmark import registry
    from nftbench.reporting import summary_tables

    benchmarks = [registry.load_benchmark(name) for name in registry.names()]
    suites = [registry.load_suite(name) for name in registry.suite_names()]
    console.show([summary_tables.benchmarks(benchmarks), summary_tables.suites(suites)])
