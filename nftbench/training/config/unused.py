"""Settings that a command line names and that would change nothing, as the rest of the recipe stands.

Said of the command line and not of a recipe's file, which may hold settings of the other algorithm, or of a method that
a later command asks for.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nftbench.training.config.recipe import Recipe
from rewards.base import ConfigError

STAGE = re.compile(r"stages(?:\[(\d+)\]|\.(\d+))?\.")
"""Beginning of a setting of one stage, or of all."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Settings that do nothing in some recipes."""

    keys: tuple[str, ...]
    """Dotted; of a section, its name with the dot."""
    of: Callable[[Recipe], bool]
    """Whether a recipe is one of these."""
    why: str
    """And what to do instead."""


IDLE = (
    Idle(
        ("flow_grpo.",),
        lambda r: r.algorithm == "nft",
        "as nft trains; leave it out, or train with --algorithm flow-grpo",
    ),
    Idle(
        ("guards.kl_exploded.",),
        lambda r: r.algorithm == "flow-grpo",
        "as flow-grpo does not measure it; leave it out, and watch guards.kl and guards.kl_p99",
    ),
    Idle(
        ("optimizer.lr", "optimizer.final_lr"),
        lambda r: all(stage.lr for stage in r.stages),
        "as every stage has its own learning rate; set stages.lr and stages.final_lr in its place",
    ),
    Idle(
        ("policy.rank", "policy.alpha", "policy.targets", "policy.folded"),
        lambda r: r.policy.method == "full",
        "as policy.method full trains every weight and has no LoRA; leave one of the two out",
    ),
    Idle(
        ("rollout.guidance_scale",),
        lambda r: r.rollout.guidance in ("off", "native") and r.rollout.guidance_scale != 1,
        "as rollout.guidance off or native takes no scale; leave one of the two out",
    ),
    Idle(
        (
            "evaluation.held_out_rewards",
            "guards.held_out.",
        ),
        lambda r: not r.evaluation.every,
        "as evaluation.every is 0, which is no validation at all; set that above 0, or leave the other out",
    ),
    Idle(
        ("evaluation.limit", "evaluation.images_per_prompt", "evaluation.num_inference_steps"),
        lambda r: not r.evaluation.benchmarks,
        "as evaluation.benchmarks names none to validate on; name one, or leave it out",
    ),
    Idle(
        ("stages.0.reset",),
        lambda r: True,
        "as the first stage begins with everything new; set it for a later stage, or leave it out",
    ),
)
NOTHING = (None, "off", "", 0, False, (), [], {})
"""What a setting that is switched off says: of that, no effect is expected."""


def refuse_unused(recipe: Recipe, named: Mapping[str, Any]) -> None:
    """Refuse settings without effect.

    Args:
        recipe: with them.
        named: what the user set, by its dotted name.

    Raises:
        ConfigError: names the first, why it would do nothing, and what to do.
    """
    for idle in (one for one in IDLE if one.of(recipe)):
        for name, value in sorted(named.items()):
            if value not in NOTHING and _full(name, recipe).startswith(idle.keys):
                raise ConfigError(f"recipe {recipe.name}: {name} would change nothing, {idle.why}")


def _full(name: str, recipe: Recipe) -> str:
    """A setting's name with its stage's number, where one stage is meant."""
    found = STAGE.match(name)
    if not found:
        return name
    number = found[1] or found[2] or ("0" if len(recipe.stages) == 1 else "")
    return f"stages.{f'{number}.' if number else ''}{name[found.end() :]}"
