"""What a stage trains on: its prompts, and the rewards that judge them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rewards as registry
from nftbench.benchmark.prompts import load_prompts
from nftbench.benchmark.registry import load_benchmark, names
from nftbench.training.config.recipe import Recipe, Stage
from nftbench.training.rollouts import WeightedReward
from rewards.base import ConfigError, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What one stage trains on."""

    stage: Stage
    prompts: Sequence[Prompt]
    judges: Sequence[WeightedReward]
    left_out: int = 0
    """Prompts that were named and that not all judges can judge."""


class RewardSet:
    """Rewards by their names in a recipe, each loaded once."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._variants, self._device = recipe.variants, device
        self._loaded: dict[str, Any] = {}

    def listed(self, text: str) -> list[WeightedReward]:
        """The judges of `ocr,pickscore:0.5`."""
        if not text:
            return []
        specs = registry.parse_rewards(",".join(map(self._full, text.split(","))))
        return [WeightedReward(spec, self._load(spec.key)) for spec in specs]

    def _full(self, item: str) -> str:
        name, colon, weight = (part.strip() for part in item.partition(":"))
        variant = self._variants.get(name)
        return f"{name}@{variant}{colon}{weight}" if variant else item

    def _load(self, key: str) -> Any:
        if key not in self._loaded:
            self._loaded[key] = registry.load_reward(key, device=self._device)
        return self._loaded[key]


def task_of(stage: Stage, judges: RewardSet) -> Task:
    """A stage's prompts and judges: the prompts that all judges can judge, or, where there are none, that any can."""
    mine = judges.listed(stage.rewards)
    everything = [p for place, name in enumerate(stage.prompts) for p in _prompts(name, place)]
    ids = [p.id for p in everything]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"prompt id {twice!r} stands in two of {', '.join(stage.prompts)}; give one of them another id"
        )
    for fits in (all, any):
        prompts = [p for p in everything if fits(j.applies(p) for j in mine)]
        if prompts:
            break
    unused = [j.spec.key for j in mine if not any(j.applies(p) for p in prompts)]
    if unused or not prompts:
        mine[0].reward.check(everything)
        raise ConfigError(
            f"reward {', '.join(unused)} applies to none of the prompts of {', '.join(stage.prompts)}"
        )
    left_out = len(everything) - len(prompts)
    return Task(stage=stage, prompts=prompts, judges=mine, left_out=left_out)


def _prompts(name: str, place: int) -> list[Prompt]:
    if name in names():
        return load_benchmark(name).load_training()
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"no prompts {name!r}: neither a file nor a benchmark ({', '.join(names())})"
        )
    layout = "geneval" if path.suffix == ".jsonl" else "text"
    return load_prompts(path, layout, prefix=f"t{place}-")
