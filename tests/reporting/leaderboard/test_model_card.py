"""A run as model-card metadata, read back by the hub's own library."""

import datetime
import json

import pytest
import yaml
from huggingface_hub import ModelCard

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
