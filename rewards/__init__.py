"""Rewards that score an image, by name: `load_reward("ocr")`, `parse_rewards("ocr,pickscore:0.5")`.

A reward's key is `name@variant`, or the bare `name` where a reward has no variants. Looking keys up
imports nothing heavy; a reward's module is imported when that reward is first asked for.

Other packages add rewards by entry points of the group `nftbench.rewards`: the entry point's name
is the key, its value a factory `factory(*, device="cpu") -> Reward`. A factory may carry an `info`
attribute (a `RewardInfo`), which lets `reward_info` answer without building the reward.
A file adds one by `add_files("./my_reward.py:Brightness")`, which runs it.
"""

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewards import own
from rewards.base import (
    ConfigError,
    MissingExtra,
    MissingWeights,
    Prompt,
    Reward,
    RewardInfo,
    Scores,
    did_you_mean,
)

if TYPE_CHECKING:
    from rewards.checked import CheckedReward

__all__ = [
    "ConfigError",
    "MissingExtra",
    "MissingWeights",
    "Prompt",
    "Reward",
    "RewardInfo",
    "RewardSpec",
    "Scores",
    "add_files",
    "available",
    "load_reward",
    "parse_rewards",
    "resolve",
    "reward_info",
]

ENTRY_POINT_GROUP = "nftbench.rewards"
BUILT_IN = {
    "aesthetic": "rewards.clip.aesthetic:aesthetic",
    "clipscore@nft": "rewards.clip.clipscore:nft",
    "clipscore@openai": "rewards.clip.clipscore:openai",
    "geneval@flowgrpo": "rewards.geneval.variants:flowgrpo",
    "geneval@hf": "rewards.geneval.variants:hf",
    "geneval@mmdet": "rewards.geneval.variants:with_mmdet",
    "geneval@nft": "rewards.geneval.variants:nft",
    "geneval@official": "rewards.geneval.variants:official",
    "geneval@promptrl": "rewards.geneval.variants:promptrl",
    "hpsv2@2024": "rewards.clip.hpsv2:y2024",
    "hpsv2@nft": "rewards.clip.hpsv2:nft",
    "imagereward": "rewards.vlm.imagereward:imagereward",
    "jpeg": "rewards.images.jpeg:Incompressibility",
    "jpeg@compressibility": "rewards.images.jpeg:Compressibility",
    "ocr-words@rapidocr": "rewards.ocr.words:rapidocr",
    "ocr@paddleocr": "rewards.ocr.reward:paddleocr",
    "ocr@paddleocr-nfkc": "rewards.ocr.reward:paddleocr_nfkc",
    "ocr@paddleocr-x4": "rewards.ocr.reward:paddleocr_x4",
    "ocr@pp2.9": "rewards.ocr.reward:pp2_9",
    "ocr@pp2.9-nfkc": "rewards.ocr.reward:pp2_9_nfkc",
    "ocr@pp3": "rewards.ocr.reward:pp3",
    "ocr@pp3-nfkc": "rewards.ocr.reward:pp3_nfkc",
    "ocr@rapidocr": "rewards.ocr.reward:rapidocr",
    "ocr@rapidocr-nfkc": "rewards.ocr.reward:rapidocr_nfkc",
    "ocr@rapidocr-x4": "rewards.ocr.reward:rapidocr_x4",
    "ocr@tesseract": "rewards.ocr.reward:tesseract",
    "ocr@tesseract-nfkc": "rewards.ocr.reward:tesseract_nfkc",
    "ocr@tesseract-x4": "rewards.ocr.reward:tesseract_x4",
    "pickscore": "rewards.clip.pickscore:pickscore",
    "unifiedreward@2.0": "rewards.vlm.unifiedreward:v2_0",
    "unifiedreward@nft": "rewards.vlm.unifiedreward:nft",
    "unifiedreward@official": "rewards.vlm.unifiedreward:official",
}
"""Key -> `module:factory`."""
DEFAULTS = {
    "clipscore": "clipscore@nft",
    "geneval": "geneval@official",
    "hpsv2": "hpsv2@nft",
    "ocr": "ocr@rapidocr",
    "unifiedreward": "unifiedreward@nft",
}
"""What a bare name means where a reward has several variants."""
MOST_WEIGHT = 1e9
"""Weights are ratios; sums by larger ones overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSpec:
    """One item of a list of rewards."""

    key: str
    """Full key, `name@variant` or a bare name without variants."""
    weight: float = 1.0
    """Factor of the reward in a weighted sum, finite, >= 0; at 0 it is reported and moves nothing.
    """


@dataclass(frozen=True, slots=True)
class _Entry:
    target: str
    package: str


def available() -> list[str]:
    """Sorted keys of every known reward, built in or added by entry points and files; imports none of them.

    Raises:
        ConfigError: two packages claim one key, or a key is malformed.
    """
    return sorted(_entries())


def add_files(listed: str) -> str:
    """Make the rewards known that a list names by their files, `ocr,./my_reward.py:Brightness`; this runs the files.

    Returns:
        The list with keys only: `ocr,brightness`.

    Raises:
        ConfigError: no such file or class, code that cannot be run, or a key that another reward has.
    """
    return own.add_files(listed, [key for key in _entries() if key not in own.ADDED])


def resolve(name: str) -> str:
    """Full key that a name stands for.

    A full key stands for itself; a bare name for its entry in `DEFAULTS`, else for its only
    variant.

    Raises:
        ConfigError: nothing is known by that name, or several variants are and none is the default.
    """
    own.refuse_file(name)
    keys = _entries()
    if name in keys:
        return name
    if name in DEFAULTS:
        return DEFAULTS[name]
    variants = sorted(key for key in keys if key.startswith(f"{name}@"))
    if len(variants) == 1:
        return variants[0]
    if variants:
        raise ConfigError(
            f"reward {name!r} has several variants; name one of {', '.join(variants)}."
        )
    raise ConfigError(_unknown(name, keys))


def load_reward(key: str, *, device: str = "cpu") -> "CheckedReward":
    """Build a reward, behind the door that checks what goes in and what comes out.

    Args:
        key: a full key or a name that `resolve` understands.
        device: torch device; rewards that run no torch network ignore it.

    Raises:
        ConfigError: unknown or ambiguous key, or another package's reward that cannot be imported.
        MissingExtra: an optional package is not installed.
        MissingWeights: weights are not on this machine.
    """
    from rewards.checked import checked

    key = resolve(key)
    reward = _factory(key)(device=device)
    if reward.info.key != key:
        raise ConfigError(
            f"reward {key!r} calls itself {reward.info.key!r}; the two must be equal."
        )
    return checked(reward)


def reward_info(key: str) -> RewardInfo:
    """What a reward's numbers mean; builds the reward only where its factory carries no `info`.

    Raises:
        ConfigError: as `load_reward`.
    """
    return stated_info(key) or load_reward(key).info


def stated_info(key: str) -> RewardInfo | None:
    """The same where the reward's factory carries it; else None, and nothing is built.

    Raises:
        ConfigError: as `load_reward`.
    """
    info = getattr(_factory(resolve(key)), "info", None)
    return info if isinstance(info, RewardInfo) else None


def parse_rewards(text: str) -> tuple[RewardSpec, ...]:
    """Read a list of rewards with weights, such as `ocr,pickscore:0.5`; a weight left out is 1.

    Raises:
        ConfigError: an empty item, a weight that is not a finite number >= 0 or is huge, a reward named twice
            (also by two spellings of one key), or a name that `resolve` refuses.
    """
    specs = tuple(_parse_item(item.strip(), text) for item in text.split(","))
    keys = [spec.key for spec in specs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ConfigError(
            f"reward {twice[0]!r} is named twice in {text!r}; name it once, with one weight."
        )
    return specs


def without_weights(text: str) -> list[str]:
    """The keys of a list of rewards, where nothing is trained.

    Raises:
        ConfigError: as `parse_rewards`, or one of them carries a weight, which has no meaning there.
    """
    specs = parse_rewards(text)
    weighted = [spec.key for spec in specs if spec.weight != 1]
    if weighted:
        raise ConfigError(f"weights are for training; write {weighted[0]} without one")
    return [spec.key for spec in specs]


def _parse_item(item: str, text: str) -> RewardSpec:
    own.refuse_file(item)
    name, colon, weight = (part.strip() for part in item.partition(":"))
    if not name:
        raise ConfigError(
            f"empty item in rewards {text!r}; expected name or name:weight, comma-separated."
        )
    try:
        value = float(weight) if colon else 1.0
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_WEIGHT:
        huge = MOST_WEIGHT < value < math.inf
        expected = f"at most {MOST_WEIGHT:g}" if huge else "a finite number >= 0"
        raise ConfigError(f"weight of reward {name!r} must be {expected}, got {weight!r}.")
    return RewardSpec(key=resolve(name), weight=value)


def entry_points(*, group: str) -> Any:
    """Entry points of installed packages; what reads them is imported here, for it is slow to import."""
    from importlib.metadata import entry_points as installed

    return installed(group=group)


def _entries() -> dict[str, _Entry]:
    found = {key: _Entry(target, "rewards") for key, target in BUILT_IN.items()}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        new = _Entry(point.value, point.dist.name if point.dist else "an unnamed package")
        old = found.setdefault(point.name, new)
        if old.target != new.target:
            raise ConfigError(
                f"reward {point.name!r} is claimed twice: {old.target} of {old.package} and"
                f" {new.target} of {new.package}; uninstall one, or rename its entry point."
            )
        if not own.KEY.fullmatch(point.name):
            raise ConfigError(
                f"package {new.package} names a reward {point.name!r};"
                " expected name or name@variant."
            )
    files = {key: _Entry(f"{one.path}:{one.name}", str(one.path)) for key, one in own.ADDED.items()}
    return found | files


def targets() -> dict[str, str]:
    """`module:factory` of every known reward, by its full key."""
    return {key: entry.target for key, entry in _entries().items()}


def _factory(key: str) -> Any:
    if key in own.ADDED:
        return own.ADDED[key]
    entry = _entries()[key]
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reward {key!r} of package {entry.package!r} cannot be loaded from"
            f" {entry.target!r}: {error}."
        ) from error


def _unknown(name: str, keys: Iterable[str]) -> str:
    spellings = {key: key for key in keys} | {
        key.partition("@")[0]: key.partition("@")[0] for key in keys
    }
    hint = did_you_mean(name, spellings) or "."
    return f"unknown reward {name!r}{hint} `nftbench rewards` lists all; of a file, name it: --rewards FILE.py:NAME"
