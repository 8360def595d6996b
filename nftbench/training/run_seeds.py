"""The runs of several seeds, one after the other under one parent: what `seeds.py` reads as one result."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nftbench.generation.checkpoint import Allowed
from nftbench.runs.seeds import is_parent, noted
from nftbench.stats.paired import Change
from nftbench.training import Diverged, Interrupted, TrainingFailed, seeds
from nftbench.training.callbacks.checkpoints import checkpoints
from nftbench.training.callbacks.metrics_log import stop_of
from nftbench.training.config.recipe import Recipe
from nftbench.training.run import train
from rewards.base import Progress

Say = Callable[[str], None]


def train_all(
    recipes: Sequence[Recipe], parent: Path, *, progress: Progress, say: Say, allowed: Allowed
) -> list[Change]:
    """Train what is not finished, and draw the mean; one seed that goes wrong by itself does not stop the others.

    Args:
        recipes: one recipe with a seed each.
        parent: new, or of further seeds of this recipe.
        progress: as for `run.train`, like the rest.
        say: told in words what happens.
        allowed: what of a checkpoint is refused unless the user says otherwise.

    Returns:
        Held-out metrics before and after, the mean over all finished seeds of the parent.

    Raises:
        ConfigError: the parent's seeds are of another recipe, or one cannot be trained.
        TrainingFailed: seeds went wrong by themselves, named with the reason once all others are trained.
    """
    if is_parent(parent):
        seeds.refuse_other_recipes(parent, recipes[0])
    with noted(parent, [recipe.seed for recipe in recipes]) as folders:
        pairs = list(zip(recipes, folders, strict=True))
        ends = [_train(recipe, folder, progress, say, allowed) for recipe, folder in pairs]
    changes = seeds.read_seeds(parent)
    seeds.curves(parent)
    for words in seeds.unfinished(parent):
        say(f"warning: {parent}: {words}")
    wrong = [f"seed {r.seed}: {why}" for r, why in zip(recipes, ends, strict=True) if why]
    if wrong:
        raise TrainingFailed(
            f"{'; '.join(wrong)}; left out of the mean of {parent}, whose other seeds are trained: "
            f"nftbench report {parent}"
        )
    return changes


def _train(recipe: Recipe, folder: Path, progress: Progress, say: Say, allowed: Allowed) -> str:
    """Train one seed, unless it is finished; why it went wrong by itself, or nothing.

    One that a guard stopped is left as it is: going on would end in a policy that counts like any other.
    """
    if seeds.is_finished(folder):
        return ""
    say(f"seed {recipe.seed}: {folder}")
    if reason := stop_of(folder):
        return f"stopped by guard {reason}; to go on all the same: nftbench train --resume {folder}"
    recipe = seeds.as_begun(recipe, folder)
    resume = bool(checkpoints(folder / "checkpoints"))
    try:
        train(recipe, folder, resume=resume, progress=progress, say=say, allowed=allowed)
    except Diverged as failed:
        say(f"seed {recipe.seed}: {failed}")
        return str(failed)
    except Interrupted as stopped:
        again = f"all seeds go on by the same command with --out {folder.parent}"
        raise Interrupted(f"{stopped}; {again}") from None
    return ""
