"""`nftbench data`: prompt files of others, fetched and checked; how well rewards rank ready images."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import console
from nftbench.cli.supplies.pull import AcceptDigest, Mirror, Offline, pull_files
from rewards.base import ConfigError, Weight

if TYPE_CHECKING:
    from nftbench.benchmark.schema import Benchmark
    from nftbench.evaluation.ranking import Ranking
    from nftbench.reporting.tables.grid import Grid
    from nftbench.stats.estimates import Estimate

app = typer.Typer(help="Prompt files of others: what is here, fetching; ranking of ready images.")


@app.callback(invoke_without_command=True)
def list_data(context: typer.Context, as_json: console.Json = False) -> None:
    """List every benchmark's prompt files; with a command: fetch them, or rank ready images."""
    if context.invoked_subcommand:
        return
    from nftbench.benchmark import data_cache as data

    everything = _everything()
    files = [
        {"benchmark": one.name, "state": data.state(asset), **asdict(asset)}
        for one in everything
        for asset in _assets(one)
    ]
    console.answer([_listing(everything)], files)
    console.line(f"data cache: {data.cache()}")


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Benchmarks or suites: table1, tmdb, ...")],
    mirror: Mirror = None,
    offline: Offline = False,
    accept_digest: AcceptDigest = None,
    training: Annotated[
        bool, typer.Option("--training", help="The prompts to train on, too.")
    ] = False,
) -> None:
    """Fetch the prompt files of benchmarks into the data cache, each checked by digest and count."""
    from nftbench.benchmark import data_cache as data

    chosen = _chosen(names)
    files = {asset.name: asset for one in chosen for asset in _assets(one, training)}
    pull_files(files, data.pull, mirror=mirror, offline=offline, accept_digest=accept_digest)
    for one in chosen:
        _load(one, training)
    for one in chosen:
        loose = "" if _pinned(one) else ", not pinned: not publishable"
        console.line(f"{one.name}: {_contents(one)}{loose}")


@app.command("rank")
def rank_(
    benchmark: Annotated[str, typer.Argument(help="A ranking benchmark: imagereward.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    rewards: Annotated[str, typer.Option(help="Which: imagereward,pickscore.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 16,
) -> None:
    """Say how often rewards order ready images of a prompt as people did."""
    import rewards as registry
    from nftbench.evaluation.ranking import load_ranking, rank
    from nftbench.evaluation.scoring.loading import load_rewards, quiet

    quiet()
    ranking = load_ranking(benchmark)
    items = ranking.load()[:limit]
    if not images.is_dir():
        raise ConfigError(
            f"not a folder: {images}; expected the images of {ranking.images}, unpacked"
        )
    loaded = load_rewards(registry.add_files(rewards))
    with console.progress() as progress:
        found = rank(items, images, loaded, batch_size, progress)
    console.show([_accuracies(ranking, found)])


# --- what commands need ---------------------------------------------------------------------------


def _everything() -> list["Benchmark | Ranking"]:
    from nftbench.benchmark.registry import load_benchmark, names
    from nftbench.evaluation.ranking import load_ranking

    generating: list[Benchmark | Ranking] = [load_benchmark(name) for name in names()]
    return generating + [load_ranking(name) for name in names("ranking")]


def _chosen(names: Sequence[str]) -> list["Benchmark | Ranking"]:
    """The benchmarks that names of benchmarks and suites mean, each once."""
    from nftbench.benchmark.registry import load_benchmark, load_suite
    from nftbench.benchmark.registry import names as known

    found: dict[str, Benchmark | Ranking] = {}
    for name in names:
        if name in known("ranking"):
            from nftbench.evaluation.ranking import load_ranking  # brings torch

            found[name] = load_ranking(name)
        else:
            found |= {n: load_benchmark(n) for n in load_suite(name).benchmarks}
    return list(found.values())


def _assets(one: "Benchmark | Ranking", training: bool = False) -> list[Weight]:
    if one.kind == "ranking":
        return [one.asset]
    sources = [*one.sources, *([one.training] if training and one.training else [])]
    return [source.asset(one.licence) for source in sources if source.url]


def _pinned(one: "Benchmark | Ranking") -> bool:
    return one.kind == "ranking" or one.pinned


def _contents(one: "Benchmark | Ranking") -> str:
    if one.kind == "ranking":
        return f"{one.items} items"
    return f"{one.count} prompts x {one.sampling.images_per_prompt}"


def _load(one: "Benchmark | Ranking", training: bool) -> None:
    """Read the prompts; files that nobody pinned, and that are not what they should be, are set aside."""
    from nftbench.benchmark import data_cache as data

    try:
        one.load()
        if training and one.kind != "ranking" and one.training:
            one.load_training()
    except ConfigError as error:
        loose = [asset.name for asset in _assets(one, training) if not asset.sha256]
        aside = ", ".join(str(data.set_aside(name)) for name in loose)
        remedy = f" It was set aside as {aside}; try another --mirror." if aside else ""
        raise ConfigError(f"{error}.{remedy}") from None


def _listing(everything: Sequence["Benchmark | Ranking"]) -> "Grid":
    from nftbench.benchmark import data_cache as data
    from nftbench.reporting.tables.grid import grid_of
    from nftbench.reporting.tables.reward_tables import size

    rows = []
    for one in everything:
        for asset in _assets(one):
            known = asset.sha256[:16] or "not pinned: not publishable"
            how = size(asset.size) if asset.size else "?"
            state = data.state(asset)
            rows.append((one.name, _contents(one), asset.name, state, how, known, one.licence))
        if not _assets(one):
            rows.append((one.name, _contents(one), "", "shipped", "", "", one.licence))
    return grid_of(
        ("benchmark", "asks", "file", "state", "size", "sha256", "licence"),
        rows,
        prose=("asks", "file", "licence"),
        spare=("licence", "sha256", "asks"),
    )


def _accuracies(ranking: "Ranking", found: dict[str, "Estimate"]) -> "Grid":
    from nftbench.reporting.tables.grid import grid_of

    rows = [
        (
            key,
            f"{one.value:.4f}",
            f"{one.low:.3f} to {one.high:.3f}",
            *map(str, (one.n, one.n_failed, one.n_prompts)),
        )
        for key, one in found.items()
    ]
    headings = ("reward", "accuracy", "95% interval", "pairs", "unscored", "items")
    return grid_of(
        headings,
        rows,
        title=f"{ranking.name}: pairs of images ordered as people did",
        spare=("items", "unscored"),
    )
