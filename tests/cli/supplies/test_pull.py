"""`nftbench pull`: what a suite or a recipe needs is listed, and fetched from where it lies."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from nftbench.cli.main import app
from nftbench.generation.sources.ahead import is_here
from rewards.base import ConfigError
from tests.helpers.runs.trainings import tiny_checkpoint
from tests.helpers.servers import fake_hub

PULL = """
import importlib, sys
import huggingface_hub.constants
importlib.reload(huggingface_hub.constants)  # the address and the cache of this process, read at the first import
sys.argv = ["nftbench", "pull", "mine.toml", *{flags!r}]
from nftbench.cli.main import main
main()
"""
RECIPE = """
name = "mine"
checkpoint = "some/model"
loggers = []
[rollout]
batch_size = 4
[[stages]]
prompts = ["geneval-pocket"]
rewards = "jpeg"
iterations = 1
"""


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "weights"))
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path / "data"))


def listed(*names: str) -> dict[str, dict[str, dict]]:
    """What is needed, by kind and name."""
    done = CliRunner().invoke(app, ["pull", *names, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    kinds = {need["kind"] for need in found}
    return {k: {n["name"]: n for n in found if n["kind"] == k} for k in kinds}


def test_a_recipe_names_checkpoint_prompts_and_weights():
    found = listed("sd3.5-m-geneval")
    (checkpoint,) = found["checkpoint"].values()
    assert checkpoint["name"] == "stabilityai/stable-diffusion-3.5-medium"
    assert not checkpoint["here"]
    prompts = found["prompts"]
    assert prompts["geneval/train_metadata.jsonl"]["remedy"].endswith("geneval-nft --training")
    assert "geneval/flow_grpo_test_metadata.jsonl" in prompts
    assert any(name.startswith("mask2former/") for name in found["weights"])
    assert not any(need["here"] for kind in found.values() for need in kind.values())


def test_a_name_of_a_suite_and_of_a_recipe_is_both():
    found = listed("pocket")
    assert found["checkpoint"]["pocket"]["here"] and "ocr@rapidocr" in str(found)


def test_a_misspelt_recipe_gets_the_near_one():
    done = CliRunner().invoke(app, ["pull", "sd3.5-m-genevl", "--dry-run"])
    assert isinstance(done.exception, ConfigError)
    assert "did you mean 'sd3.5-m-geneval'" in str(done.exception)


def test_the_dry_run_says_the_whole_command(tmp_path, monkeypatch):
    """Files of which no digest is known are accepted by name; a name of no file is refused, whatever is here."""
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    ocr = ["pull", "sd3.5-m-ocr", "--dry-run"]
    done = CliRunner().invoke(app, ocr)
    assert done.output.rstrip().endswith("nftbench pull sd3.5-m-ocr --accept-digest ocr/train.txt")
    refused = CliRunner().invoke(app, [*ocr, "--accept-digest", "ocr/trian.txt"])
    assert isinstance(refused.exception, ConfigError)
    assert "--accept-digest ocr/trian.txt is none of the files" in str(refused.exception)


def test_part_of_a_checkpoint_is_not_here(tmp_path, monkeypatch):
    """Each network needs its weights, all shards of them; then it is here."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--some--model"
    assert not is_here("some/model")
    folder = home / "snapshots" / "c0ffee"
    shutil.copytree(tiny_checkpoint(), folder)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    assert is_here("some/model") and not is_here("some/model@other")
    weights = next((folder / "transformer").glob("*.safetensors"))
    index = folder / "transformer" / f"{weights.name}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": weights.name, "b": "gone.safetensors"}}))
    assert not is_here("some/model")
    index.write_text("{")
    assert not is_here("some/model")
    index.unlink()
    weights.rename(folder / "away.safetensors")
    assert not is_here("some/model")


@pytest.mark.slow
def test_a_recipe_is_pulled_from_the_hub_once(tmp_path, start_code):
    """Then the same command finds all of it here, without a network."""
    shutil.copytree(tiny_checkpoint(), tmp_path / "hub" / "some" / "model" / "main")
    (tmp_path / "mine.toml").write_text(RECIPE)

    def pull(*flags: str, offline: str = "1", endpoint: str = "") -> tuple[int, str, str]:
        environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": offline}
        environment |= {"HF_ENDPOINT": endpoint} if endpoint else {}
        return start_code(PULL.format(flags=flags), environment).finish()

    code, _, err = pull("--offline")
    assert code == 2 and "some/model: not in the hub's cache" in err
    with fake_hub.serving(tmp_path / "hub") as url:
        code, out, err = pull(offline="0", endpoint=url)
    assert code == 0, err
    assert "0 files fetched, 0 bytes and some/model of the hub" in out
    listed = json.loads(pull("--dry-run", "--json")[1])
    (checkpoint,) = [need for need in listed if need["kind"] == "checkpoint"]
    assert checkpoint["here"]
