"""The door that every reward stands behind: what goes in is pixels and prompts, what comes out is in its stated range.

`rewards.load_reward` puts it in front of every reward, those of other packages too, so that no reward has to check its
input, and nobody reads a number that the reward's own description says cannot be.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores
from rewards.images.pixels import Picture, as_pictures, groups_of_one_size

SLACK = 1e-5
"""Share of the stated range by which rounding may leave it: a cosine of 1.0000001 is one."""


class CheckedReward:
    """A reward behind the door; what it has besides `score` and `check` is reached through it."""

    info: RewardInfo

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.info = reward.info
        self._batches = 0
        self._parts: list[str] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "reward":  # not yet there: a copy is being made
            raise AttributeError(name)
        return getattr(self.reward, name)

    def __repr__(self) -> str:
        info = self.info
        return f"<reward {info.key}: {info.summary}, {info.low:g} to {info.high:g}>"

    def score(self, images: Any, prompts: Sequence[Prompt | str] | Prompt | str) -> Scores:
        """Score images of any kind.

        Args:
            images: N pictures: see `rewards.images.pixels.as_pictures`. Sizes may differ in a list.
            prompts: N prompts, one an image; plain strings are prompts without a target.

        Returns:
            Scores of the N images; what is infinite or outside `info.low` to `info.high` is NaN with the reason, and
            the evidence of a picture that had to be converted says so.

        Raises:
            ConfigError: pictures of another kind, not one prompt an image, or a reward that breaks its contract.
        """
        pictures, given = as_pictures(images), as_prompts(prompts)
        if len(pictures) != len(given):
            raise ConfigError(
                f"{len(pictures)} images and {len(given)} prompts; expected one prompt an image."
            )
        if not pictures:
            return Scores(values=np.zeros(0, np.float32), reasons=())
        groups = groups_of_one_size(pictures)
        found = [self._score([pictures[i] for i in g], [given[i] for i in g]) for g in groups]
        scores = found[0] if len(groups) == 1 else gathered(groups, found, [""] * len(pictures))
        return with_conversions(scores, pictures)

    def check(self, prompts: Sequence[Prompt | str] | Prompt | str) -> None:
        """See `Reward.check`; of a user's own prompt the message begins with its file and line."""
        given = as_prompts(prompts)
        try:
            self.reward.check(lent(given))
        except ConfigError as error:
            first = next((p for p in given if self._refuses(p)), None)
            if first is None or not first.origin:
                raise
            raise type(error)(f"{first.origin}: {error}") from None

    def _refuses(self, prompt: Prompt) -> bool:
        try:
            self.reward.check(lent([prompt]))
        except ConfigError:
            return True
        return False

    def _score(self, pictures: Sequence[Picture], prompts: Sequence[Prompt]) -> Scores:
        scores = self.reward.score(
            np.stack([picture.pixels for picture in pictures]), lent(prompts)
        )
        if not isinstance(scores, Scores) or len(scores.values) != len(pictures):
            count = len(scores.values) if isinstance(scores, Scores) else type(scores).__name__
            raise ConfigError(
                f"reward {self.info.key!r} gave {count} for {len(pictures)} images;"
                " expected Scores with one value an image."
            )
        self._refuse_other_parts(scores)
        return in_range(scores, self.info)

    def _refuse_other_parts(self, scores: Scores) -> None:
        """Sub-scores are columns of a table: every batch has the same; one of which nothing was scored has any."""
        self._batches += 1
        if np.isnan(scores.values).all():
            return
        names = sorted(scores.parts)
        self._parts = names if self._parts is None else self._parts
        if names != self._parts:
            raise ConfigError(
                f"reward {self.info.key!r} gave other sub-scores in batch {self._batches} than before: "
                f"{', '.join(names) or 'none'}, not {', '.join(self._parts) or 'none'}; expected the same names of "
                "every batch, with NaN where an image has no such number"
            )


def checked(reward: Reward) -> CheckedReward:
    """A reward behind the door, once."""
    return reward if isinstance(reward, CheckedReward) else CheckedReward(reward)


def as_prompts(prompts: Sequence[Prompt | str] | Prompt | str) -> list[Prompt]:
    """Prompts; a plain string is one without a target, its place is its id.

    Raises:
        ConfigError: something that is neither.
    """
    given = [prompts] if isinstance(prompts, Prompt | str) else list(prompts)
    for place, prompt in enumerate(given):
        if not isinstance(prompt, Prompt | str):
            raise ConfigError(
                f"prompt {place} is of type {type(prompt).__name__}; expected a string or a rewards.Prompt."
            )
    return [Prompt(id=str(i), text=p) if isinstance(p, str) else p for i, p in enumerate(given)]


def lent(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts whose targets are copies: what a reward changes in its own moves no other reward's score.

    So are the pixels that it gets, which `np.stack` copies.
    """
    return [replace(p, target=deepcopy(p.target)) if p.target else p for p in prompts]


def in_range(scores: Scores, info: RewardInfo) -> Scores:
    """Scores of which none is infinite or outside the stated range: those become NaN with the reason.

    Of sub-scores, which have no stated range, an infinite one becomes NaN.
    """
    if any(np.isinf(part).any() for part in scores.parts.values()):
        finite = {k: np.where(np.isinf(v), np.float32(np.nan), v) for k, v in scores.parts.items()}
        scores = replace(scores, parts=finite)
    span = info.high - info.low
    slack = SLACK * (span if np.isfinite(span) else 1.0)
    with np.errstate(invalid="ignore"):
        wrong = (scores.values < info.low - slack) | (scores.values > info.high + slack)
    wrong |= np.isinf(scores.values)
    if not wrong.any():
        return scores
    reasons = [
        f"the reward gave {value:g}, outside its range {info.low:g} to {info.high:g}"
        if bad
        else reason
        for value, bad, reason in zip(scores.values.tolist(), wrong, scores.reasons, strict=True)
    ]
    values = np.where(wrong, np.float32(np.nan), scores.values)
    return replace(scores, values=values, reasons=tuple(reasons))


def with_conversions(scores: Scores, pictures: Sequence[Picture]) -> Scores:
    """Scores whose evidence says what was done to the pictures before, under `converted`."""
    if not any(picture.converted for picture in pictures):
        return scores
    evidence = [dict(said) for said in scores.evidence or ({},) * len(pictures)]
    for said, picture in zip(evidence, pictures, strict=True):
        if picture.converted:
            said["converted"] = picture.converted
    return replace(scores, evidence=tuple(evidence))


def gathered(
    groups: Sequence[Sequence[int]], found: Sequence[Scores], reasons: Sequence[str]
) -> Scores:
    """Scores of groups of images, put back into the order of all N images.

    Args:
        groups: places of each group's images.
        found: scores of each group.
        reasons: (N,) why an image that stands in no group has no value.
    """
    reasons, count = list(reasons), len(reasons)
    values = np.full(count, np.nan, dtype=np.float32)
    evidence: list[Any] = [{}] * count
    parts: dict[str, np.ndarray] = {}
    for group, scores in zip(groups, found, strict=True):
        values[list(group)] = scores.values
        for name, part in scores.parts.items():
            parts.setdefault(name, np.full(count, np.nan, dtype=np.float32))[list(group)] = part
        for place, i in enumerate(group):
            reasons[i] = scores.reasons[place]
            evidence[i] = scores.evidence[place] if scores.evidence else {}
    return Scores(values=values, reasons=tuple(reasons), parts=parts, evidence=tuple(evidence))
