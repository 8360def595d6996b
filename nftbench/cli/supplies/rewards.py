"""`nftbench rewards`: what the rewards are, their weights, what they cost, how far their variants disagree."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nftbench.cli import console
from nftbench.cli.supplies.pull import AcceptDigest, Mirror, Offline, pull_files
from rewards.base import ConfigError, Progress, Weight

if TYPE_CHECKING:
    from rewards.measuring.cost import Cost

app = typer.Typer(help="The rewards: scale, range, licence, weights; their cost and variants.")

Names = Annotated[list[str], typer.Argument(help="Rewards: pickscore, hpsv2@2024, ...")]


@app.callback(invoke_without_command=True)
def list_rewards(
    context: typer.Context,
    benchmark: Annotated[
        bool,
        typer.Option(
            "--benchmark", help="Measure every reward: the same as the command `benchmark`."
        ),
    ] = False,
    as_json: console.Json = False,
) -> None:
    """List the rewards; with a command: pull their weights, measure them, compare variants."""
    if context.invoked_subcommand:
        if benchmark:
            raise ConfigError("--benchmark measures every reward; leave out the command behind it")
        return
    if benchmark:
        measure()
        return
    import rewards
    from nftbench.reporting.tables import reward_tables

    keys = rewards.available()
    console.answer([reward_tables.listing(keys)], [_said(key) for key in keys] if as_json else [])


@app.command()
def pull(
    names: Names,
    mirror: Mirror = None,
    offline: Offline = False,
    accept_digest: AcceptDigest = None,
) -> None:
    """Fetch the weights of rewards into the cache, each checked by its sha256."""
    from nftbench.reporting.tables.reward_tables import size
    from rewards.weights import pull as weights

    files = _files(names)
    done = pull_files(
        files, weights.pull, mirror=mirror, offline=offline, accept_digest=accept_digest
    )
    fetched = size(sum(file.fetched for file in done))
    console.line(f"{len(done)} files, {fetched} fetched, in {weights.cache()}")


@app.command("benchmark")
def measure(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rewards; every one when left out.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images that each scores.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Their height and width, pixels.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 8,
    seeded: Annotated[
        bool, typer.Option("--seeded", help="Made-up weights of full size: no download needed.")
    ] = False,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
) -> None:
    """Measure images a second and peak memory, each reward in a process of its own.

    Several named rewards are also measured together in one process, where they share towers.
    """
    import rewards
    from nftbench.reporting.tables import reward_tables

    def cost(*keys: str) -> "Cost":
        return _cost(keys, images, size, batch_size, seeded=seeded, device=device)

    keys = tuple(dict.fromkeys(map(rewards.resolve, names or rewards.available())))
    with console.progress() as progress:
        measured = _costs(keys, cost, progress, together=bool(names))
    title = f"{images} images, {size}x{size}, batch {batch_size}, {device}"
    console.show([reward_tables.costs(measured, title)])


@app.command()
def variants(
    name: Annotated[str, typer.Argument(help="Reward whose variants are compared: ocr.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="A run, a list images.jsonl of {image, prompt} lines, or a folder of images with"
            " such a list or a .txt of prompts in it or beside it."
        ),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 16,
    csv: Annotated[Path | None, typer.Option(help="Write the table there as well.")] = None,
) -> None:
    """Show how far the variants of one reward disagree on the same images."""
    from nftbench.evaluation.variants import compare, read_images, variants_of, write_csv
    from nftbench.reporting.tables import reward_tables

    keys = variants_of(name)
    paths, prompts = read_images(images)
    with console.progress() as progress:
        found = compare(keys, paths, prompts, batch_size, progress)
    title = f"{name} on {len(paths)} images"
    console.show([reward_tables.disagreements(found.pairs, paths, title)])
    for key, reason in found.missing.items():
        console.line(f"not compared: {key}: {reason}")
    if csv:
        write_csv(csv, found, paths)
        console.line(f"table: {csv}")


def _said(key: str) -> dict[str, Any]:
    """All that a reward says of itself, or why it cannot."""
    import rewards
    from rewards.certify.verdicts import standing

    try:
        return {"key": key, "parity": standing(key), **asdict(rewards.reward_info(key))}
    except ConfigError as error:
        return {"key": key, "not_here": str(error)}


# --- what commands need ---------------------------------------------------------------------------


def _files(names: Sequence[str]) -> dict[str, Weight]:
    """Every file of some rewards, once each."""
    import rewards

    files: dict[str, Weight] = {}
    for key in dict.fromkeys(map(rewards.resolve, names)):
        for weight in rewards.reward_info(key).files:
            if files.setdefault(weight.name, weight) != weight:
                raise ConfigError(
                    f"two rewards pin {weight.name} differently, {key} is one; name one of them"
                )
    return files


def _cost(
    keys: tuple[str, ...], images: int, size: int, batch_size: int, *, seeded: bool, device: str
) -> "Cost":
    from rewards.measuring import cost

    return cost.measure_apart(
        cost.Measurement(
            keys=keys,
            images=images,
            size=size,
            batch_size=batch_size,
            seeded=seeded,
            device=device,
        )
    )


def _costs(
    keys: Sequence[str], cost: "Callable[..., Cost]", progress: Progress, *, together: bool
) -> "list[tuple[str, Cost]]":
    """What each reward costs, and (`together`) what those that can be measured cost in one process."""
    from rewards.measuring.cost import together as add

    rows = []
    for done, key in enumerate(keys, start=1):
        rows.append((key, cost(key)))
        progress("rewards measured", done, len(keys))
    fine = [one for _, one in rows if not one.reason]
    if together and len(fine) > 1:
        rows.append(("these together", cost(*(one.keys[0] for one in fine))))
        rows.append(("sum of the single ones", add(fine)))
    return rows
