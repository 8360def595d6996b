"""A run as model-card metadata, read back by the hub's own library."""

import datetime
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from nftbench.benchmark.registry import load_benchmark
from nftbench.reporting.leaderboard.model_card import card
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError

PROTOCOLS = {
    "geneval-pocket": load_benchmark("geneval-pocket").protocol(guidance_scale=4.5),
    "ocr-pocket": load_benchmark("ocr-pocket").protocol(),
}


def row(benchmark: str, **changes) -> Row:
    return Row(
        benchmark=benchmark,
        protocol=PROTOCOLS[benchmark].hash,
        **{
            "model": "pocket",
            "checkpoint": "0123",
            "metric": "geneval",
            "variant": "pocket",
            "aggregate": "task_mean",
            "value": 0.7830000000000001,
            "stderr": 0.025,
            "low": 0.134,
            "high": 0.832,
            "n": 487,
            "n_failed": 1,
            "n_prompts": 122,
            "limited": False,
            "version": "0.10",
            "date": datetime.date(2026, 1, 2),
        }
        | changes,
    )


def a_run(folder, rows) -> Run:
    run = Run(folder)
    manifest = {
        "checkpoint": {"name": "pocket", "digest": "0123"},
        "batch_size": 16,
        "protocols": {k: p.model_dump(mode="json") for k, p in PROTOCOLS.items()},
        "rewards": {},
        "versions": {},
    }
    run.save_manifest(manifest)
    run.save_rows(rows)
    return run


ROWS = [
    row("geneval-pocket"),
    row("geneval-pocket", aggregate="image_mean", value=0.8),
    row("ocr-pocket", metric="ocr", variant="rapidocr", aggregate="image_mean", value=0.25, n=144),
]


def test_the_hubs_library_reads_every_number_with_its_error(tmp_path):
    text = card(a_run(tmp_path / "run", ROWS))
    data = ModelCard(f"---\n{text}---\n# pocket\n").data
    assert (data.model_name, data.pipeline_tag) == ("pocket", "text-to-image")
    found = {(e.dataset_type, e.metric_type, e.metric_config): e for e in data.eval_results}
    assert {k: e.metric_value for k, e in found.items()} == {
        ("geneval-pocket", "geneval@pocket", "task_mean"): 0.7830000000000001,
        ("geneval-pocket", "geneval@pocket", "image_mean"): 0.8,
        ("ocr-pocket", "ocr@rapidocr", "image_mean"): 0.25,
    }
    first = found["geneval-pocket", "geneval@pocket", "task_mean"]
    assert first.metric_args == {
        "stderr": 0.025,
        "low": 0.134,
        "high": 0.832,
        "n": 487,
        "n_failed": 1,
        "n_prompts": 122,
        "version": "0.10",
    }
    assert first.dataset_config == PROTOCOLS["geneval-pocket"].hash
    assert first.dataset_args["guidance_scale"] == 4.5
    assert first.dataset_name == load_benchmark("geneval-pocket").title


def test_a_data_set_is_a_benchmark_under_one_protocol(tmp_path):
    ((model),) = yaml.safe_load(card(a_run(tmp_path / "run", ROWS)))["model-index"]
    assert model["name"] == "pocket"
    assert [(r["dataset"]["type"], len(r["metrics"])) for r in model["results"]] == [
        ("geneval-pocket", 2),
        ("ocr-pocket", 1),
    ]
    assert json.dumps(model)  # plain values only


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"limited": True}, "--limit"), ({"stderr": float("nan")}, "no standard error")],
)
def test_what_may_not_be_published_gets_no_card(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        card(a_run(tmp_path / "run", [row("geneval-pocket", **changes)]))


@pytest.mark.thorough
@pytest.mark.slow
def test_the_readmes_example_draws_the_image_that_was_scored(start, tmp_path):
    """A LoRA, trained and asked by commands; plain diffusers, told by the README, makes the run's first picture."""
    (tmp_path / "mine.txt").write_text("a red circle\na blue square\n")
    small = [f"stages.{k}" for k in ("iterations=1", "groups=2", "group_size=2", "rewards=jpeg")]
    small += ["stages.num_inference_steps=2", "evaluation.every=0", "optimizer.lr=0.01"]
    flags = [word for setting in small for word in ("--set", setting)]
    code, _, err = start("train", "--prompts", "mine.txt", *flags, "--out", "trained").finish()
    assert code == 0, err
    arguments = ["--prompts", "mine.txt", "--rewards", "jpeg", "--steps", "2", "--batch-size", "1"]
    code, _, err = start("eval", "trained", *arguments, "--out", "run").finish()
    assert code == 0, err
    target = tmp_path / "trained" / "README.md"
    code, _, err = start("leaderboard", "card", "run", "--readme", "--out", str(target)).finish()
    assert code == 0, err
    text = target.read_text("utf-8")
    data = ModelCard(text).data
    assert (data.library_name, data.tags) == ("diffusers", ["text-to-image", "nftbench", "lora"])
    assert data.model_name == "trained" and len(data.eval_results) == 1
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=target.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(target.parent / "image.png"))
    (scored, _) = sorted((tmp_path / "run").rglob("images/*.png"))
    np.testing.assert_array_equal(drawn, np.asarray(Image.open(scored)))
