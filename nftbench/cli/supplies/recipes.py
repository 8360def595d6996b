"""`nftbench recipes`: which recipes ship, and what every key of one means."""

from pathlib import Path
from typing import Annotated

import typer

from nftbench.cli import console

app = typer.Typer()


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A shipped recipe or a .toml file; all when left out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write it there: .txt, .md, .tex, .csv, .html or .json.")
    ] = None,
    as_json: console.Json = False,
) -> None:
    """List the recipes; with a name: every key of one, its value, its default and what it means."""
    grid, records = _one(name) if name else _all()
    from nftbench.reporting.tables import text_tables
    from nftbench.runs.io import followed, write_atomic

    if out is None:
        console.answer([grid], records)
        return
    text = text_tables.render(text_tables.format_of(None, out), [grid], records)
    write_atomic(followed(out), text.encode())
    console.line(f"recipes: {out}")


def _all():
    from nftbench.reporting.tables.grid import grid_of
    from nftbench.training.config import overrides

    known = [overrides.load_recipe(name) for name in overrides.names()]
    records = [{"recipe": r.name, "what it does": r.summary, "measured": r.evidence} for r in known]
    rows = [tuple(record.values()) for record in records]
    return grid_of(tuple(records[0]), rows, prose=("what it does", "measured")), records


def _one(name: str):
    from nftbench.reporting.tables.grid import grid_of
    from nftbench.training.config import keys, overrides

    recipe = overrides.load_recipe(name)
    records = [
        {"key": k.name, "value": k.value, "default": k.default, "what it means": k.meaning}
        for k in keys.keys(recipe)
    ]
    rows = [tuple(record.values()) for record in records]
    grid = grid_of(
        tuple(records[0]),
        rows,
        title=f"{recipe.name}: {recipe.summary}",
        prose=("value", "default", "what it means"),
        spare=("default",),
    )
    return grid, records
