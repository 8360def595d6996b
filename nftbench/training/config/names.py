"""What a recipe names: rewards, prompts, benchmarks. Looked up here without loading any of it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rewards as registry
from nftbench.benchmark.registry import known, load_benchmark, names
from nftbench.generation.sources.packaged import place_of
from nftbench.generation.sources.reference import INDEX, parse
from nftbench.parsing import whole_number
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.recipe import Recipe
from rewards import RewardSpec
from rewards.base import ConfigError
from rewards.own import as_named

REWARDS = (".rewards", ".held_out_rewards")
"""Ends of the names of settings that list rewards."""
RECIPE = "pocket"
"""What is done when no recipe is named."""
BY_ALGORITHM = {"flow-grpo": "pocket-flow-grpo"}
"""The same for another algorithm than NFT."""
BY_REWARDS = {
    frozenset({"geneval"}): "pocket-geneval",
    frozenset({"ocr"}): "pocket-ocr",
    frozenset({"ocr", "pickscore"}): "pocket-ocr",
}
"""The same where pocket is trained on these rewards alone: what found more, or as much in less time (`evidence`)."""


def recipe_name(recipe: str | None, settings: Sequence[str], top: Mapping[str, Any]) -> str:
    """The recipe that is meant.

    Args:
        recipe: as the user named it; None looks for the one that fits.
        settings: `section.key=value` each, the rewards among them if any were asked for.
        top: values of top-level keys. Another checkpoint than pocket gets `RECIPE`, which asks nothing of a pipeline.

    Raises:
        ConfigError: as `load_recipe` and `listed_rewards`.
    """
    fixed = recipe or BY_ALGORITHM.get(top.get("algorithm") or "")
    if fixed or top.get("checkpoint") not in (None, "pocket"):
        return fixed or RECIPE
    whole = load_recipe(RECIPE, settings, **top)
    specs = [spec for stage in whole.stages for spec in listed_rewards(whole, stage.rewards)]
    return BY_REWARDS.get(frozenset(s.key.partition("@")[0] for s in specs), RECIPE)


def with_files(settings: Sequence[str]) -> list[str]:
    """A user's settings; where they name rewards of files, these are run, and the recipe holds their keys.

    Raises:
        ConfigError: as `rewards.add_files`.
    """
    found = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        if path.strip().endswith(REWARDS) and ".py" in value:
            value = registry.add_files(value.strip().strip("\"'"))
        found.append(f"{path}{equals}{value}")
    return found


def files_again(recipe: Recipe) -> str:
    """The flags that name a recipe's rewards of files again, for a command that goes on; empty where it has none."""
    lists = {f"stages[{n}].rewards": stage.rewards for n, stage in enumerate(recipe.stages)}
    if len(set(lists.values())) == 1:
        lists = {"": recipe.stages[0].rewards}
    lists["evaluation.held_out_rewards"] = recipe.evaluation.held_out_rewards
    again = {setting: as_named(text) for setting, text in lists.items()}
    words = [
        f" --set {shlex.quote(f'{setting}={text}')}"
        if setting
        else f" --rewards {shlex.quote(text)}"
        for setting, text in again.items()
        if text != lists[setting]
    ]
    return "".join(words)


def listed_rewards(recipe: Recipe, text: str) -> tuple[RewardSpec, ...]:
    """The rewards of `ocr,pickscore:0.5`, a bare name as the recipe's `variants` has it; none of an empty text.

    Raises:
        ConfigError: as `rewards.parse_rewards`.
    """
    if not text:
        return ()
    return registry.parse_rewards(",".join(_full(recipe, item) for item in text.split(",")))


def prompt_file(name: str) -> Path | None:
    """The file that a stage's prompts are in; None where the name is a benchmark's.

    Raises:
        ConfigError: neither.
    """
    if name in names():
        return None
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix:
        raise ConfigError(f"no prompt file {name}: there is no such file")
    known(name, names(), "prompts")
    return None


def refuse_unknown(recipe: Recipe) -> None:
    """Refuse a recipe that names what is not there, whose rewards all weigh nothing, or that weighs what it watches.

    Raises:
        ConfigError: the near name is suggested.
    """
    for name, variant in recipe.variants.items():  # also those that no stage trains on
        registry.resolve(f"{name}@{variant}")
    watched = listed_rewards(recipe, recipe.evaluation.held_out_rewards)
    weighed = next((spec.key for spec in watched if spec.weight != 1), None)
    if weighed:
        raise ConfigError(
            f"evaluation.held_out_rewards weighs {weighed}, which is not trained on; write it without a weight"
        )
    for number, stage in enumerate(recipe.stages, start=1):
        specs = listed_rewards(recipe, stage.rewards)
        if not specs:
            raise ConfigError(
                f"stage {number} names no rewards; expected some, such as ocr,pickscore"
            )
        if not any(spec.weight for spec in specs):
            raise ConfigError(
                f"rewards {stage.rewards!r} of stage {number} all have weight 0: nothing would be trained; "
                "give one a weight above 0"
            )
        for name in stage.prompts:
            prompt_file(name)
    for name in recipe.evaluation.benchmarks:
        load_benchmark(name)


def refuse_within(folder: Path, checkpoint: str) -> None:
    """Refuse a folder within one of weights that it is made from: what is written would make them others by digest.

    Raises:
        ConfigError: names both; such a run could neither be resumed nor evaluated.
    """
    named = parse(checkpoint)
    base = place_of(named.base)
    places = [base] * (base / INDEX).is_file() + [Path(part.source) for part in named.parts]
    for place in places:
        if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
            raise ConfigError(
                f"{folder} lies within the checkpoint {place}, which it would make another one; choose an --out beside "
                "it"
            )


def _full(recipe: Recipe, item: str) -> str:
    name, colon, weight = (part.strip() for part in item.partition(":"))
    variant = recipe.variants.get(name)
    return f"{name}@{variant}{colon}{weight}" if variant else item


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0,1,2`.

    Raises:
        ConfigError: no whole numbers, or one of them twice.
    """
    numbers = [whole_number(part.strip()) for part in text.split(",")]
    seeds = [number for number in numbers if number is not None]
    if len(seeds) < len(numbers):
        raise ConfigError(
            f"expected --seeds as whole numbers with commas, such as 0,1,2, got {text!r}"
        )
    twice = sorted({s for s in seeds if seeds.count(s) > 1})
    if twice:
        raise ConfigError(f"seed {twice[0]} stands twice in --seeds {text}; a run a seed is enough")
    return seeds
