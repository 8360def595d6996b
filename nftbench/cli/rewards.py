"""`nftbench rewards`: what the rewards are, their weights, what they cost, how far their variants disagree."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from rewards.base import ConfigError, Prompt, Weight

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import TaskID
    from rich.table import Table

    from rewards.base import Reward
    from rewards.certify.cost import Cost
    from rewards.variants import Disagreement

app = typer.Typer(help="The rewards: scale, range, licence, weights; their cost and variants.")

Step = TypeVar("Step")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")

Names = Annotated[list[str], typer.Argument(help="Rewards: pickscore, hpsv2@2024, ...")]


@app.callback(invoke_without_command=True)
def list_rewards(
    context: typer.Context,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure every reward: as the command `benchmark`.")
    ] = False,
) -> None:
    """List the rewards; with a command: pull their weights, measure them, compare variants."""
    if context.invoked_subcommand:
        if benchmark:
            raise ConfigError("--benchmark measures every reward; leave out the command behind it")
        return
    if benchmark:
        measure([])
        return
    import rewards
    from nftbench.reporting import reward_tables as table_rewards

    _show(table_rewards.listing(rewards.available()))


@app.command()
def pull(
    names: Names,
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
    """Fetch the weights of rewards into the cache, each checked by its sha256."""
    from nftbench.reporting import reward_tables as table_rewards
    from rewards.weights import pull as weights

    files = _files(names)
    unknown = set(accept_digest or ()) - set(files)
    if unknown:
        raise ConfigError(
            f"--accept-digest {min(unknown)} is none of the files: {', '.join(files) or 'none'}"
        )
    done = []
    with _bytes_bar() as progress:
        for name, weight in files.items():
            accept = name in (accept_digest or ())
            done.append(
                weights.pull(
                    weight,
                    offline=offline,
                    mirrors=mirror or (),
                    accept=accept,
                    progress=progress,
                )
            )
    if done:
        _show(table_rewards.pulled(files, done))
    fetched = sum(file.fetched for file in done)
    _show(f"{len(done)} files, {table_rewards.size(fetched)} fetched, in {weights.cache()}")


@app.command("benchmark")
def measure(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rewards; every one when left out.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures that each judges.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Their height and width, pixels.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures judged at once.")] = 8,
    seeded: Annotated[
        bool, typer.Option("--seeded", help="Made-up weights of full size: no download needed.")
    ] = False,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
) -> None:
    """Measure images a second and peak memory, each reward in a process of its own.

    Several named rewards are also measured together in one process, where they share towers.
    """
    import rewards
    from nftbench.reporting import reward_tables as table_rewards
    from rewards.certify.cost import Asked, measure_apart, together

    keys = tuple(dict.fromkeys(map(rewards.resolve, names or rewards.available())))

    def ask(*keys: str) -> "Cost":
        return measure_apart(
            Asked(
                keys=keys,
                images=images,
                size=size,
                batch_size=batch_size,
                seeded=seeded,
                device=device,
            )
        )

    rows, fine = [], []
    for key in _steps(keys, "measured"):
        cost = ask(key)
        rows.append((key, cost))
        fine += [] if cost.reason else [cost]
    if names and len(fine) > 1:
        rows.append(("these together", ask(*(cost.keys[0] for cost in fine))))
        rows.append(("sum of the single ones", together(fine)))
    title = f"{images} pictures, {size}x{size}, batch {batch_size}, {device}"
    _show(table_rewards.costs(rows, title))


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
    import rewards
    from nftbench.reporting import reward_tables as table_rewards
    from rewards.variants import disagreements

    keys = [key for key in rewards.available() if key.partition("@")[0] == name.partition("@")[0]]
    if len(keys) < 2:
        rewards.resolve(name)
        raise ConfigError(f"reward {name!r} has no variants to compare")
    paths, prompts = _images(images)
    scores, reasons = {}, {}
    for key in keys:
        scored = _scored(key, paths, prompts, batch_size)
        if isinstance(scored, str):
            reasons[key] = scored
        else:
            scores[key] = scored
    found = disagreements(scores)
    _show(table_rewards.disagreements(found, paths, f"{name} on {len(paths)} images"))
    for key, reason in reasons.items():
        _show(f"not compared: {key}: {reason}")
    if csv:
        _write_csv(csv, found, paths, reasons)
        _show(f"table: {csv}")


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


def _images(source: Path) -> tuple[list[Path], list[Prompt]]:
    """Images and their prompts from any of the forms that `variants` takes."""
    from nftbench.evaluation.scoring import read_image_list
    from nftbench.runs.run_folder import MANIFEST

    if source.is_file():
        return read_image_list(source)
    if not source.is_dir():
        raise ConfigError(f"{source} is neither a folder nor a list of images")
    if (source / MANIFEST).is_file():
        return _run_images(source)
    near = [*source.iterdir(), *source.absolute().parent.glob(f"{source.absolute().name}.*")]
    lists = sorted(path for path in near if path.suffix in (".jsonl", ".txt"))
    if len(lists) != 1:
        found = ", ".join(path.name for path in lists) or "none"
        raise ConfigError(
            f"expected one .jsonl or .txt of prompts in {source} or beside it, found {found}"
        )
    if lists[0].suffix == ".jsonl":
        return read_image_list(lists[0])
    return _with_lines(source, lists[0])


def _run_images(folder: Path) -> tuple[list[Path], list[Prompt]]:
    from nftbench.benchmark.registry import choose, load_benchmark
    from nftbench.generation.sampling import samples
    from nftbench.runs.run_folder import Run

    run = Run.open(folder)
    paths, prompts = [], []
    for name, protocol in run.protocols().items():
        asked = choose(load_benchmark(protocol.benchmark).load(), protocol.limit)
        for sample in samples(asked, protocol.images_per_prompt):
            paths.append(run.image_path(name, sample))
            prompts.append(sample.prompt)
    return paths, prompts


def _with_lines(folder: Path, lines: Path) -> tuple[list[Path], list[Prompt]]:
    """A folder's images by name, a line of text each."""
    from nftbench.benchmark.prompts import text_lines

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    texts = text_lines(lines, lines.read_bytes())
    if len(texts) != len(paths):
        raise ConfigError(f"{lines} has {len(texts)} lines for {len(paths)} images in {folder}")
    return paths, [Prompt(id=f"{i:05d}", text=text) for i, text in enumerate(texts)]


def _scored(
    key: str, paths: Sequence[Path], prompts: Sequence[Prompt], batch_size: int
) -> "np.ndarray | str":
    """Values of one variant, (N,), NaN for what it cannot judge; or in words why it has none."""
    import numpy as np

    from nftbench.evaluation.loading import load_rewards, quiet
    from nftbench.evaluation.scoring import score_files

    quiet()
    try:
        reward = load_rewards(key)[key]
        places = _judgeable(reward, prompts)
    except ConfigError as error:
        return str(error)
    values = np.full(len(paths), np.nan, dtype=np.float32)
    reason = "there is no image"
    for start in _steps(range(0, len(places), batch_size), key):
        batch = places[start : start + batch_size]
        scores = score_files(reward, [paths[i] for i in batch], [prompts[i] for i in batch])
        values[batch] = scores.values
        reason = next(filter(None, scores.reasons), reason)
    return reason if np.isnan(values).all() else values


def _judgeable(reward: "Reward", prompts: Sequence[Prompt]) -> list[int]:
    """Places of the prompts that a reward can judge.

    Raises:
        ConfigError: it can judge none of them.
    """
    try:
        reward.check(prompts)
    except ConfigError as error:
        refused = error
    else:
        return list(range(len(prompts)))
    places = []
    for i, prompt in enumerate(prompts):
        with suppress(ConfigError):
            reward.check([prompt])
            places.append(i)
    if not places:
        raise refused
    return places


def _write_csv(
    path: Path,
    found: "Sequence[Disagreement]",
    paths: Sequence[Path],
    reasons: dict[str, str],
) -> None:
    """One row a pair of variants, then one for each variant that could not run."""
    from dataclasses import asdict

    import pandas as pd

    from nftbench.runs.run_folder import write_atomic

    rows = [asdict(d) | {"worst": paths[d.worst].name if d.n else "", "reason": ""} for d in found]
    rows += [{"first": key, "n": 0, "reason": reason} for key, reason in reasons.items()]
    write_atomic(path, pd.DataFrame(rows).to_csv(index=False).encode())


# --- output ---------------------------------------------------------------------------------------


def _show(part: "Table | str") -> None:
    from rich.console import Console

    # Piped output is read by programs and logs: nothing is cut off there at 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=240)
    console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


def _steps(items: Sequence[Step], what: str) -> Iterable[Step]:
    """The items one by one, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, what, console=console, disable=not console.is_terminal)


@contextmanager
def _bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and time left a file; the function inside is told (name, done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total or None)
            bar.update(tasks[name], completed=done, total=total or None)

        yield told
