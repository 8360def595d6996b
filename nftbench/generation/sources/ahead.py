"""A checkpoint's files before they are needed: whether they are on this disk, and fetching them."""

from nftbench.generation.sources.files import lacking_in_pipeline
from nftbench.generation.sources.hub import cached_folder, fetch_file
from nftbench.generation.sources.packaged import place_of
from nftbench.generation.sources.pipelines import WEIGHTS, fetch_pipeline
from nftbench.generation.sources.reference import VARIANT, HubPlace, hub_place, parse
from rewards.base import ConfigError


def is_here(checkpoint: str) -> bool:
    """Whether a checkpoint's base can be loaded without a network; parts from elsewhere are not looked for."""
    place = _on_hub(checkpoint)
    if place is None:
        return place_of(parse(checkpoint).base).exists()
    folder, inside = cached_folder(place), place.subfolder or ""
    if folder is None:
        return False
    if inside.endswith(WEIGHTS):
        return (folder / inside).is_file()
    try:
        return not lacking_in_pipeline(folder / inside)
    except ConfigError:
        return False


def fetch(checkpoint: str) -> None:
    """Bring the files of a checkpoint's base into the hub's cache, those alone that are loaded.

    Raises:
        ConfigError: it cannot be had; says whether it is gated, missing or out of reach.
    """
    place = _on_hub(checkpoint)
    if place is None:
        return
    folder, _, name = (place.subfolder or "").rpartition("/")
    if name.endswith(WEIGHTS):
        fetch_file(HubPlace(place.id, place.revision, folder or None), name)
        return
    fetch_pipeline(place, parse(checkpoint).one(VARIANT))


def _on_hub(checkpoint: str) -> HubPlace | None:
    base = parse(checkpoint).base
    return None if place_of(base).exists() else hub_place(base)
