"""Names that the user wrote, looked up before anything heavy is imported: a misspelt one is answered at once."""

from collections.abc import Mapping, Sequence
from typing import Any


def check(
    *, checkpoint: str | None = None, suite: str | None = None, rewards: str | None = None
) -> None:
    """Refuse what an evaluation cannot know.

    Args:
        checkpoint: as `nftbench eval` takes it.
        suite: of a suite or benchmark, or a suite's file.
        rewards: a list, with files of the user's own, which are run.

    Raises:
        ConfigError: the near name is suggested.
    """
    if checkpoint is not None:
        from nftbench.generation.sources.packaged import refuse_unknown

        refuse_unknown(checkpoint)
    if suite:
        from nftbench.benchmark.registry import load_suite

        load_suite(suite)
    if rewards and rewards.strip():
        import rewards as registry

        registry.parse_rewards(registry.add_files(rewards))


def check_recipe(recipe: str | None, settings: Sequence[str], top: Mapping[str, Any]) -> None:
    """Refuse what a training cannot know: recipe, settings, checkpoint, rewards, prompts, benchmarks.

    Args:
        recipe: a shipped one or a file; pocket's when left out.
        settings: `section.key=value` each; files of rewards are run.
        top: values of top-level keys; None leaves one as it is.

    Raises:
        ConfigError: the near name is suggested.
    """
    from nftbench.training.config.names import recipe_name, refuse_unknown, with_files
    from nftbench.training.config.overrides import load_recipe

    named = recipe_name(recipe, top.get("algorithm"))
    whole = load_recipe(named, with_files(settings), **top)
    check(checkpoint=whole.checkpoint)
    refuse_unknown(whole)
