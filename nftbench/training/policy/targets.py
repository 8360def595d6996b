"""Which layers of a network the names of a LoRA's targets mean, and which names there are."""

from collections import Counter
from collections.abc import Iterable

from torch import nn

from nftbench.training.config.recipe import ATTENTION, PolicyConfig

SHOWN = 16
"""Names of layers that a message lists at most."""


def unfitted(network: nn.Module, targets: Iterable[str]) -> list[str]:
    """Targets that are the end of no layer's name: peft passes over them in silence while another one fits."""
    names = [f".{name}" for name, _ in network.named_modules()]
    return [t for t in targets if not any(name.endswith(f".{t}") for name in names)]


def passed_over(network: nn.Module, config: PolicyConfig) -> str:
    """Targets that somebody chose and no layer has, in words, or nothing.

    Of those that a recipe has by itself, which are for every architecture, some fit none in most networks.
    """
    if config.method != "lora" or config.targets == ATTENTION:
        return ""
    if not (names := unfitted(network, config.targets)):
        return ""
    return (
        f"warning: policy.targets {', '.join(names)}: no layer of {type(network).__name__} has such a name, only the "
        f"others are trained; its layers' names end in {choices(network)}"
    )


def choices(network: nn.Module) -> str:
    """Ends of the names of a network's linear layers, the most frequent first: what a target can be."""
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    found = Counter(
        _end(name.removesuffix(".base_layer")) for name in layers if ".lora_" not in name
    )
    ends = [end for end, _ in found.most_common()]
    return ", ".join(ends[:SHOWN]) + ", ..." * (len(ends) > SHOWN)


def _end(name: str) -> str:
    """`blocks.0.attn.to_q` is to_q; `blocks.0.attn.to_out.0` is to_out.0, for a number alone says nothing."""
    *before, last = name.split(".")
    return ".".join([*before[-1:], last]) if last.isdigit() else last
