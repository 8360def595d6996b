"""`nftbench data`: prompt files of others, fetched and checked; how well rewards rank ready images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli.rewards import _bytes_bar, _show
from rewards.base import ConfigError, Weight

if TYPE_CHECKING:
    from rich.table import Table

    from nftbench.benchmark.registry import Benchmark
    from nftbench.evaluation.ranking import Ranking
    from nftbench.stats.estimates import Estimate

app = typer.Typer(help="Prompt files of others: what is here, fetching; ranking of ready images.")


@app.callback(invoke_without_command=True)
def list_data(context: typer.Context) -> None:
    """List every benchmark's prompt files; with a command: fetch them, or rank ready images."""
    if context.invoked_subcommand:
        return
    from nftbench.benchmark import data_cache as data

    _show(_listing(_everything()))
    _show(f"data cache: {data.cache()}")


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Benchmarks or suites: table1, tmdb, ...")],
    mirror: Annotated[
        list[str] | None,
        typer.Option(help="Folder, file:// or http(s):// that holds the files; asked first."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Stay off the network.")] = False,
    accept_digest: Annotated[
        list[str] | None,
        typer.Option(help="Take this file as it comes, though no digest of it is known."),
    ] = None,
) -> None:
    """Fetch the prompt files of benchmarks into the data cache, each checked by digest and count."""
    from nftbench.benchmark import data_cache as data
    from nftbench.reporting import reward_tables as table_rewards

    chosen = _chosen(names)
    files = {asset.name: asset for one in chosen for asset in _assets(one)}
    unknown = set(accept_digest or ()) - set(files)
    if unknown:
        raise ConfigError(
            f"--accept-digest {min(unknown)} is none of the files: {', '.join(files) or 'none'}"
        )
    done = []
    with _bytes_bar() as progress:
        for name, asset in files.items():
            accept = name in (accept_digest or ())
            done.append(
                data.pull(
                    asset,
                    offline=offline,
                    mirrors=mirror or (),
                    accept=accept,
                    progress=progress,
                )
            )
    for one in chosen:
        _load(one)
    if done:
        _show(table_rewards.pulled(files, done))
    for one in chosen:
        _show(f"{one.name}: {_asks(one)}{'' if _pinned(one) else ', not pinned: not publishable'}")


@app.command("rank")
def rank_(
    benchmark: Annotated[str, typer.Argument(help="A ranking benchmark: imagereward.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    rewards: Annotated[str, typer.Option(help="Which: imagereward,pickscore.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images judged at once.")] = 16,
) -> None:
    """Say how often rewards order ready images of a prompt as people did."""
    from nftbench.evaluation.loading import load_rewards, quiet
    from nftbench.evaluation.ranking import load_ranking, rank

    quiet()
    asked = load_ranking(benchmark)
    items = asked.load()[:limit]
    if not images.is_dir():
        raise ConfigError(f"{images} is no folder; expected the images of {asked.images}, unpacked")
    judges = load_rewards(rewards)
    with _bytes_bar() as progress:
        found = rank(items, images, judges, batch_size, progress)
    _show(_accuracies(asked, found))


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
    from nftbench.evaluation.ranking import load_ranking

    found: dict[str, Benchmark | Ranking] = {}
    for name in names:
        if name in known("ranking"):
            found[name] = load_ranking(name)
        else:
            found |= {n: load_benchmark(n) for n in load_suite(name).benchmarks}
    return list(found.values())


def _assets(one: "Benchmark | Ranking") -> list[Weight]:
    if one.kind == "ranking":
        return [one.asset]
    return [source.asset(one.licence) for source in one.sources if source.url]


def _pinned(one: "Benchmark | Ranking") -> bool:
    return one.kind == "ranking" or one.pinned


def _asks(one: "Benchmark | Ranking") -> str:
    if one.kind == "ranking":
        return f"{one.items} items"
    return f"{one.count} prompts x {one.sampling.images_per_prompt}"


def _load(one: "Benchmark | Ranking") -> None:
    """Read the prompts; files that nobody pinned, and that are not what they should be, are set aside."""
    from nftbench.benchmark import data_cache as data

    try:
        one.load()
    except ConfigError as error:
        loose = [asset.name for asset in _assets(one) if not asset.sha256]
        aside = ", ".join(str(data.set_aside(name)) for name in loose)
        told = f" It was set aside as {aside}; try another --mirror." if aside else ""
        raise ConfigError(f"{error}.{told}") from None


def _listing(everything: Sequence["Benchmark | Ranking"]) -> "Table":
    from rich.table import Table

    from nftbench.benchmark import data_cache as data
    from nftbench.reporting.reward_tables import size

    table = Table("benchmark", "asks", "file", "state", "size", "sha256", "licence")
    for one in everything:
        for asset in _assets(one):
            known = asset.sha256[:16] or "not pinned: not publishable"
            how = size(asset.size) if asset.size else "?"
            row = (one.name, _asks(one), asset.name, data.state(asset), how, known, one.licence)
            table.add_row(*row)
        if not _assets(one):
            table.add_row(one.name, _asks(one), "", "shipped", "", "", one.licence)
    return table


def _accuracies(asked: "Ranking", found: dict[str, "Estimate"]) -> "Table":
    from rich.table import Table

    table = Table("reward", "accuracy", "95% interval", "pairs", "unscored", "items")
    table.title = f"{asked.name}: pairs of images ordered as people did"
    for key, one in found.items():
        interval = f"{one.low:.3f} to {one.high:.3f}"
        counts = (str(one.n), str(one.n_failed), str(one.n_prompts))
        table.add_row(key, f"{one.value:.4f}", interval, *counts)
    return table
