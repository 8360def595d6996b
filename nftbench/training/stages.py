"""What a stage trains on: its prompts, and the rewards that score them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import rewards as registry
from nftbench.benchmark.own import bounded, read_prompts
from nftbench.benchmark.prompts import load_prompts
from nftbench.benchmark.registry import load_benchmark
from nftbench.generation.settings.effective import Effective
from nftbench.training.algorithms.advantages import RewardValues
from nftbench.training.config.names import listed_rewards, prompt_file
from nftbench.training.config.recipe import Recipe, Stage
from rewards import RewardSpec
from rewards.base import ConfigError, Prompt, Reward, Scores

LONGEST_PASS = 1_000_000
"""Prompts, each as often as its weights say, that are shuffled anew for every pass."""
NOT_APPLICABLE = "not asked: this reward does not apply to the prompt"
"""Reason of a value that a reward was not asked for; none that a reward gives by itself."""


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward with its weight in the recipe."""

    spec: RewardSpec
    reward: Reward
    _known: dict[tuple, bool] = field(default_factory=dict, repr=False, compare=False)
    """Prompts of which it is known whether it scores them: no prompt is asked about twice."""

    @property
    def key(self) -> str:
        """`name@variant`."""
        return self.spec.key

    @property
    def scale(self) -> float:
        """What training divides its values by; negative where less is better."""
        info = self.reward.info
        return info.train_scale * (1 if info.higher_is_better else -1)

    def applies(self, prompt: Prompt) -> bool:
        """Whether it scores a prompt: the prompt names it or names none, and it can. Decided once."""
        known = (prompt.id, prompt.text, prompt.rewards, repr(prompt.target))
        if known not in self._known:
            named = self.key in prompt.rewards or self.key.partition("@")[0] in prompt.rewards
            self._known[known] = (named or not prompt.rewards) and self._can_score(prompt)
        return self._known[known]

    def _can_score(self, prompt: Prompt) -> bool:
        try:
            self.reward.check([prompt])
        except ConfigError:
            return False
        return True


class RewardSet:
    """Rewards by their names in a recipe, each loaded once."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self._recipe, self._device = recipe, device
        self._loaded: dict[str, Any] = {}

    def listed(self, text: str) -> list[WeightedReward]:
        """The rewards of `ocr,pickscore:0.5`."""
        specs = listed_rewards(self._recipe, text)
        return [WeightedReward(spec, self._load(spec.key)) for spec in specs]

    def _load(self, key: str) -> Any:
        if key not in self._loaded:
            reward = registry.load_reward(key, device=self._device)
            reward.check(
                []
            )  # of no prompt: whether what it needs is there, such as a judge's server
            self._loaded[key] = reward
        return self._loaded[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageData:
    """What one stage trains on."""

    stage: Stage
    prompts: Sequence[Prompt]
    one_pass: Sequence[Prompt]
    """The prompts, each as often as its weights say."""
    rewards: Sequence[WeightedReward]
    left_out: int = 0
    """Prompts that were named and that not all rewards can score."""
    guided: Effective | None = None
    """How the images are drawn where the old policy is guided."""


def stage_data(stage: Stage, reward_set: RewardSet) -> StageData:
    """A stage's rewards, and the prompts that all of them can score, or, where there are none, that any can.

    Raises:
        ConfigError: no such prompts, an id that stands twice, a reward that applies to none of them, or a weight of
            neither a tag nor a benchmark of theirs.
    """
    mine = reward_set.listed(stage.rewards)
    sources = _sources(stage)
    everything = [p for prompts in sources.values() for p in prompts]
    for fits in (all, any):
        prompts = [p for p in everything if fits(r.applies(p) for r in mine)]
        if prompts:
            break
    unused = [r.key for r in mine if not any(r.applies(p) for p in prompts)]
    if unused or not prompts:
        mine[0].reward.check(everything)
        raise ConfigError(
            f"reward {', '.join(unused)} applies to none of the prompts of {', '.join(stage.prompts)}"
        )
    return StageData(
        stage=stage,
        prompts=prompts,
        one_pass=weighted(prompts, stage.prompt_weights, sources),
        rewards=mine,
        left_out=len(everything) - len(prompts),
    )


def weighted(
    prompts: Sequence[Prompt],
    weights: Mapping[str, int],
    sources: Mapping[str, Sequence[Prompt]],
) -> list[Prompt]:
    """A pass over the prompts: each as often as its tag's weight times its source's; 1 where nothing is said.

    Args:
        prompts: those to train on, of one or more of the sources.
        weights: tag, or name in `sources` -> whole number.
        sources: benchmark or file, as the recipe names it -> all of its prompts.

    Raises:
        ConfigError: a weight of what is neither a tag nor a source of these prompts, or a pass that never ends.
    """
    source_of = {p.id: name for name, members in sources.items() for p in members}
    named = {name for p in prompts for name in (p.tag, source_of[p.id]) if name}
    unknown = weights.keys() - named
    if unknown:
        raise ConfigError(
            f"prompt_weights names {', '.join(map(repr, sorted(unknown)))}, which is neither a tag nor a benchmark of "
            f"the prompts of this stage; expected some of {', '.join(sorted(named))}"
        )
    times = [weights.get(p.tag, 1) * weights.get(source_of[p.id], 1) for p in prompts]
    if sum(times) > LONGEST_PASS:
        raise ConfigError(
            f"prompt_weights make a pass of {sum(times):,} prompts, expected at most {LONGEST_PASS:,}; take lower ones "
            "of the same ratio"
        )
    return [p for p, count in zip(prompts, times, strict=True) for _ in range(count)]


def _sources(stage: Stage) -> dict[str, list[Prompt]]:
    """The training prompts of each of a stage's benchmarks or files, no id twice."""
    sources = {name: _prompts(name, number) for number, name in enumerate(stage.prompts)}
    times = Counter(p.id for prompts in sources.values() for p in prompts)
    twice = next((i for i, count in times.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(
            f"prompt id {twice!r} stands in two of {', '.join(stage.prompts)}; give one of them another id"
        )
    return sources


def _prompts(name: str, number: int) -> list[Prompt]:
    """Training prompts of a benchmark, or those of a file; these get ids of their own, for noise is seeded by them."""
    path = prompt_file(name)
    if path is None:
        return load_benchmark(name).load_training()
    if path.suffix == ".csv" or (path.suffix == ".jsonl" and not _is_geneval(path)):
        return [replace(p, id=f"t{number}-{p.id}") for p in read_prompts(path)]
    layout = "geneval" if path.suffix == ".jsonl" else "text"
    return load_prompts(path, layout, prefix=f"t{number}-")


def _is_geneval(path: Path) -> bool:
    """Whether the lines hold GenEval's metadata, or the rewards that each is for."""
    data = bounded(path)
    return b'"include"' in data or b'"rewards"' in data


# --- scores -------------------------------------------------------------------------------------------------------


def score_all(
    rewards: Sequence[WeightedReward], images: np.ndarray, prompts: Sequence[Prompt]
) -> dict[str, Scores]:
    """Every reward's scores of one batch; where it does not apply the value is NaN with that reason."""
    return {r.key: _score(r, images, prompts) for r in rewards}


def _score(reward: WeightedReward, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
    mine = [i for i, p in enumerate(prompts) if reward.applies(p)]
    values = np.full(len(prompts), np.nan, dtype=np.float32)
    reasons = [NOT_APPLICABLE] * len(prompts)
    parts: dict[str, np.ndarray] = {}
    if mine:
        scores = reward.reward.score(images[mine], [prompts[i] for i in mine])
        values[mine] = scores.values
        for name, part in scores.parts.items():
            parts[name] = np.full(len(prompts), np.nan, dtype=np.float32)
            parts[name][mine] = part
        for row, i in enumerate(mine):
            reasons[i] = scores.reasons[row]
    return Scores(values=values, reasons=tuple(reasons), parts=parts)


def failure_reasons(scores: Mapping[str, Scores], image: int) -> dict[str, str]:
    """Why an image is not scored, by the rewards that failed; one that does not apply has not."""
    reasons = {key: s.reasons[image] for key, s in scores.items()}
    return {key: reason for key, reason in reasons.items() if reason not in ("", NOT_APPLICABLE)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """How often a reward could not score images that it applies to."""

    key: str
    count: int
    of: int
    reason: str
    """Of the first."""

    @property
    def all(self) -> bool:
        """Whether it scored none."""
        return self.count == self.of

    def __str__(self) -> str:
        return f"{self.key} could not score {self.count} of {self.of} images: {self.reason}"


def reward_values(
    rewards: Sequence[WeightedReward], values: Mapping[str, np.ndarray], prompts: Sequence[Prompt]
) -> dict[str, RewardValues]:
    """Values by reward as the advantages need them."""
    known = {r.key: {p.id: r.applies(p) for p in prompts} for r in rewards}
    return {
        r.key: RewardValues(
            values=values[r.key].astype(np.float64),
            applies=np.array([known[r.key][p.id] for p in prompts], dtype=bool),
            weight=r.spec.weight,
            scale=r.scale,
        )
        for r in rewards
    }
