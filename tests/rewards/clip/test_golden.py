"""The CLIP family against the numbers of the references' own code, on weights rebuilt from names."""

import pytest

from rewards import BUILT_IN
from rewards.certify import clip
from tests.helpers.paths import GOLDEN

CHEAP = [
    pytest.param(check, id=f"{key}-{check.func.__name__}")
    for key, checks in clip.CHEAP.items()
    for check in checks
]


def test_every_reward_of_the_family_has_checks():
    family = ("clipscore", "pickscore", "hpsv2", "aesthetic")
    keys = {key for key in BUILT_IN if key.partition("@")[0] in family}
    assert keys == clip.CHEAP.keys()
    assert all(len(checks) >= 3 for checks in clip.CHEAP.values())


@pytest.mark.parametrize("check", CHEAP)
def test_what_a_loaded_reward_hands_over_is_the_reference_s(check):
    for found in check(GOLDEN):
        assert found.passed, found


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("check", [c for checks in clip.FULL_SIZE.values() for c in checks])
def test_full_size_networks_equal_the_reference(check):
    """Neighbours share a network, in this order: ViT-L/14 twice, its other names, ViT-H/14, HPSv2's."""
    found = list(check(GOLDEN))
    assert len(found) >= 2
    for each in found:
        assert each.passed, each
