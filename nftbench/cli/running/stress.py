"""`nftbench stress`: is a checkpoint as good as its number, or good at its number?"""

from pathlib import Path
from typing import Annotated

import typer

from nftbench.cli import console, flags, names

app = typer.Typer()


@app.command()
@flags.grouped
def stress(
    *,
    checkpoint: Annotated[
        str, typer.Argument(help="As `nftbench eval` takes it; a training run's folder is one too.")
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Compared with; what a training run was trained from when left out."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images a prompt.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All prompts, all paraphrases, 4 images, 5 seeds.")
    ] = False,
    benchmark: Annotated[
        str | None, typer.Option(help="Whose prompts; the checkpoint's own when left out.")
    ] = None,
    loading: flags.Loading,
    machine: flags.Machine,
    out: Annotated[
        Path | None, typer.Option(help="Folder of card and images; under runs/ when left out.")
    ] = None,
) -> None:
    """Look for reward hacking: other words, prompts, seeds, guidance; diversity, drift, held-out rewards."""
    names.check(checkpoint=checkpoint, suite=benchmark)
    if base is not None:
        names.check(checkpoint=base)
    from dataclasses import replace
    from functools import partial

    from nftbench.generation.checkpoint import load_model
    from nftbench.stress import card, plan, run

    effort = plan.FULL if full else plan.Effort()
    load = partial(
        load_model,
        hardware=machine.hardware(),
        allowed=loading.allowed,
    )
    with console.progress() as progress:
        folder, found = run.stress(
            loading.named(checkpoint),
            replace(effort, images=images or effort.images),
            base=base,
            benchmark=benchmark,
            out=out,
            progress=progress,
            load=load,
        )
    console.show(card.grids(found))
    console.line(f"card: {folder / 'card.md'}")
