"""What is minimised: one file an algorithm, found by the name it has in a recipe.

A third algorithm is one file with a class that keeps `base.Algorithm`, named here or, from another package, in an
entry point of the group `nftbench.algorithms`.
"""

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from rewards.base import ConfigError, did_you_mean

if TYPE_CHECKING:
    from nftbench.training.algorithms.base import Algorithm

GROUP = "nftbench.algorithms"
BUILT_IN = {
    "nft": "nftbench.training.algorithms.diffusion_nft:DiffusionNFT",
    "flow-grpo": "nftbench.training.algorithms.flow_grpo:FlowGRPO",
}
"""Name -> module:class."""


@cache
def _registered() -> dict[str, str]:
    """Ours and other packages'; ours cannot be replaced."""
    return {e.name: e.value for e in entry_points(group=GROUP)} | BUILT_IN


def names() -> list[str]:
    """All algorithms, by the names they have in recipes."""
    return list(_registered())


def check_name(name: str) -> None:
    """Refuse a name that no algorithm has, without importing any.

    Raises:
        ConfigError: the near name is suggested.
    """
    if name not in _registered():
        expected = f"expected one of {', '.join(names())}"
        raise ConfigError(f"unknown algorithm {name!r}{did_you_mean(name, names(), expected)}")


def load_algorithm(name: str) -> "type[Algorithm]":
    """The class behind a name.

    Raises:
        ConfigError: no such algorithm, or its package cannot be imported.
    """
    check_name(name)
    module, _, attribute = _registered()[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"algorithm {name!r} cannot be loaded: {error}") from None
