"""`nftbench pull`: all that suites and recipes need at once; the fetching that `rewards pull` and `data pull` share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import console
from nftbench.cli import names as check_names
from rewards.base import ConfigError, Weight, did_you_mean

if TYPE_CHECKING:
    from nftbench.evaluation.needs import Named, Need
    from nftbench.reporting.tables.grid import Grid
    from rewards.weights.pull import Pulled

app = typer.Typer()

Mirror = Annotated[
    list[str] | None,
    typer.Option(help="Folder, file:// or http(s):// that holds the files; asked first."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Stay off the network.")]
AcceptDigest = Annotated[
    list[str] | None,
    typer.Option(help="Take this file as it comes, though no digest of it is known."),
]


def pull_files(
    files: Mapping[str, Weight],
    pull: "Callable[..., Pulled]",
    *,
    mirror: Sequence[str] | None,
    offline: bool,
    accept_digest: Sequence[str] | None,
) -> "list[Pulled]":
    """Fetch files one by one, with a bar, and print what came.

    Args:
        files: by name.
        pull: fetches one, as `rewards.weights.pull.pull` does.
        mirror: as the flag of that name.
        offline: the same.
        accept_digest: the same.

    Raises:
        ConfigError: `accept_digest` names none of the files, or a file cannot be had.
    """
    from nftbench.reporting.tables.reward_tables import pulled

    accepted = set(accept_digest or ())
    _refuse_other_files(accepted, list(files))
    sources = {"offline": offline, "mirrors": mirror or ()}
    done = []
    with console.progress(in_bytes=True) as progress:
        for name, file in files.items():
            done.append(pull(file, accept=name in accepted, progress=progress, **sources))
    if done:
        console.show([pulled(files, done)])
    return done


@app.command("pull")
def pull_everything(
    names: Annotated[
        list[str],
        typer.Argument(help="Suites, benchmarks or recipes: table1, sd3.5-m-geneval, ..."),
    ],
    mirror: Mirror = None,
    offline: Offline = False,
    accept_digest: AcceptDigest = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is here and what is missing.")
    ] = False,
    as_json: console.Json = False,
) -> None:
    """Fetch all that suites or recipes need: prompts, weights, checkpoints; say how to get the rest."""
    recipes = [name for name in names if _is_recipe(name)]
    suites = [name for name in names if name not in recipes or _is_suite(name)]
    for name in suites:
        _check_suite(name)
    for name in recipes:
        check_names.check_recipe(name, (), {})
    from nftbench.benchmark import data_cache
    from nftbench.evaluation.needs import needs, needs_of
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.reporting.tables.reward_tables import size
    from rewards.weights import pull as weights

    quiet()
    found = [*needs(suites), *(need for name in recipes for need in needs_of(_named(name)))]
    wanted = list({(need.kind, need.name): need for need in found}.values())
    console.answer([_listing(wanted)], wanted)
    _refuse_other_files(accept_digest or (), [need.name for need in wanted if need.file])
    missing = [need for need in wanted if not need.here and need.file]
    checkpoints = [n.name for n in wanted if n.kind == "checkpoint" and not n.here]
    total = size(sum(need.size for need in missing))
    also = f" and {', '.join(checkpoints)} of the hub" if checkpoints else ""
    if dry_run:
        unknown = [n.name for n in missing if n.file and not _has_a_digest(n.file)]
        command = " --accept-digest ".join([f"nftbench pull {' '.join(names)}", *unknown])
        console.line(f"{len(missing)} files to fetch, {total}{also}: {command}")
        return
    if checkpoints:
        _fetch_checkpoints(checkpoints, offline)
    for kind, pull in (("prompts", data_cache.pull), ("weights", weights.pull)):
        files = {n.name: n.file for n in missing if n.kind == kind and n.file}
        accepted = [name for name in accept_digest or () if name in files]
        pull_files(files, pull, mirror=mirror, offline=offline, accept_digest=accepted)
    console.line(f"{len(missing)} files fetched, {total}{also}")


def _refuse_other_files(accepted: Collection[str], files: Sequence[str]) -> None:
    for name in sorted(set(accepted) - set(files)):
        raise ConfigError(
            f"--accept-digest {name} is none of the files: {', '.join(files) or 'none'}"
        )


def _has_a_digest(file: Weight) -> bool:
    """Whether what comes can be checked before it is used; the hub says the digest of what it has."""
    return bool(file.sha256) or file.url.startswith("hf://")


def _is_recipe(name: str) -> bool:
    """Whether a name is a shipped recipe's, or a TOML file's that has stages."""
    from nftbench.parsing import parse_toml
    from nftbench.training.config import overrides

    if name in overrides.names():
        return True
    try:
        return name.endswith(".toml") and "stages" in parse_toml(Path(name).read_text("utf-8"))
    except (OSError, ValueError):  # said when it is read as a suite
        return False


def _is_suite(name: str) -> bool:
    from nftbench.benchmark.registry import names, suite_names

    return name in (*suite_names(), *names())


def _check_suite(name: str) -> None:
    """Refuse what is neither a suite, a benchmark nor a recipe; the near name of all three is suggested."""
    from nftbench.benchmark.registry import names, suite_names
    from nftbench.training.config import overrides

    if _is_suite(name) or name.endswith(".toml"):
        check_names.check(suite=name)
        return
    known = [*suite_names(), *names(), *overrides.names()]
    expected = "expected a suite, a benchmark or a recipe: nftbench benchmarks, nftbench recipes"
    raise ConfigError(
        f"unknown suite, benchmark or recipe {name!r}{did_you_mean(name, known, expected)}"
    )


def _named(recipe: str) -> "Named":
    """What a recipe needs, by its names."""
    from nftbench.evaluation.needs import Named
    from nftbench.training.config.names import listed_rewards, prompt_file
    from nftbench.training.config.overrides import load_recipe

    whole = load_recipe(recipe)
    texts = [*(stage.rewards for stage in whole.stages), whole.evaluation.held_out_rewards]
    asked = [name for stage in whole.stages for name in stage.prompts]
    return Named(
        benchmarks=whole.evaluation.benchmarks,
        training=[name for name in asked if prompt_file(name) is None],
        rewards=[spec.key for text in texts for spec in listed_rewards(whole, text)],
        checkpoint=whole.checkpoint,
    )


def _fetch_checkpoints(names: Sequence[str], offline: bool) -> None:
    """Bring checkpoints into the hub's cache; parts from elsewhere (`+lora=`) come when they are loaded."""
    from nftbench.generation.sources.ahead import fetch

    if offline:
        raise ConfigError(
            f"{', '.join(names)}: not in the hub's cache, and --offline; leave it out, or take another checkpoint"
        )
    for name in names:
        fetch(name)


def _listing(wanted: "Sequence[Need]") -> "Grid":
    from nftbench.reporting.tables.grid import grid_of
    from nftbench.reporting.tables.reward_tables import size

    rows = [
        (
            need.kind,
            need.name,
            "here" if need.here else "missing",
            size(need.size) if need.size else "",
            "" if need.here else need.remedy,
        )
        for need in wanted
    ]
    headings = ("needed", "name", "state", "size", "remedy")
    return grid_of(headings, rows, prose=("name", "remedy"), spare=("remedy",))
