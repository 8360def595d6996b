"""What `nftbench doctor` finds on the machine the tests run on."""

import pytest

import rewards
from nftbench.cli.supplies import doctor
from nftbench.runs import versions


@pytest.mark.slow
def test_everything_needed_is_found_and_every_reward_is_tried():
    found = {f.what: f for f in doctor.examine()}
    assert {f"reward {key}" for key in rewards.available()} <= set(found)
    assert found["torch"].state == "ok"
    for key in ("geneval@pocket", "clipscore@pocket", "pickscore@pocket", "ocr@rapidocr", "jpeg"):
        assert found[f"reward {key}"].state == "ok", found[f"reward {key}"].detail
    assert not [f for f in found.values() if f.state == "broken"]
    for extra in doctor.EXTRAS:
        finding = found[f"extra [{extra}]"]
        assert finding.state == "ok" or finding.detail == f"pip install 'nftbench[{extra}]'"


def test_a_reward_that_cannot_score_is_broken(monkeypatch):
    class Silent:
        info = rewards.reward_info("jpeg")

        def check(self, prompts):
            """Takes any."""

        def score(self, images, prompts):
            import numpy as np

            nothing = np.full(len(images), np.nan, dtype=np.float32)
            return rewards.Scores(values=nothing, reasons=("no model",) * len(images))

    monkeypatch.setattr(rewards, "load_reward", lambda key: Silent())
    finding = doctor._try_reward("jpeg")
    assert (finding.state, finding.detail) == ("broken", "no model")


def test_a_package_that_is_gone_is_broken_and_ends_nothing(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("torch", "none-such"))
    found = {one.what: one for one in doctor.examine()}
    assert (found["none-such"].state, found["none-such"].detail) == ("broken", "not installed")
    assert found["torch"].state == "ok"
