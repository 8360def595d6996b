"""The Python way does what the commands do."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import nftbench
from rewards.base import ConfigError

SMALL = {"suite": "geneval-pocket", "rewards": "jpeg", "limit": 2, "num_inference_steps": 1}


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_live_pipeline_scores_as_its_checkpoint_does(policy, tmp_path, capfd):
    named = nftbench.evaluate("pocket", out="named", **SMALL)
    live = nftbench.evaluate(
        policy.pipeline,
        name="mine",
        out="live",
        height=64,
        width=64,
        max_sequence_length=0,
        guidance_scale=1.0,
        **SMALL,
    )
    same = ["metric", "aggregate", "value", "low", "high", "n"]
    assert_frame_equal(named.rows[same], live.rows[same])
    assert set(live.rows["model"]) == {"mine"} and set(named.rows["model"]) == {"pocket"}
    images = [sorted((tmp_path / f).glob("*/images/*.png")) for f in ("named", "live")]
    assert [p.read_bytes() for p in images[0]] == [p.read_bytes() for p in images[1]]
    samples = live.samples("geneval-pocket")
    assert len(samples) == live.rows["n"].iloc[0] and np.isfinite(samples["jpeg"]).all()
    assert "live" in repr(live) and "rows" in repr(live)
    assert "it/s" not in capfd.readouterr().err  # a bar is for a terminal or a notebook


def test_other_weights_are_another_checkpoint(policy):
    from nftbench.api import _loaded

    before = _loaded(policy.pipeline, "x").digest
    weight = next(policy.pipeline.transformer.parameters())
    value = weight.data.flatten()[0].clone()
    try:
        weight.data.view(-1)[0] += 1e-3
        assert _loaded(policy.pipeline, "x").digest != before
    finally:
        weight.data.view(-1)[0] = value
    assert _loaded(policy.pipeline, "x").digest == before


def test_bad_input_is_one_clear_error(policy, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'pocket'"):
        nftbench.evaluate("poket")
    with pytest.raises(ConfigError, match="pass suite"):
        nftbench.evaluate(policy.pipeline)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_train_and_evaluate_what_came_of_it():
    trained = nftbench.train(
        rewards="jpeg",
        iterations=1,
        settings=[
            "policy.rank=2",
            "stages.groups=2",
            "stages.group_size=2",
            "stages.num_inference_steps=2",
            "evaluation.benchmarks=[]",
            "loggers=[]",
            'stages.prompts=["geneval-pocket"]',
        ],
        out="run",
    )
    assert isinstance(trained.changes, pd.DataFrame) and trained.folder.name == "run"
    assert len(nftbench.evaluate(trained.folder, **SMALL).rows)
