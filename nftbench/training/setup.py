"""Before a training: everything a recipe names is loaded and checked. Nothing is written."""

import importlib.util
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nftbench.benchmark.samples import Sample
from nftbench.generation.checkpoint import NOTHING, Allowed, LoadedModel, load_model
from nftbench.generation.distillation import warning
from nftbench.generation.machine.hardware import Hardware, device_name
from nftbench.generation.machine.memory import free_memory
from nftbench.generation.recorder.replay import Layout, learn
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import Effective, learn_settings
from nftbench.generation.settings.preflight import check_prompt_seen
from nftbench.runs.lock import LOCK
from nftbench.runs.versions import versions
from nftbench.training.callbacks.checkpoints import checkpoints, stage_of
from nftbench.training.callbacks.metrics_log import HELD_OUT, METRICS
from nftbench.training.callbacks.validation import ValidationSet, validation_sets
from nftbench.training.config.doubts import doubts
from nftbench.training.config.overrides import changed, difference
from nftbench.training.config.recipe import AUTO, Recipe, Stage
from nftbench.training.config.record import (
    RECIPE,
    RunRecord,
    as_chosen,
    prompts_digest,
    reward_digest,
    stored_recipe,
)
from nftbench.training.policy.memory import chosen_by_memory
from nftbench.training.policy.precision import chosen_by_device
from nftbench.training.policy.targets import passed_over
from nftbench.training.policy.trained import TrainedPolicy
from nftbench.training.processes import TrainingProcesses
from nftbench.training.stages import RewardSet, StageData, WeightedReward, stage_data
from rewards.base import ConfigError, MissingExtra, Prompt

BASE, PROMPTS, REWARD = "base", "prompts of stage", "reward"
"""What a run's digests are of."""
OF_EVERY_STAGE = re.compile(r"\s*stages\.(?P<key>\w+)")
"""Beginning of a setting of all stages."""
SHAPE = ("method", "rank", "alpha", "targets", "dtype")
"""Settings of the policy with which its weights mean another policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a recipe comes to on this machine."""

    recipe: Recipe
    folder: Path
    """The run's."""
    processes: TrainingProcesses
    stages: Sequence[StageData]
    base: LoadedModel
    policy: TrainedPolicy
    settings: Effective
    """How images are drawn, as the network sees it."""
    layout: Layout
    """How the pipeline calls its network."""
    trained: Sequence[WeightedReward]
    watched: Sequence[WeightedReward]
    """Rewards that are measured and never trained on: those of weight 0, and those of held-out prompts alone."""

    def refuse_written_over(self) -> None:
        """Refuse, in all processes, a base that was changed in its files: see `LoadedModel`."""
        self.processes.agreed(self.base.refuse_written_over)

    def validation_sets(self, *, whole: bool) -> list[ValidationSet]:
        """Of trained and watched rewards; `whole` as `validation.validation_sets` has it."""
        rewards = [*self.trained, *self.watched]
        alone = self.settings.one_by_one
        return validation_sets(self.recipe, rewards, self.base, whole=whole, alone=alone)

    def digests(self) -> dict[str, str]:
        """Of the base, of each stage's prompts and of each reward: see `config/record.py`."""
        prompts = {
            f"{PROMPTS} {number}": prompts_digest(data.prompts)
            for number, data in enumerate(self.stages, start=1)
        }
        rewards = {
            f"{REWARD} {r.key}": reward_digest(r.reward.info)
            for r in [*self.trained, *self.watched]
        }
        return {BASE: self.base.digest} | prompts | rewards

    def made_with(self) -> dict[str, str]:
        """What moves a number beside them: versions and the device, likewise."""
        found = {f"version of {package}": version for package, version in versions().items()}
        return found | {"device": device_name(self.processes.device)}


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
    processes: TrainingProcesses,
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
    described = [_described(number, data) for number, data in enumerate(stages, start=1)]
    for line in (*described, *doubts(recipe)):
        say(line)
    recipe, base = _loaded(recipe, processes, say, allowed)
    suspicion = warning(base.pipeline)
    for line in (*base.said, *[f"warning: {suspicion}"] * bool(suspicion)):
        say(line)
    policy = TrainedPolicy(base.pipeline, recipe.policy, seed=recipe.seed)
    if warned := passed_over(policy.denoiser, recipe.policy):
        say(warned)
    settings = _settings(base, recipe)
    layout = learn(base.pipeline, lambda texts: _draw_briefly(base, settings, texts))
    settings = check_prompt_seen(
        base.pipeline, settings, stages[0].prompts, recipe.stages[0].group_size
    )
    say(_drawing(settings))
    stages = [_guided(data, base, recipe) for data in stages]
    asked = [r for data in stages for r in data.rewards]
    trained = {r.key: r for r in asked if r.spec.weight}
    asked += reward_set.listed(recipe.evaluation.held_out_rewards)
    watched = {r.key: r for r in asked if r.key not in trained}
    return Setup(
        recipe=recipe,
        folder=folder,
        processes=processes,
        stages=stages,
        base=base,
        policy=policy,
        settings=settings,
        layout=layout,
        trained=list(trained.values()),
        watched=list(watched.values()),
    )


def _loaded(
    recipe: Recipe, processes: TrainingProcesses, say: Callable[[str], None], allowed: Allowed
) -> tuple[Recipe, LoadedModel]:
    """The checkpoint, and the recipe with what it leaves to the machine (`auto`) decided, the same in all processes."""

    def load(dtype: str) -> LoadedModel:
        hardware = Hardware(dtype=None if dtype == AUTO else dtype, device=str(processes.device))
        return load_model(recipe.checkpoint, hardware=hardware, allowed=allowed)

    policy = chosen_by_device(recipe.policy, processes, say)
    recipe, base = recipe.model_copy(update={"policy": policy}), load(policy.dtype)
    if not policy.automatic:
        return recipe, base
    free = min(processes.gather([free_memory(processes.device)]))
    free //= processes.count if processes.device.type == "cpu" else 1  # one memory for all
    settings, images = _settings(base, recipe), recipe.rollout.batch_size
    policy = chosen_by_memory(base.pipeline, settings, recipe.policy, images, free, say)
    if policy.dtype != base.dtype:
        del base  # two do not fit
        base = load(policy.dtype)
    return recipe.model_copy(update={"policy": policy}), base


def _settings(base: LoadedModel, recipe: Recipe) -> Effective:
    """What the recipe asks, else the checkpoint for itself, fitted to the pipeline as in an evaluation."""
    steps = {"num_inference_steps": recipe.stages[0].num_inference_steps}
    sampling = recipe.rollout.sampling.filled(base.own).model_copy(update=steps)
    settings = learn_settings(base.pipeline, sampling)
    if settings.one_by_one:
        raise ConfigError(
            f"{type(base.pipeline).__name__} draws one image a call; training needs a pipeline that takes several "
            "prompts with a generator each"
        )
    return settings


def _guided(data: StageData, base: LoadedModel, recipe: Recipe) -> StageData:
    """The stage with the settings of its guided rollouts, where it has any.

    Raises:
        ConfigError: the pipeline has no classifier-free guidance of this scale.
    """
    scale, steps = data.stage.guided, data.stage.num_inference_steps
    if scale is None:
        return data
    guidance = {"guidance": "cfg", "guidance_scale": scale, "num_inference_steps": steps}
    sampling = recipe.rollout.sampling.model_copy(update=guidance).filled(base.own)
    return replace(data, guided=learn_settings(base.pipeline, sampling))


def _draw_briefly(base: LoadedModel, settings: Effective, texts: list[str]) -> None:
    """Few steps that show how the pipeline calls its network."""
    batch = [Sample(Prompt(id=str(i), text=text), 0) for i, text in enumerate(texts)]
    try:
        generate(base.pipeline, batch, settings.at(num_inference_steps=3))
    except ConfigError:  # some few-step models take two alone
        generate(base.pipeline, batch, settings.at(num_inference_steps=2))


def _drawing(settings: Effective) -> str:
    scale = "" if settings.guidance_scale in (None, 1) else f" {settings.guidance_scale:g}"
    alone = ", one image a call (in a batch it would depend on the others)"
    return (
        f"rollouts: {settings.height}x{settings.width}, {settings.num_inference_steps} steps, guidance "
        f"{settings.guidance}{scale}{alone if settings.one_by_one else ''}"
    )


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


def refuse_used_folder(folder: Path, name: str) -> None:
    """Refuse to begin in a folder that holds anything but a run that was cut before its first checkpoint.

    Args:
        folder: the run's.
        name: the recipe's, which loggers name their folder by.

    Raises:
        ConfigError: says what it holds, and how that is resumed where it can be.
    """
    if not folder.is_dir():
        return
    if checkpoints(folder / "checkpoints"):
        raise ConfigError(
            f"{folder} holds a training run; resume it with --resume {folder}, or choose another --out"
        )
    own = {RECIPE, METRICS, HELD_OUT, "grids", "checkpoints", name}
    found = sorted(p.name for p in folder.iterdir() if not p.name.startswith((LOCK, ".nftbench-")))
    others = [n for n in found if n not in own]
    if others or (found and RECIPE not in found):
        raise ConfigError(
            f"{folder} is not empty: it holds {(others or found)[0]}; choose a new folder for --out"
        )


def refuse_other_run(setup: Setup, record: RunRecord, changes: Collection[str]) -> None:
    """Refuse to resume a run as another one.

    Args:
        setup: what the recipe comes to now.
        record: what the run was begun with.
        changes: names of the settings that were changed.

    Raises:
        ConfigError: another base, policy, prompts under an old name, or a reward that is another one now.
    """
    shape = [c for c in changes if c.startswith(tuple(f"policy.{k}" for k in SHAPE))]
    if shape:
        raise ConfigError(
            f"{shape[0]} cannot be changed on resume: the checkpoint's weights would be another policy; leave it as "
            "it was, or start another run"
        )
    for what, now in setup.digests().items():
        then = record.digests.get(what, now)
        if then == now or (what.startswith(PROMPTS) and _prompts_renamed(what, changes)):
            continue
        raise ConfigError(
            f"{what} of {setup.folder} had digest {then} when the run began and has {now} now; restore it, "
            f"{'give the new one another name, ' * what.startswith(REWARD)}or start another run"
        )


def _prompts_renamed(what: str, changes: Collection[str]) -> bool:
    """Whether the user named other prompts, or rewards that choose among them."""
    stage = f"stages.{int(what.removeprefix(PROMPTS)) - 1}"
    return any(c.startswith((f"{stage}.prompts", f"{stage}.rewards")) for c in changes)


def _passed(folder: Path) -> int:
    """How many stages of a run are behind it."""
    found = checkpoints(folder / "checkpoints")
    return stage_of(found[-1]) if found else 0


def _as_passed(recipe: Recipe, passed: Sequence[Stage], settings: Sequence[str]) -> Recipe:
    """A recipe whose first stages keep what settings of all stages would change: nobody goes back to them."""
    keys = [found["key"] for s in settings if (found := OF_EVERY_STAGE.match(s))]
    kept = [
        stage.model_copy(update={key: getattr(old, key) for key in keys})
        for stage, old in zip(recipe.stages, passed, strict=False)
    ]
    return recipe.model_copy(update={"stages": (*kept, *recipe.stages[len(kept) :])})


def _refuse_passed(own: Recipe, passed: Sequence[Stage]) -> None:
    """Refuse to change a stage that is behind: it would stand in the run's history and change nothing.

    Raises:
        ConfigError: names stage and setting.
    """
    for number, (old, new) in enumerate(zip(passed, own.stages, strict=False)):
        for key in Stage.model_fields:
            was, wanted = getattr(old, key), getattr(new, key)
            if was != wanted:
                raise ConfigError(
                    f"stage {number + 1} is behind this run, with {key} {was}; leave out stages[{number}].{key} "
                    f"{wanted}, or set it for a later stage"
                )


def resumed_recipe(folder: Path, named: Recipe | None, settings: Sequence[str]) -> Recipe:
    """The recipe that a run is resumed with: its own, but for what the command line names.

    What is set for every stage, such as `--iterations N`, is set for those that are not behind.

    Args:
        folder: the run's.
        named: a recipe that the user named as well, settings applied; None where none was.
        settings: the user's `section.key=value`.

    Raises:
        ConfigError: the named recipe differs from the run's own in more than the settings, or a setting is of a stage
            that is behind.
    """
    before = stored_recipe(folder)
    passed = before.stages[: _passed(folder)]
    own = _as_passed(changed(before, settings), passed, settings)
    _refuse_passed(own, passed)
    named = named and _as_passed(named, passed, settings)
    if named is None:
        return own
    other = difference(as_chosen(named, own), own)
    if other:
        raise ConfigError(
            f"{folder} was started with another recipe ({', '.join(other[:5])} differ); leave out --recipe, or name "
            "each change with --set"
        )
    return own
