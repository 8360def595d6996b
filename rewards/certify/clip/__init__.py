"""The CLIP family against its references: what a loaded reward hands over, and whole networks rebuilt from names."""

from functools import partial

from rewards.certify import Checks
from rewards.certify.clip.facts import FACTS
from rewards.certify.clip.handed import names, pixels, scale, tokens
from rewards.certify.clip.networks import colours_network, network

CHEAP: dict[str, tuple[Checks, ...]] = {
    key: (
        partial(pixels, key),
        partial(names, facts.names or facts.file, facts.network),
        *([partial(tokens, key)] if facts.tokens else []),
        partial(scale, key),
    )
    for key, facts in FACTS.items()
}
"""Seconds each."""
FULL_SIZE: dict[str, tuple[Checks, ...]] = {
    **{key: (partial(network, key),) for key in FACTS},
    "geneval@official": (partial(colours_network, "geneval@official"),),
    "geneval@promptrl": (partial(colours_network, "geneval@promptrl"),),
}
"""Half a minute to minutes each, 2 to 5 GB; neighbours share a network."""
CHECKS = {key: CHEAP.get(key, ()) + checks for key, checks in FULL_SIZE.items()}
