"""What the commands do: names and flags in, rows out. The engine's parts, put together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import rewards as registry
from nftbench.benchmark.registry import load_benchmark, load_suite, names, protocols_of, suite_names
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.alarms import Alarm, table_alarms
from nftbench.evaluation.evaluate import evaluate, score
from nftbench.evaluation.image_lists import score_list
from nftbench.evaluation.needs import all_lacking
from nftbench.evaluation.planning import Work, fitted, own_works, plan, prompts_of
from nftbench.evaluation.scoring.in_turn import Turns
from nftbench.evaluation.scoring.loading import load_rewards, quiet, refuse_unnamed_files
from nftbench.evaluation.services import refuse_hardware, service_works
from nftbench.generation.checkpoint import (
    NOTHING,
    Allowed,
    LoadedModel,
    load_model,
    own_suite,
)
from nftbench.generation.image_service import ImageService, is_service, load_service
from nftbench.generation.machine.hardware import Hardware
from nftbench.runs.lock import new_folder
from nftbench.runs.processes import Processes
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import RUNS, Run, folder_name
from nftbench.runs.seeds import folder_of, is_parent, seeds_of, write_parent
from nftbench.stats.paired import Change
from nftbench.training import seeds
from nftbench.training.config.names import (
    BY_REWARDS,
    parse_seeds,
    recipe_name,
    refuse_unknown,
    refuse_within,
    with_files,
)
from nftbench.training.config.overrides import load_recipe
from nftbench.training.run import train as training
from nftbench.training.run_seeds import train_all
from nftbench.training.setup import resumed_recipe
from rewards.base import ConfigError, Progress


def evaluate_checkpoint(
    checkpoint: str | LoadedModel,
    suite: str | None,
    settings: Mapping[str, Any],
    *,
    rewards: str | None,
    batch_size: int,
    out: Path | None,
    progress: Progress,
    allowed: Allowed = NOTHING,
    hardware: Hardware = Hardware(),  # noqa: B008 (frozen)
    reward_device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    retry_failed: bool = True,
) -> tuple[Run, list[Row]]:
    """Evaluate a checkpoint on a suite.

    Args:
        checkpoint: as `load_model` takes it, or a model that is loaded already.
        suite: a suite's or benchmark's name; None takes the checkpoint's own.
        settings: protocol fields the user changed; None leaves one as the benchmark has it.
        rewards: rewards instead of the benchmarks' own, comma-separated.
        batch_size: images made at once.
        out: run folder; None makes one under `runs/` whose name holds the protocols' hash.
        progress: called as the work goes on.
        allowed: what is refused unless the user says otherwise.
        hardware: on what it runs, and how; a dtype among the settings is meant where this names none.
        reward_device: where rewards run; None is the GPU where there is one.
        say: told in words what was loaded.
        retry_failed: whether images that a reward failed on before are scored again.

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
    """
    quiet()
    processes = Processes.joined()  # first: each has a device of its own
    out = named(out)
    name, ready = _name_and_model(checkpoint)
    if isinstance(ready, ImageService):
        refuse_hardware(ready, hardware, allowed)
    if ready is None:
        refuse_within(out or RUNS, name)
    suite = _own_suite(name, ready) if suite is None else _filled("--suite", suite)
    chosen = load_suite(suite)
    wanted = protocols_of(chosen, **settings)
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out takes a folder")
    turns = Turns(reward_device, map(prompts_of, wanted))
    works = _works(suite, wanted, rewards, batch_size, turns)
    if isinstance(ready, ImageService):  # before anything is loaded or asked
        works = service_works(works, settings)
    hardware = replace(hardware, dtype=hardware.dtype or settings.get("dtype"))
    model = ready or load_model(name, hardware=hardware, allowed=allowed)
    if isinstance(model, LoadedModel) and hardware.dtype not in (None, model.dtype):
        raise ConfigError(f"{name} is loaded in {model.dtype}, not {hardware.dtype}; cast it first")
    model = replace(model, hardware={**model.hardware, **turns.described})
    for line in model.said:
        say(line)
    works = fitted(works, model) if isinstance(model, LoadedModel) else works
    run = Run(out or RUNS / _run_name(name, chosen.name, [w.protocol for w in works]))
    rows = evaluate(
        run, works, model, chosen.name, progress, retry_failed=retry_failed, processes=processes
    )
    return run, rows


def _name_and_model(checkpoint: str | LoadedModel) -> tuple[str, LoadedModel | ImageService | None]:
    """What a checkpoint is called, and its model where nothing has to be loaded."""
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else None
    name = loaded.name if loaded else str(checkpoint)
    if not name.isprintable():
        raise ConfigError(f"expected a checkpoint's name on one line, got {name!r}")
    return name, loaded or (load_service(name) if is_service(name) else None)


def _works(
    suite: str,
    wanted: Mapping[Protocol, Sequence[str]],
    rewards: str | None,
    batch_size: int,
    turns: Turns,
) -> list[Work]:
    """The works of a suite; where one of its own rewards is missing, everything that is missing is said at once."""
    if rewards is not None:
        return plan(list(wanted), load_rewards(_named_rewards(rewards), turns), batch_size)
    if bare := [protocol.benchmark for protocol, keys in wanted.items() if not keys]:
        raise ConfigError(f"{bare[0]} names no rewards; pass --rewards, such as ocr,jpeg")
    try:
        return own_works(list(wanted), list(wanted.values()), batch_size, turns)
    except ConfigError as error:
        raise type(error)(all_lacking(suite) or str(error)) from None


def seeds_to_evaluate(
    checkpoint: str,
    suite: str | None,
    out: Path | None,
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, Path | None]]:
    """The trainings of a parent, each with the run folder of its evaluation; nothing of any other checkpoint.

    Args:
        checkpoint: the parent that `nftbench train --seeds` made, or any other checkpoint.
        suite: as for `evaluate_checkpoint`.
        out: the parent of the evaluations; None makes one under `runs/`.
        say: told which seeds are left out.

    Raises:
        ConfigError: no seed is finished, or `out` belongs to something else.
    """
    parent = Path(checkpoint)
    if not is_parent(parent):
        return []
    runs = seeds.runs_of(parent)
    if not runs:
        raise ConfigError(f"{parent} holds no finished training yet; run nftbench train again")
    seeds.refuse_other_seeds(runs)
    for words in seeds.unfinished(parent):
        say(f"warning: {parent}: {words}")
    kept = [seed for seed in seeds_of(parent) if folder_of(parent, seed) in runs]
    name = f"{folder_name(parent.resolve().name)}-{folder_name(suite or 'eval')}"
    folders = write_parent(named(out) or RUNS / name, kept)
    return [(str(run), folder) for run, folder in zip(runs, folders, strict=True)]


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
        recipe: a shipped recipe's name or a file; None takes pocket's for the algorithm and the rewards, or the
            resumed run's own.
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
    out, settings = named(out), with_files(settings)
    if resume:
        if out:
            raise ConfigError("--resume goes on in its own folder; leave out --out")
        top_settings = [f"{k}={v}" for k, v in top.items() if v is not None]
        named_recipe = load_recipe(recipe, settings, **top) if recipe else None
        whole = resumed_recipe(resume, named_recipe, [*top_settings, *settings])
        refuse_unknown(whole)
        return resume, training(
            whole, resume, resume=True, progress=progress, say=say, allowed=allowed
        )
    whole = load_recipe(_recipe_name(recipe, top, settings, say), settings, **top)
    folder = out or _fresh(f"train-{whole.name}")
    try:
        return folder, training(
            whole, folder, resume=False, progress=progress, say=say, allowed=allowed
        )
    finally:
        if out is None:
            _remove_empty(folder, RUNS)


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
        TrainingFailed: seeds that went wrong by themselves; the others were trained all the same.
    """
    quiet()
    out, settings = named(out), with_files(settings)
    if top.get("seed") is not None:
        raise ConfigError("--seed and --seeds name seeds twice; leave out --seed")
    numbers = parse_seeds(text)
    name = _recipe_name(recipe, top, settings, say)
    recipes = [load_recipe(name, settings, **{**top, "seed": seed}) for seed in numbers]
    named_twice = next((r.seed for r, n in zip(recipes, numbers, strict=True) if r.seed != n), None)
    if named_twice is not None:
        raise ConfigError(
            f"--set seed={named_twice} and --seeds name seeds twice; leave out --set seed"
        )
    parent = out or _fresh(f"train-{recipes[0].name}-seeds")
    return parent, train_all(recipes, parent, progress=progress, say=say, allowed=allowed)


def _recipe_name(
    recipe: str | None,
    top: Mapping[str, Any],
    settings: Sequence[str],
    say: Callable[[str], None],
) -> str:
    """The recipe that is meant; where the rewards chose it, the user is told."""
    name = recipe_name(recipe, settings, top)
    if recipe is None and name in BY_REWARDS.values():
        say(f"recipe {name}: made for these rewards of pocket; --recipe names another")
    return name


def _fresh(name: str) -> Path:
    """A new run folder, one for all processes that torchrun started."""
    return Processes.joined().from_main(lambda: new_folder(RUNS, name))


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _own_suite(checkpoint: str, ready: LoadedModel | ImageService | None) -> str:
    suite = None if ready else own_suite(checkpoint)
    if suite is None:
        what, flag = (f"{ready.kind} ", "suite") if ready else ("", "--suite")
        raise ConfigError(
            f"{what}{checkpoint} names no suite of its own; pass {flag}, one of "
            f"{', '.join(suite_names() + names())}"
        )
    return suite


def _run_name(checkpoint: str, suite: str, protocols: list[Protocol]) -> str:
    return f"{folder_name(checkpoint)}-{suite}-{'-'.join(p.hash[:6] for p in protocols)}"


def score_run(
    folder: Path,
    rewards: str | None,
    progress: Progress,
    *,
    retry_failed: bool = True,
    reward_device: str | None = None,
) -> list[Row]:
    """Score the images of a run, by its own rewards or by others, without generating."""
    quiet()
    processes = Processes.joined()
    run = Run.open(folder)
    protocols, manifest = run.protocols(), run.manifest
    turns = Turns(reward_device, map(prompts_of, protocols.values()))
    if rewards is not None:
        listed = load_rewards(_named_rewards(rewards), turns)
        works = plan(list(protocols.values()), listed, manifest["batch_size"])
    else:
        own = [
            list(manifest["rewards"][name]) or load_benchmark(protocol.benchmark).rewards
            for name, protocol in protocols.items()
        ]
        if not any(own):
            raise ConfigError(
                f"{folder} was scored by nothing yet, and its prompts name no rewards; pass --rewards, such as ocr,jpeg"
            )
        for known in manifest["rewards"].values():
            refuse_unnamed_files(known)
        works = own_works(list(protocols.values()), own, manifest["batch_size"], turns)
    noted = reward_device or "reward_device" in manifest.get("hardware", {})
    return score(
        run,
        works,
        progress,
        retry_failed=retry_failed,
        processes=processes,
        hardware=turns.described if noted else None,
    )


def score_listed(
    path: Path,
    rewards: str | None,
    batch_size: int,
    out: Path | None,
    progress: Progress,
    *,
    reward_device: str | None = None,
) -> tuple[list[Row], list[Alarm], Path]:
    """Score the images that a list names and write one row an image beside it.

    Raises:
        ConfigError: no rewards named, a broken list, or a reward that cannot score its prompts.
    """
    quiet()
    if not path.is_file():
        raise ConfigError(f"{path} is neither a run folder nor a list of images")
    if rewards is None:
        raise ConfigError(
            "a list of images names no rewards of its own; pass --rewards, such as ocr,jpeg"
        )
    loaded = load_rewards(_named_rewards(rewards), Turns(reward_device))
    rows, table, written = score_list(path, loaded, batch_size, named(out), progress)
    return rows, table_alarms(path.name, table, list(loaded)), written


def named(out: Path | None) -> Path | None:
    """Where the user wants something written; an unset variable or a `~` that no shell has replaced is refused."""
    if out is not None and (str(out) == "." or str(out).startswith("~")):
        raise ConfigError(
            f"--out names no place of its own: {str(out)!r}; write a path, such as runs/mine"
        )
    return out


def _named_rewards(rewards: str) -> str:
    """Keys of the rewards that the user names, those of files among them, which are run for it."""
    return registry.add_files(_filled("--rewards", rewards))


def _filled(flag: str, value: str) -> str:
    if not value.strip():
        raise ConfigError(
            f"{flag} is empty; leave it out, or set the variable that it was written with"
        )
    return value
