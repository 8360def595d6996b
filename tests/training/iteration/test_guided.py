"""Training from guided rollouts: the old policy is the guided one, stays, and theta learns to do without."""

from dataclasses import replace

import pytest
import torch

from nftbench.training.config.overrides import load_recipe
from nftbench.training.iteration import rollouts
from rewards.base import ConfigError
from tests.helpers.runs.trainings import begin, settings_of, small

pytestmark = pytest.mark.slow

GUIDED = ("stages.guided=3.0", "stages.old_schedule=keep", "stages.kl_weight=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three iterations, at its end."""
    run = begin(small(*GUIDED), tmp_path_factory.mktemp("guided") / "run")
    run.run()
    return run


def test_old_stays_and_theta_moves(run):
    weights = run.policy.weights
    assert all(torch.equal(a, b) for a, b in zip(weights["old"], weights["ref"], strict=True))
    assert weights.distance("theta", "old") > 0


def test_the_old_policy_of_the_loss_is_guided(run, tmp_path):
    """Before any update theta equals the unguided old policy, and differs from the guided one by the guidance."""
    fresh = begin(small(*GUIDED, "stages.updates=1"), tmp_path / "guided").trainer
    plain = begin(small("stages.updates=1"), tmp_path / "plain").trainer
    assert fresh.iterate()["old_deviation"] > 0.01
    assert plain.iterate()["old_deviation"] == 0


def test_images_are_drawn_with_guidance(tmp_path):
    trainers = [
        begin(small(*more), tmp_path / name).trainer
        for name, more in (("guided", GUIDED), ("plain", ()))
    ]
    x_0 = [
        torch.cat([b.record.x_0 for b in t.rollout.draw(t.data, t.state, t.batch_size)])
        for t in trainers
    ]
    assert x_0[0].shape == x_0[1].shape and not torch.allclose(x_0[0], x_0[1], atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (("stages.guided=3.0",), "expected old_schedule = .keep. with guided"),
        (
            ("stages.guided=1.0", "stages.old_schedule=keep"),
            r"stages\.0\.guided: expected a number greater than 1",
        ),
    ],
)
def test_a_recipe_that_cannot_be(settings, wrong):
    with pytest.raises(ConfigError, match=wrong):
        load_recipe("pocket", settings_of(*settings))


def test_flow_grpo_has_no_likelihood_of_guidance(tmp_path):
    recipe = small(*GUIDED, recipe="pocket-flow-grpo")
    with pytest.raises(ConfigError, match=r"leave out stages\.guided"):
        begin(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_what_is_guided_in_another_way_is_refused_before_the_run_begins(tmp_path, monkeypatch):
    """What is wrong is seen in tests/generation/test_guided.py; here: that one image is looked at, in time."""
    true = rollouts.guided_records

    def wrong(*args):
        kept, guided = true(*args)
        return kept, replace(guided, scale=guided.scale + 2)

    monkeypatch.setattr(rollouts, "guided_records", wrong)
    with pytest.raises(ConfigError, match="guidance of this pipeline is not"):
        begin(small(*GUIDED), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_a_stage_may_begin_with_the_average(tmp_path):
    recipe = small()
    (stage,) = recipe.stages
    later = stage.model_copy(update={"reset": ("theta", "old")})
    run = begin(recipe.model_copy(update={"stages": (later,)}), tmp_path / "run")
    run.trainer.iterate()
    weights = run.policy.weights
    run.trainer._begin_stage()
    for name in ("theta", "old"):
        assert all(torch.equal(a, b) for a, b in zip(weights[name], weights["ema"], strict=True))
