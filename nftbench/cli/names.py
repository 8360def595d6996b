"""Names that the user wrote, looked up before anything heavy is imported: a misspelt one is answered at once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.base import ConfigError


def check(
    *,
    checkpoint: str | None = None,
    suite: str | None = None,
    rewards: str | None = None,
    runs: Iterable[str | Path] = (),
    several: bool = False,
) -> None:
    """Refuse what an evaluation cannot know.

    Args:
        checkpoint: as `nftbench eval` takes it.
        suite: of a suite or benchmark, or a suite's file.
        rewards: a list, with files of the user's own, which are run.
        runs: `RUN` or `RUN=LABEL` each.
        several: whether the checkpoint may be the runs of several seeds.

    Raises:
        ConfigError: the near name is suggested.
    """
    for run in runs:
        there(run, "a folder made by `nftbench eval` or `nftbench train`")
    if checkpoint is not None:
        from nftbench.generation.sources.packaged import refuse_unknown

        refuse_unknown(checkpoint)
        base = Path(checkpoint.partition("+")[0])
        if base.is_dir() and not (several and base == Path(checkpoint)):
            from nftbench.runs.seeds import refuse_parent  # seconds: only where there is a folder

            refuse_parent(base, f"average them (nftbench average {base} --out FOLDER), or ")
    if suite:
        _suite(suite)
    if rewards and rewards.strip():
        import rewards as registry

        registry.without_weights(registry.add_files(rewards))


def _suite(name: str) -> None:
    from nftbench.benchmark.registry import load_suite

    try:
        load_suite(name)
    except ConfigError:
        if not Path(name, "manifest.json").is_file():  # runs.manifest.MANIFEST takes seconds
            raise
        raise ConfigError(
            f"{name} is a run's folder; expected a suite or benchmark, such as pocket-table1, and runs behind it; "
            f"`nftbench score {name}` shows a run's own numbers"
        ) from None


def there(path: str | Path, expected: str) -> None:
    """Refuse a folder or file that does not exist; of `RUN=LABEL` the run.

    Args:
        path: as it was written.
        expected: what it should be, in words.

    Raises:
        ConfigError: there is nothing of this name.
    """
    text = str(path)
    ends = [i for i, sign in enumerate(text) if sign == "="]
    if not any(Path(text[:end]).exists() for end in (*ends, len(text))):
        raise ConfigError(f"there is no {text}; expected {expected}")


def check_recipe(recipe: str | None, settings: Sequence[str], top: Mapping[str, Any]) -> None:
    """Refuse what a training cannot know: recipe, settings, checkpoint, rewards, prompts, benchmarks.

    Args:
        recipe: a shipped one or a file; pocket's for the algorithm and the rewards when left out.
        settings: `section.key=value` each; files of rewards are run.
        top: values of top-level keys; None leaves one as it is.

    Raises:
        ConfigError: the near name is suggested.
    """
    from nftbench.training.config.names import recipe_name, refuse_unknown, with_files
    from nftbench.training.config.overrides import load_recipe

    settings = with_files(settings)
    whole = load_recipe(recipe_name(recipe, settings, top), settings, **top)
    check(checkpoint=whole.checkpoint)
    refuse_unknown(whole)


def check_settings(flags: Mapping[str, Any], settings: Sequence[str]) -> None:
    """Refuse a setting that the command line names by a flag and by `--set`, and not alike."""
    from nftbench.training.config.overrides import refuse_twice

    refuse_twice(flags, settings)


def check_seeds(text: str) -> None:
    """Refuse `--seeds` that are no whole numbers, or one of them twice."""
    from nftbench.training.config.names import parse_seeds

    parse_seeds(text)
