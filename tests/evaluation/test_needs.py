"""All that a suite lacks is said at once."""

import pytest

from nftbench.evaluation.needs import needs
from rewards.base import ConfigError


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "weights"))
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NFTBENCH_JUDGE_URL", "http://127.0.0.1:9/v1")


def test_table1_names_prompts_weights_and_the_judge():
    found = needs(["table1"])
    assert len({(n.kind, n.name) for n in found}) == len(found)
    assert all(n.remedy for n in found if not n.here)
    kinds = {n.kind for n in found if not n.here}
    assert kinds == {"prompts", "weights", "reward"}
    judge = next(n for n in found if n.name == "unifiedreward@nft")
    assert not judge.here and "127.0.0.1:9" in judge.remedy
    clip = [n for n in found if "clip-vit-large" in n.name]
    assert len(clip) == 1  # ClipScore, Aesthetic and GenEval share it


def test_pocket_lacks_nothing():
    assert all(n.here for n in needs(["pocket"]))


def test_a_suite_that_is_none():
    with pytest.raises(ConfigError, match="did you mean 'table1'"):
        needs(["tabel1"])
