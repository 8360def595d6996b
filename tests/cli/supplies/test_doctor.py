"""What `nftbench doctor` finds on the machine the tests run on."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

import rewards
from nftbench.cli.supplies import doctor
from nftbench.runs import versions
from tests.helpers.commands import run_here


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


class Odd:
    """As a package's reward with a mistake in it."""

    info = replace(rewards.reward_info("jpeg"), name="odd")

    def __init__(self, *, device: str) -> None:
        raise TypeError(f"no weights\nfor {device}")


def test_a_packages_reward_with_a_mistake_is_broken_and_ends_nothing(tmp_path, monkeypatch):
    """It ended the very command that looks for what is wrong, in a traceback."""
    point = EntryPoint("odd", f"{__name__}:Odd", "nftbench.rewards")
    monkeypatch.setattr(rewards, "BUILT_IN", {"jpeg": rewards.BUILT_IN["jpeg"]})
    monkeypatch.setattr(rewards, "entry_points", lambda *, group: [point])
    code, said = run_here(tmp_path, "doctor")
    (line,) = [line for line in said.splitlines() if "reward odd" in line]
    assert (
        code == 1 and line.startswith("broken ") and line.endswith("TypeError: no weights for cpu")
    )
    assert "ok      reward jpeg" in said


def test_a_package_that_is_gone_is_broken_and_ends_nothing(monkeypatch):
    monkeypatch.setattr(versions, "PACKAGES", ("torch", "none-such"))
    found = {one.what: one for one in doctor.examine()}
    assert (found["none-such"].state, found["none-such"].detail) == ("broken", "not installed")
    assert found["torch"].state == "ok"
