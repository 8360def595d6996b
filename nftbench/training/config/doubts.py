"""What a recipe says that can be done and is hardly meant."""

from collections.abc import Iterator

from nftbench.training.config.recipe import Recipe

OF_REFERENCE = ("velocity_ratio", "kl", "kl_exploded", "kl_p99")
"""Guards that measure how far the policy is from the reference policy."""


def doubts(recipe: Recipe) -> Iterator[str]:
    """One line each, to be shown before anything is trained."""
    yield from _rising(recipe)
    yield from _never_reached(recipe)
    yield from _unwatched(recipe)


def _rising(recipe: Recipe) -> Iterator[str]:
    """Rates that rise to the end, as where `lr` alone is set below the recipe's own `final_lr`."""
    rates = {f"stages[{i}]": (s.lr, s.final_lr) for i, s in enumerate(recipe.stages)}
    if any(stage.lr is None for stage in recipe.stages):
        rates["optimizer"] = recipe.optimizer.lr, recipe.optimizer.final_lr
    for where, (first, last) in rates.items():
        if first and last and last > first:
            yield (
                f"warning: the learning rate rises from {first:g} to {last:g}; for one that falls or stays, set "
                f"{where}.final_lr, too, or off"
            )


def _never_reached(recipe: Recipe) -> Iterator[str]:
    """Rates that a stage of one iteration, which has its first rate, would fall to."""
    for number, stage in enumerate(recipe.stages, start=1):
        last = recipe.optimizer.final_lr if stage.lr is None else stage.final_lr
        alone = stage.lr is not None or len(recipe.stages) == 1
        if stage.iterations == 1 and last and alone:
            yield f"warning: the one iteration of stage {number} has its first rate; final_lr {last:g} is not reached"


def _unwatched(recipe: Recipe) -> Iterator[str]:
    """Guards that are on and have nothing to look at, where a stage never asks the reference policy."""
    limits = {name: getattr(recipe.guards, name) for name in OF_REFERENCE}
    on = [name for name, one in limits.items() if (one.warn, one.stop) != (None, None)]
    blind = [
        str(number)
        for number, stage in enumerate(recipe.stages, start=1)
        if not (stage.kl_weight or stage.trust_region)
    ]
    if on and blind:
        yield (
            f"guards {', '.join(on)} watch nothing in stage {', '.join(blind)}: stages.kl_weight is 0, so the "
            "reference policy is not asked; 1e-9 has it asked and changes next to nothing"
        )
