"""`nftbench stress`: is a checkpoint as good as its number, or good at its number?"""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def stress(
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
    out: Annotated[
        Path | None, typer.Option(help="Folder of card and images; under runs/ when left out.")
    ] = None,
) -> None:
    """Look for reward hacking: other words, prompts, seeds, guidance; diversity, drift, held-out rewards."""
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from nftbench.reporting import text_tables as grid
    from nftbench.stress import card as stress_card
    from nftbench.stress import plan as stress_plan
    from nftbench.stress import run as stressing

    effort = stress_plan.FULL if full else stress_plan.Effort()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        folder, card = stressing.stress(
            checkpoint,
            replace(effort, images=images or effort.images),
            base=base,
            benchmark=benchmark,
            out=out,
            report=tell,
        )
    grids = stress_card.grids(card)
    if sys.stdout.isatty():
        Console().print(grid.terminal(grids))
    else:
        sys.stdout.write(grid.render("terminal", grids, []))
    sys.stdout.write(f"card: {folder / 'card.md'}\n")
