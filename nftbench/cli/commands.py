"""What the commands do: names and flags in, rows out. The engine's parts, put together."""

import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nftbench.benchmark.registry import load_suite, names, protocols_of, suite_names
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.evaluate import Work, evaluate, fitted, plan, refuse_other_rewards, score
from nftbench.evaluation.loading import load_named, load_rewards, quiet
from nftbench.evaluation.scoring import read_image_list, score_files
from nftbench.generation.checkpoint import NOTHING, Allowed, load_model, own_suite
from nftbench.generation.sampling import Sample
from nftbench.runs.io import write_table
from nftbench.runs.rows import Provenance, Row, summarise
from nftbench.runs.run_folder import RUNS, Run, folder_name, score_table
from nftbench.stats.paired import Change
from nftbench.training import seeds
from nftbench.training.checkpoints import checkpoints
from nftbench.training.config.overrides import load_recipe
from nftbench.training.run import train as training
from nftbench.training.setup import resumed_recipe
from rewards.base import ConfigError, Progress

POCKET_RECIPES = {"flow-grpo": "pocket-flow-grpo"}
"""What `nftbench train` does when no recipe is named, where it is not `pocket` with another algorithm."""


def evaluate_checkpoint(
    checkpoint: str,
    suite: str | None,
    settings: Mapping[str, Any],
    *,
    rewards: str | None,
    batch_size: int,
    out: Path | None,
    progress: Progress,
    allowed: Allowed = NOTHING,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Run, list[Row]]:
    """Evaluate a checkpoint on a suite.

    Args:
        checkpoint: as `load_model` takes it.
        suite: a suite's or benchmark's name; None takes the checkpoint's own.
        settings: protocol fields the user changed; None leaves one as the benchmark has it.
        rewards: rewards instead of the benchmarks' own, comma-separated.
        batch_size: images made at once.
        out: run folder; None makes one under `runs/` whose name holds the protocols' hash.
        progress: called as the work goes on.
        allowed: what is refused unless the user says otherwise.
        say: told in words what was loaded.

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
    """
    quiet()
    chosen = load_suite(suite or _own_suite(checkpoint))
    wanted = protocols_of(chosen, **settings)
    protocols = list(wanted)
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out takes a folder")
    if rewards:
        works = plan(protocols, load_rewards(rewards), batch_size)
    else:
        works = _own_works(protocols, list(wanted.values()), batch_size)
    model = load_model(checkpoint, dtype=protocols[0].dtype, allowed=allowed)
    for line in model.said:
        say(line)
    works = fitted(works, model)
    run = Run(out or RUNS / _run_name(checkpoint, chosen.name, [w.protocol for w in works]))
    return run, evaluate(run, works, model, chosen.name, progress)


def _own_works(
    protocols: Sequence[Protocol], wanted: Sequence[Sequence[str]], batch_size: int
) -> list[Work]:
    """Each protocol with the rewards that its suite names; one that cannot be had is refused with a way round it."""
    keys = list(dict.fromkeys(key for some in wanted for key in some))
    loaded = load_named(keys)
    full = [[loaded[key].info.key for key in some] for some in wanted]
    return plan(protocols, {r.info.key: r for r in loaded.values()}, batch_size, full)


def train_checkpoint(
    recipe: str | None,
    settings: Sequence[str],
    top: Mapping[str, Any],
    *,
    out: Path | None,
    resume: Path | None,
    progress: Progress,
    say: Callable[[str], None],
    allowed: Allowed = NOTHING,
) -> tuple[Path, list[Change]]:
    """Train by a recipe, or go on with a run.

    Args:
        recipe: a shipped recipe's name or a file; None takes pocket's for the algorithm, or the resumed run's own.
        settings: `section.key=value` each.
        top: values of the recipe's top-level keys; None leaves one as it is.
        out: folder of a new run; None makes one under `runs/`.
        resume: folder of a run to go on with.
        progress: called as the work goes on.
        say: told in words what happens.
        allowed: what of a checkpoint is refused unless the user says otherwise.

    Returns:
        The run's folder, and held-out metrics before and after.

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
    """
    quiet()
    if resume:
        if out:
            raise ConfigError("--resume goes on in its own folder; leave out --out")
        named = [f"{k}={v}" for k, v in top.items() if v is not None]
        asked = load_recipe(recipe, settings, **top) if recipe else None
        whole = resumed_recipe(resume, asked, [*named, *settings])
        return resume, training(
            whole, resume, resume=True, progress=progress, say=say, allowed=allowed
        )
    whole = load_recipe(recipe or POCKET_RECIPES.get(top["algorithm"], "pocket"), settings, **top)
    folder = out or _fresh(f"train-{whole.name}")
    return folder, training(
        whole, folder, resume=False, progress=progress, say=say, allowed=allowed
    )


def train_seeds(
    recipe: str | None,
    settings: Sequence[str],
    top: Mapping[str, Any],
    text: str,
    *,
    out: Path | None,
    progress: Progress,
    say: Callable[[str], None],
    allowed: Allowed = NOTHING,
) -> tuple[Path, list[Change]]:
    """Train one recipe with several seeds, one after the other; seeds that are finished are kept.

    Args:
        recipe: as for `train_checkpoint`.
        settings: as for `train_checkpoint`.
        top: as for `train_checkpoint`.
        text: the seeds, such as `0,1,2`.
        out: the parent of the runs; None makes one under `runs/`.
        progress: called as the work goes on.
        say: told in words what happens.
        allowed: as for `train_checkpoint`.

    Returns:
        The parent, and held-out metrics before and after, the mean over the seeds.

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
    """
    quiet()
    if top.get("seed") is not None:
        raise ConfigError("--seed and --seeds name seeds twice; leave out --seed")
    numbers = seeds.parse(text)
    name = recipe or POCKET_RECIPES.get(top["algorithm"], "pocket")
    recipes = [load_recipe(name, settings, **{**top, "seed": seed}) for seed in numbers]
    parent = out or _fresh(f"train-{recipes[0].name}-seeds")
    folders = seeds.write_parent(parent, numbers)
    done = seeds.runs_of(parent)
    for whole, folder in zip(recipes, folders, strict=True):
        if folder not in done:
            say(f"seed {whole.seed}: {folder}")
            resume = bool(checkpoints(folder / "checkpoints"))
            training(whole, folder, resume=resume, progress=progress, say=say, allowed=allowed)
    seeds.curves(parent)
    return parent, seeds.read_seeds(parent)


def _fresh(name: str) -> Path:
    """A run folder that is not there yet."""
    numbers = itertools.count(1)
    return next(p for n in numbers if not (p := RUNS / f"{name}-{n}").exists())


def _own_suite(checkpoint: str) -> str:
    suite = own_suite(checkpoint)
    if suite is None:
        known = ", ".join(suite_names() + names())
        raise ConfigError(f"{checkpoint} names no suite of its own; pass --suite, one of {known}")
    return suite


def _run_name(checkpoint: str, suite: str, protocols: list[Protocol]) -> str:
    return f"{folder_name(checkpoint)}-{suite}-{'-'.join(p.hash[:6] for p in protocols)}"


def score_run(folder: Path, rewards: str | None, progress: Progress) -> list[Row]:
    """Score the images of a run, by its own rewards or by others, without generating."""
    quiet()
    run = Run.open(folder)
    protocols, manifest = run.protocols(), run.manifest
    if rewards:
        works = plan(list(protocols.values()), load_rewards(rewards), manifest["batch_size"])
    else:
        own = [list(manifest["rewards"][name]) for name in protocols]
        works = _own_works(list(protocols.values()), own, manifest["batch_size"])
    judges = {w.name: w.rewards for w in works}
    refuse_other_rewards(run, judges)
    run.add_rewards(judges)
    return score(run, works, progress)


def score_list(
    path: Path, rewards: str | None, batch_size: int, out: Path | None, progress: Progress
) -> tuple[list[Row], Path]:
    """Score the images that a list names and write one row an image beside it.

    Raises:
        ConfigError: no rewards named, a broken list, or a reward that cannot judge its prompts.
    """
    quiet()
    if not path.is_file():
        raise ConfigError(f"{path} is neither a run folder nor a list of images")
    if not rewards:
        raise ConfigError(
            "a list of images names no rewards of its own; pass --rewards, such as ocr,jpeg"
        )
    paths, prompts = read_image_list(path)
    judges = load_rewards(rewards)
    for judge in judges.values():
        judge.check(prompts)
    table = pd.DataFrame(
        {
            "prompt_id": [p.id for p in prompts],
            "tag": [p.tag for p in prompts],
            "prompt": [p.text for p in prompts],
            "image": [p.name for p in paths],
        }
    )
    places = [Sample(p, i) for i, p in enumerate(prompts)]
    for key, judge in judges.items():
        parts = []
        for start in range(0, len(paths), batch_size):
            batch = slice(start, start + batch_size)
            scores = score_files(judge, paths[batch], prompts[batch])
            parts.append(score_table(key, places[batch], scores).drop(columns="key"))
            progress(key, min(start + batch_size, len(paths)), len(paths))
        table = pd.concat([table, pd.concat(parts, ignore_index=True)], axis=1)
    written = out or path.with_suffix(".scores.parquet")
    write_table(written, table)
    about = Provenance(
        model=path.parent.resolve().name,
        checkpoint="",
        benchmark=path.name,
        protocol="",
        limited=True,  # nobody knows how these images were made
        by_task=any(table["tag"]),
        date=datetime.date.today(),
    )
    return summarise(table, [j.info for j in judges.values()], about), written
