"""A third algorithm is one file: named in an entry point, trained by name, with the trainer untouched."""

import importlib
import math

import pytest

from nftbench.training import algorithms
from nftbench.training.algorithms.flow_grpo import FlowGRPO
from rewards.base import ConfigError
from tests.helpers.runs.trainings import begin, metrics_of, small

REGRESSION = '''
"""Reward-weighted regression: every image is learned again, better ones more. A toy."""

from contextlib import contextmanager


class Regression:
    def __init__(self, recipe):
        self.temperature = recipe.stages[0].beta

    @contextmanager
    def sampler(self, pipeline, samples, seed):
        noted = []
        yield noted
        noted += [s.prompt.id for s in samples]

    def trainable_times(self, rollout, stage):
        assert len(rollout.steps) == len(rollout.samples)
        return len(rollout.record.t)

    def terms(self, batch, velocity, stage):
        record = batch.rollout.record
        x_0 = record.x_0[batch.images].float()
        t = record.t.to(x_0)[batch.time_indices]
        v = velocity("theta", record.noised(x_0, batch.eps, t), batch.time_indices)
        weight = (batch.rollout.advantages[batch.images] / self.temperature).exp().to(x_0)
        error = (v - (batch.eps - x_0)).square().mean((1, 2, 3))
        return {"loss": weight * error, "weight": weight}
'''


@pytest.fixture
def regression(tmp_path, monkeypatch):
    """The toy, installed beside us as another package would be."""
    (tmp_path / "regression.py").write_text(REGRESSION, "utf-8")
    about = tmp_path / "regression-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: regression\nVersion: 1\n", "utf-8"
    )
    (about / "entry_points.txt").write_text(
        "[nftbench.algorithms]\nregression = regression:Regression\nnft = regression:Regression\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    algorithms._registered.cache_clear()
    yield
    algorithms._registered.cache_clear()


@pytest.mark.slow
def test_a_third_algorithm_trains_by_its_name(regression, tmp_path):
    run = begin(small("algorithm=regression", "stages.iterations=2"), tmp_path / "run")
    before = run.policy.fingerprint()
    run.run()
    _, first, second = metrics_of(tmp_path / "run")
    assert first["weight"] > 0 and math.isfinite(second["loss"])
    assert not {"policy_loss", "old_deviation"} & first.keys()
    assert run.policy.fingerprint() != before


def test_another_package_does_not_replace_ours(regression):
    assert set(algorithms.names()) == {"nft", "flow-grpo", "regression"}
    assert algorithms.load_algorithm("nft").__name__ == "DiffusionNFT"
    assert algorithms.load_algorithm("flow-grpo") is FlowGRPO


def test_an_unknown_name_is_refused_with_the_near_one():
    with pytest.raises(
        ConfigError, match=r"unknown algorithm 'flow-grop'; did you mean 'flow-grpo'"
    ):
        small("algorithm=flow-grop")


def test_an_algorithm_that_cannot_be_imported_is_one_line(monkeypatch):
    monkeypatch.setitem(algorithms._registered(), "gone", "no_such_module:Gone")
    with pytest.raises(ConfigError, match="algorithm 'gone' cannot be loaded: No module named"):
        algorithms.load_algorithm("gone")
