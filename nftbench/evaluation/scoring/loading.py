"""Rewards by name, made ready for this machine; and the libraries' own chatter switched off."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging

import rewards as registry
from nftbench.evaluation.scoring.in_turn import Turns
from rewards.base import ConfigError, Reward
from rewards.own import file_named

SAID_BY_US = ("transformers.tokenization_utils_base", "torch.utils.cpp_extension")
"""Loggers whose warnings nftbench gives in words of its own: prompts that are cut, the devices there are."""


def quiet() -> None:
    """Switch off the libraries' progress bars and chatter, unless the log of nftbench is at DEBUG (`nftbench -v`)."""
    if logging.getLogger("nftbench").isEnabledFor(logging.DEBUG):
        return
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in SAID_BY_US:
        logging.getLogger(name).setLevel(logging.ERROR)


def load_rewards(listed: str, turns: Turns | None = None) -> dict[str, Reward]:
    """Load a comma-separated list of rewards, by key.

    Args:
        listed: keys.
        turns: where they run, large ones in turn; None is on the GPU where there is one.

    Raises:
        ConfigError: one that is unknown, cannot be had, or carries a weight, which has no meaning where nothing is
            trained.
    """
    turns = turns or Turns()
    return {key: turns.load(key) for key in registry.without_weights(listed)}


def load_named(keys: Sequence[str], turns: Turns | None = None) -> dict[str, Reward]:
    """Load the rewards that a suite or a run names itself.

    Args:
        keys: keys or bare names; the loaded rewards stand under the same ones.
        turns: as for `load_rewards`.

    Raises:
        ConfigError: one that cannot be had; says how to go on without it.
    """
    found: dict[str, Reward] = {}
    turns = turns or Turns()
    _ = turns.prompt_sets  # prompts that are not here are no fault of a reward
    for key in keys:
        try:
            found[key] = turns.load(key)
        except ConfigError as error:
            others = ",".join(k for k in keys if k != key)
            hint = f" Or leave it out: --rewards {others}" if others else ""
            raise type(error)(f"{error}{hint}") from None
    return found


def refuse_unnamed_files(known: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse rewards that a run had from a file which nobody names now: a run's word starts no code.

    Args:
        known: what a run's manifest says of its rewards, by key.

    Raises:
        ConfigError: says which file to name.
    """
    here = registry.available()
    for key, info in known.items():
        file = file_named(str(info.get("source", "")))
        if file and key not in here:
            raise ConfigError(
                f"reward {key!r} of this run is code of a file, which runs only where you name it: "
                f"--rewards PATH/{file}"
            )
