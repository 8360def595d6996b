"""Large rewards are in memory one after the other: each is loaded to score, and leaves for the next one.

The rule: a reward is large if its files come to more than `SMALL`, or the size of one is not known. Large ones that
read the same file look through the same network and stay together. All others stay in memory.
"""

import gc
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

import rewards as registry
from nftbench.generation.machine.hardware import usable_device
from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores
from rewards.checked import CheckedReward

SMALL = 64 * 2**20
"""Bytes of files, for a reward that stays."""


class Turns:
    """Which large rewards are in memory."""

    def __init__(
        self,
        device: str | None = None,
        prompt_sets: Iterable[Sequence[Prompt]] = (),
        small: float = SMALL,
    ) -> None:
        """Nothing is loaded.

        Args:
            device: where rewards run; None is the GPU where there is one.
            prompt_sets: prompts that each reward will be checked against; that is done while it is first loaded.
            small: bytes of files up to which a reward stays.

        Raises:
            ConfigError: there is no such device.
        """
        self.device = usable_device(device, "--reward-device")
        self._prompt_sets, self._small = prompt_sets, small
        self._held: dict[str, CheckedReward] = {}

    def load(self, key: str) -> CheckedReward:
        """A reward to be used at any time: a large one may leave and come back in between.

        Raises:
            ConfigError: as `rewards.load_reward`.
        """
        stated = registry.stated_info(key)
        if stated and not is_small(stated, self._small):
            self._make_way(stated)  # before it is loaded: two need not fit
        loaded = registry.load_reward(key, device=str(self.device))
        if is_small(loaded.info, self._small):
            return loaded
        self._hold(loaded)
        return CheckedReward(InTurn(loaded, self))

    def take(self, info: RewardInfo) -> CheckedReward:
        """A large reward, loaded if it is not; all that share no file with it leave."""
        if info.key not in self._held:
            self._make_way(info)
            self._hold(registry.load_reward(info.key, device=str(self.device)))
        return self._held[info.key]

    def leave(self) -> None:
        """Let all of them go."""
        self._held.clear()
        free_memory()

    @cached_property
    def prompt_sets(self) -> list[Sequence[Prompt]]:
        """Prompts that each large reward is checked against when it is first loaded; read when they are needed."""
        return list(self._prompt_sets)

    @property
    def described(self) -> dict[str, str]:
        """For the manifest, beside what is said of the hardware there."""
        return {"reward_device": str(self.device)}

    @property
    def loaded(self) -> list[str]:
        """Keys of the large ones in memory."""
        return list(self._held)

    def _hold(self, reward: CheckedReward) -> None:
        self._make_way(reward.info)
        self._held[reward.info.key] = reward

    def _make_way(self, info: RewardInfo) -> None:
        gone = [key for key, other in self._held.items() if not _share(other.info, info)]
        for key in gone:
            del self._held[key]
        if gone:
            free_memory()


class InTurn:
    """A large reward without its networks; they are loaded when it scores."""

    def __init__(self, loaded: CheckedReward, turns: Turns) -> None:
        self.info, self.turns = loaded.info, turns
        self.kind = type(loaded.reward)
        """Class of the reward itself."""
        self._refused: dict[str, ConfigError | None] = {}
        for prompts in turns.prompt_sets:
            self._check(loaded.reward, prompts)

    def score(self, images: Any, prompts: Sequence[Prompt]) -> Scores:
        """See `Reward.score`."""
        return self.turns.take(self.info).reward.score(images, prompts)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """See `Reward.check`; what was once said of prompts needs no loading."""
        key = repr(list(prompts))
        if key not in self._refused:
            self._check(self.turns.take(self.info).reward, prompts)
        refused = self._refused[key]
        if refused is not None:
            raise refused

    def _check(self, reward: Reward, prompts: Sequence[Prompt]) -> None:
        refused = None
        try:
            reward.check(prompts)
        except ConfigError as error:
            refused = error.with_traceback(None)  # which holds the networks
        self._refused[repr(list(prompts))] = refused


def leave(rewards: Iterable[Reward]) -> None:
    """Free the memory of all large rewards among some: they come back when they score."""
    inner = [_inner(reward) for reward in rewards]
    for turns in {id(r.turns): r.turns for r in inner if isinstance(r, InTurn)}.values():
        turns.leave()


def stays(reward: Reward) -> bool:
    """Whether a reward is in memory at all times."""
    return not isinstance(_inner(reward), InTurn)


def _inner(reward: Reward) -> Reward:
    return reward.reward if isinstance(reward, CheckedReward) else reward


def in_order(rewards: Mapping[str, Reward]) -> list[str]:
    """Keys of rewards, those that share a file next to each other."""
    waiting, ordered = list(rewards), []
    while waiting:
        group = [waiting.pop(0)]
        for one in group:  # grows meanwhile
            found = [key for key in waiting if _share(rewards[one].info, rewards[key].info)]
            group += found
            waiting = [key for key in waiting if key not in found]
        ordered += group
    return ordered


def is_small(info: RewardInfo, small: float = SMALL) -> bool:
    """Whether a reward stays in memory; one without files has nothing to load, or runs elsewhere."""
    return all(file.size > 0 for file in info.files) and sum(f.size for f in info.files) <= small


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _share(a: RewardInfo, b: RewardInfo) -> bool:
    return bool({file.name for file in a.files} & {file.name for file in b.files})
