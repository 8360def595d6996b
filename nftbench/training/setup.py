"""Before a training: everything a recipe names is loaded and checked. Nothing is written."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.checkpoint import NOTHING, Allowed, LoadedModel, load_model
from nftbench.generation.replay import Layout, distilled, learn
from nftbench.generation.sampling import Sample, generate
from nftbench.training.checkpoints import stored_recipe
from nftbench.training.config.overrides import changed, difference
from nftbench.training.config.recipe import Recipe
from nftbench.training.policy import TrainedPolicy
from nftbench.training.processes import Processes
from nftbench.training.stages import RewardSet, StageData, WeightedReward, stage_data
from nftbench.training.validation import ValidationSet, validation_sets
from rewards.base import ConfigError, MissingExtra, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a recipe comes to on this machine."""

    recipe: Recipe
    folder: Path
    """The run's."""
    processes: Processes
    stages: Sequence[StageData]
    base: LoadedModel
    policy: TrainedPolicy
    layout: Layout
    """How the pipeline calls its network."""
    trained: Sequence[WeightedReward]
    watched: Sequence[WeightedReward]
    """Rewards that are measured on held-out prompts and never trained on."""

    def validation_sets(self, *, whole: bool) -> list[ValidationSet]:
        """Of trained and watched rewards; `whole` as `validation.validation_sets` has it."""
        return validation_sets(self.recipe, [*self.trained, *self.watched], whole=whole)


def check_loggers(recipe: Recipe) -> None:
    """Refuse a logger whose package is not there.

    Raises:
        MissingExtra: with the command that installs it.
    """
    missing = [n for n in recipe.loggers if importlib.util.find_spec(n) is None]
    if missing:
        raise MissingExtra(
            f"logger {missing[0]!r} is not installed: pip install 'nftbench[{missing[0]}]', or --set loggers=[]"
        )


def set_up(
    recipe: Recipe,
    folder: Path,
    processes: Processes,
    say: Callable[[str], None],
    allowed: Allowed = NOTHING,
) -> Setup:
    """Load and check what a recipe names.

    Raises:
        ConfigError: anything that cannot be trained.
    """
    device = str(processes.device)
    reward_set = RewardSet(recipe, device)
    stages = [stage_data(stage, reward_set) for stage in recipe.stages]
    _check_groups(recipe, processes.count)
    for number, data in enumerate(stages, start=1):
        say(_described(number, data))
    base = load_model(recipe.checkpoint, dtype=recipe.policy.dtype, device=device, allowed=allowed)
    for line in base.said:
        say(line)
    warning = distilled(base.pipeline, min(s.num_inference_steps for s in recipe.stages))
    if warning:
        say(f"warning: {warning}")
    policy = TrainedPolicy(base.pipeline, recipe.policy, seed=recipe.seed)
    layout = learn(base.pipeline, lambda texts: _draw_briefly(base, recipe, texts))
    trained = {r.key: r for data in stages for r in data.rewards}
    watched = reward_set.listed(recipe.evaluation.held_out_rewards)
    return Setup(
        recipe=recipe,
        folder=folder,
        processes=processes,
        stages=stages,
        base=base,
        policy=policy,
        layout=layout,
        trained=list(trained.values()),
        watched=[r for r in watched if r.key not in trained],
    )


def _draw_briefly(base: LoadedModel, recipe: Recipe, texts: list[str]) -> None:
    """Few steps that show how the pipeline calls its network."""
    parameters = SamplingParameters(
        num_inference_steps=3, **recipe.rollout.model_dump(exclude={"batch_size", "solver"})
    )
    batch = [Sample(Prompt(id=str(i), text=text), 0) for i, text in enumerate(texts)]
    generate(base.pipeline, batch, parameters)


def _check_groups(recipe: Recipe, processes: int) -> None:
    fewest = min(stage.groups for stage in recipe.stages)
    if fewest < processes:
        raise ConfigError(
            f"{fewest} groups an iteration cannot be shared by {processes} processes; "
            f"--set stages.groups={processes} or more, or start fewer processes"
        )


def _described(number: int, data: StageData) -> str:
    left = f"; {data.left_out} others cannot be scored by all of them" if data.left_out else ""
    keys = ", ".join(r.key for r in data.rewards)
    return f"stage {number}: {len(data.prompts)} prompts, scored by {keys}{left}"


def described_work(setup: Setup) -> str:
    """Algorithm, images an iteration and size of what is trained, in words."""
    recipe, stage = setup.recipe, setup.recipe.stages[0]
    images = stage.groups * stage.group_size / stage.updates
    parameters = sum(p.numel() for p in setup.policy.weights.parameters.values())
    return (
        f"{recipe.algorithm}: {stage.groups} groups of {stage.group_size} images an iteration over "
        f"{setup.processes.count} process(es), {stage.updates} optimiser step(s) of {images:g} images each, "
        f"{recipe.rollout.batch_size} at once; {parameters:,} trained parameters"
    )


def resumed_recipe(folder: Path, named: Recipe | None, settings: Sequence[str]) -> Recipe:
    """The recipe that a run is resumed with: its own, but for what the command line names.

    Args:
        folder: the run's.
        named: a recipe that the user named as well, settings applied; None where none was.
        settings: the user's `section.key=value`.

    Raises:
        ConfigError: the named recipe differs from the run's own in more than the settings.
    """
    own = changed(stored_recipe(folder), settings)
    if named is None:
        return own
    other = difference(named, own)
    if other:
        raise ConfigError(
            f"{folder} was started with another recipe ({', '.join(other[:5])} differ); leave out --recipe, or name "
            "each change with --set"
        )
    return own
