"""Several rewards to one advantage an image. Pure: arrays in, arrays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nftbench.training.algorithms.nft import ADDED_SPREAD, group_advantages


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardValues:
    """One reward's verdict on all images of an iteration."""

    values: np.ndarray
    """(N,) in native units; NaN where the image could not be scored or the reward does not apply to its prompt."""
    applies: np.ndarray
    """bool (N,)."""
    weight: float
    """>= 0; at 0 it is told of alone, and an image that it could not score is trained on all the same."""
    scale: float
    """What training divides by; negative for a reward of which less is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAdvantages:
    """What the images of an iteration are worth to the trainer."""

    advantages: np.ndarray
    """float64 (N,), 0 where `usable` is not."""
    total: np.ndarray
    """float64 (N,) weighted sum of the normalised rewards that apply; NaN where one of them is missing that weighs."""
    usable: np.ndarray
    """bool (N,): scored by every such reward, in a group with at least two such images."""
    spread: np.ndarray
    """bool (N,): usable, and its group's advantages are not all zero."""
    lost_groups: int
    """Groups without two usable images."""
    damped: float
    """Share of the advantages that `ADDED_SPREAD` takes, of the reward of which it takes most; near 0 where rewards
    differ by more than that."""


def combine_advantages(
    rewards: Mapping[str, RewardValues],
    groups: Sequence[str],
    *,
    combine: Literal["sum", "advantages"],
    std: Literal["batch", "group"],
) -> GroupAdvantages:
    """Advantages of one iteration's images.

    Args:
        rewards: by key, at least one of weight; every image has at least one that applies.
        groups: (N,) the prompt of each image; a reward applies to all images of a prompt or to none.
        combine: `sum` normalises the weighted sum of rewards; `advantages` normalises each reward among the images
            it applies to and takes the weighted mean. The loss is affine in the advantage, so that either way it
            costs one backward pass.
        std: as `group_advantages` has it.

    Source: `sum`: NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py `multi_score`; `advantages`: GDPO, MARBLE
    (arXiv:2605.06507).
    """
    keys = np.asarray(groups)
    weighing = [w for w in rewards.values() if w.weight]
    missing = np.any([w.applies & np.isnan(w.values) for w in weighing], axis=0)
    parts = [np.where(w.applies, w.weight / w.scale * w.values, 0.0) for w in weighing]
    total = np.where(missing, np.nan, np.sum(parts, axis=0))
    usable = ~missing & _in_pairs(keys, ~missing)
    advantages, damped = np.zeros(len(keys)), [0.0]
    if combine == "sum":
        damped.append(_damped(total[usable], keys[usable], std))
        advantages[usable] = group_advantages(total[usable], keys[usable], std=std)  # pyright: ignore[reportArgumentType]
    else:
        weights = np.sum([w.weight * w.applies for w in weighing], axis=0)
        for reward in weighing:
            mine = usable & reward.applies
            values = reward.values[mine] / reward.scale
            damped.append(_damped(values, keys[mine], std))
            own = group_advantages(values, keys[mine], std=std)  # pyright: ignore[reportArgumentType]
            advantages[mine] += reward.weight / weights[mine] * own
    return GroupAdvantages(
        advantages=advantages,
        total=total,
        usable=usable,
        spread=usable & _any_of_group(keys, advantages != 0),
        lost_groups=len(np.unique(keys)) - len(np.unique(keys[usable])),
        damped=max(damped),
    )


def _damped(values: np.ndarray, keys: np.ndarray, std: Literal["batch", "group"]) -> float:
    """Of one reward; 0 where nothing differs, which is another matter."""
    groups = [values] if std == "batch" else [values[keys == key] for key in np.unique(keys)]
    spreads = [float(group.std()) for group in groups if len(group) and np.ptp(group) > 0]
    return ADDED_SPREAD / (float(np.median(spreads)) + ADDED_SPREAD) if spreads else 0.0


def _in_pairs(keys: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether an image's group has two chosen images or more: one alone cannot be better than the others."""
    return np.array([np.sum(chosen & (keys == key)) >= 2 for key in keys], dtype=bool)


def _any_of_group(keys: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.isin(keys, np.unique(keys[chosen]))
