"""The CLIP family against the numbers of the references' own code, on weights rebuilt from names."""

import pytest

from rewards import BUILT_IN
from rewards.certify import clip
from rewards.certify.seeded import clip_networks
from tests.helpers.paths import GOLDEN

NAMES = [
    pytest.param(check, id=f"{key}-{i}")
    for key, checks in clip.CHEAP.items()
    for i, check in enumerate(checks)
    if not check.__qualname__.startswith("preprocessing")
]


def test_every_reward_of_the_family_has_checks():
    family = ("clipscore", "pickscore", "hpsv2", "aesthetic")
    keys = {key for key in BUILT_IN if key.partition("@")[0] in family}
    assert keys == clip.CHECKS.keys() - {"geneval@official"}
    assert all(len(checks) >= 3 for checks in clip.CHECKS.values())


@pytest.mark.parametrize("check", NAMES)
def test_names_and_tokens_are_the_references(check):
    for found in check(GOLDEN):
        assert found.passed, found


@pytest.fixture(scope="module", autouse=True)
def nothing_is_held_afterwards():
    yield
    clip_networks._held.clear()


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("check", dict.fromkeys(c for f in clip.FULL_SIZE.values() for c in f))
def test_full_size_networks_equal_the_reference(check):
    """Neighbours share a network, in this order: ViT-L/14 twice, its other names, ViT-H/14, HPSv2's."""
    found = list(check(GOLDEN))
    assert len(found) >= 2
    for each in found:
        assert each.passed, each
