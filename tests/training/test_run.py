"""A training run that was cut is resumed as if it had not been; what it leaves, anything can load."""

import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.commands import train_checkpoint
from nftbench.generation.checkpoint import load_model, own_settings
from nftbench.generation.sampling import generate
from nftbench.training import Interrupted
from nftbench.training.callbacks.checkpoints import checkpoints, load_state
from nftbench.training.config.names import parse_seeds
from nftbench.training.config.overrides import difference
from nftbench.training.config.recipe import Recipe, TrustRegion
from nftbench.training.config.record import stored_recipe
from nftbench.training.run import TrainingRun
from nftbench.training.setup import resumed_recipe
from nftbench.training.stages import RewardSet, stage_data
from rewards.base import ConfigError, Prompt
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import (
    begin,
    metrics_of,
    quietly,
    settings_of,
    small,
    tiny_checkpoint,
)

pytestmark = pytest.mark.slow


def sha256(folder: Path) -> dict[str, str]:
    """Of all weights that a run leaves: theta, old and ema, and the LoRA."""
    files = {
        "state": checkpoints(folder / "checkpoints")[-1] / "weights.safetensors",
        "lora": folder / "lora" / "pytorch_lora_weights.safetensors",
    }
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def stop_at(run: TrainingRun, method: str, done: int, updates: int) -> None:
    """Ask for a stop when the run first comes to a method in that train state."""
    trainer = run.trainer
    owner = {"_batch": trainer.rollout, "_backward": trainer.update}.get(method, trainer)
    original = getattr(owner, method)

    def hooked(*arguments):
        if (trainer.state.done, trainer.state.updates) == (done, updates):
            run.processes.ask_to_stop()
        return original(*arguments)

    setattr(owner, method, hooked)


def finished(recipe: Recipe, folder: Path) -> Path:
    begin(recipe, folder).run()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody cut."""
    return finished(small(), tmp_path_factory.mktemp("whole") / "run")


# --- cut and resumed --------------------------------------------------------------------------------------------------

CUTS = {
    "rollout": ("_batch", 1, 0),
    "between two iterations": ("_old_follows", 1, 2),
}
"""Cuts between two optimiser steps are those of `test_a_run_cut_twice`."""


def test_the_uncut_run_trains(whole):
    lines = metrics_of(whole)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert [line["images"] for line in lines] == [0, 12, 24, 36]
    state = load_state(checkpoints(whole / "checkpoints")[-1])
    assert (state.train_state.optimizer_steps, state.train_state.done) == (6, 3)
    names = [k.removeprefix("theta.") for k in state.weights if k.startswith("theta.")]
    assert any((state.weights[f"theta.{k}"] != state.weights[f"ema.{k}"]).any() for k in names)


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_run_ends_with_the_same_bytes(whole, tmp_path, cut):
    method, done, updates = CUTS[cut]
    run = begin(small(), tmp_path / "run")
    stop_at(run, method, done, updates)
    with pytest.raises(Interrupted, match="nftbench train --resume"):
        run.run()
    state = load_state(checkpoints(tmp_path / "run" / "checkpoints")[-1]).train_state
    expected = (done + 1, 0) if method == "_old_follows" else (done, updates)
    assert (state.done, state.updates) == expected
    begin(small(), tmp_path / "run", resume=True).run()
    assert metrics_of(tmp_path / "run") == metrics_of(whole)
    assert sha256(tmp_path / "run") == sha256(whole)


def test_a_run_cut_twice(whole, tmp_path):
    """Within an iteration: the checkpoint of its beginning, which may be the best one, stays what it was."""
    recipe = small("checkpoints.every=1")
    for method, done, updates in (("_backward", 0, 1), ("_backward", 2, 1)):
        run = begin(recipe, tmp_path, resume=done > 0)
        stop_at(run, method, done, updates)
        with pytest.raises(Interrupted, match=f"saved .*{done:06d}-{updates:06d}; resume with"):
            run.run()
    saved = {p.name: load_state(p).train_state for p in checkpoints(tmp_path / "checkpoints")}
    assert {name: (s.done, s.updates) for name, s in saved.items()} == {
        "000002": (2, 0),
        "000002-000001": (2, 1),
    }
    begin(recipe, tmp_path, resume=True).run()
    assert metrics_of(tmp_path) == metrics_of(whole)
    assert sha256(tmp_path) == sha256(whole)


def test_tensorboard_has_each_point_once_after_a_kill(tmp_path):
    recipe = small("loggers=tensorboard", "checkpoints.every=1")
    finished(recipe, tmp_path)
    for late in checkpoints(tmp_path / "checkpoints")[1:]:
        shutil.rmtree(
            late
        )  # as a process leaves it that is killed two iterations after its last save
    begin(recipe, tmp_path, resume=True).run()
    events = EventAccumulator(str(tmp_path / recipe.name))
    events.Reload()
    assert [point.step for point in events.Scalars("reward/total")] == [1, 2, 3]


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    recipe = small("stages.iterations=1")
    before = sha256(finished(recipe, tmp_path)), metrics_of(tmp_path)
    begin(recipe, tmp_path, resume=True).run()
    assert (sha256(tmp_path), metrics_of(tmp_path)) == before


def test_a_process_told_to_stop_saves_and_is_resumed(whole, start, tmp_path):
    settings = [part for s in settings_of() for part in ("--set", s)]
    command = start("train", "--recipe", "pocket", *settings, "--out", "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert command.signal_when(
        lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= 2, signal.SIGTERM
    )
    code, _, err = command.finish()
    assert code == 130
    assert "asked to stop; saved" in err.splitlines()[-1] and "Traceback" not in err
    code, _, err = start("train", "--resume", "run").finish()
    assert code == 0, err
    assert metrics_of(tmp_path / "run") == metrics_of(whole)
    assert sha256(tmp_path / "run") == sha256(whole)


# --- what it leaves ---------------------------------------------------------------------------------------------------

PARAMETERS = SamplingParameters(
    height=64, width=64, num_inference_steps=3, guidance_scale=1.0, max_sequence_length=0
)

ABSENT = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
"""What the tiny checkpoint does without."""


def picture(pipeline) -> np.ndarray:
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(("a red circle", "a cat"))]
    return generate(pipeline, [Sample(p, 0) for p in prompts], PARAMETERS).astype(int)


def test_plain_diffusers_loads_the_lora(whole):
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_checkpoint(), **ABSENT)
    base = picture(pipeline)
    pipeline.load_lora_weights(whole / "lora")
    trained = picture(pipeline)
    assert np.abs(trained - base).max() > 0
    np.testing.assert_array_equal(picture(load_model(str(whole)).pipeline), trained)


def test_the_lora_is_the_averaged_policy_of_the_trainer(tmp_path):
    run = begin(small("stages.iterations=1"), tmp_path)
    run.run()
    with run.policy.weights.using("ema"):
        own = picture(run.policy.pipeline)
    assert np.abs(picture(load_model(str(tmp_path)).pipeline) - own).max() <= 1


def test_full_training_leaves_a_pipeline(tmp_path):
    run = begin(small("policy.method=full", "stages.iterations=1", "stages.updates=1"), tmp_path)
    run.run()
    with run.policy.weights.using("ema"):
        own = picture(run.policy.pipeline)
    loaded = load_model(str(tmp_path)).pipeline
    for key, tensor in zip(run.policy.weights.parameters, run.policy.weights["ema"], strict=True):
        assert torch.equal(loaded.transformer.get_parameter(key).cpu(), tensor.cpu()), key
    np.testing.assert_array_equal(picture(loaded), own)
    written = [path.read_text("utf-8") for path in (tmp_path / "pipeline").rglob("*.json")]
    base = str(Path(run.setup.base.pipeline.config["_name_or_path"]))
    assert Path(base).is_absolute() and not any(base in text for text in written)


def test_a_pipeline_asks_for_what_its_base_asks_for(tmp_path):
    """Wherever it is taken: without its text length of 0, pocket reads 256 empty tokens and draws mush."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_checkpoint(), base)
    (base / "nftbench.toml").write_text("[sampling]\nmax_sequence_length = 0\n", "utf-8")
    once = ("policy.method=full", "stages.iterations=1", "stages.updates=1")
    begin(small(f"checkpoint={base}", *once), run).run()
    moved = (run / "pipeline").rename(tmp_path / "moved")
    assert own_settings(str(moved)) == own_settings(str(base)) == {"max_sequence_length": 0}


def test_a_base_that_changed_is_refused(whole, tmp_path):
    note = json.loads((whole / "policy.json").read_text("utf-8")) | {"base_digest": "0" * 16}
    (tmp_path / "policy.json").write_text(json.dumps(note), "utf-8")
    (tmp_path / "lora").symlink_to(whole / "lora")
    with pytest.raises(ConfigError, match="0000000000000000"):
        load_model(str(tmp_path))


# --- runs that are refused --------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_begun_again(whole):
    with pytest.raises(ConfigError, match="holds a training run; resume it with --resume"):
        begin(small(), whole)


def test_a_folder_without_checkpoints_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="not a training run"):
        begin(small(), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"holds no recipe\.json"):
        resumed_recipe(tmp_path, None, [])


def test_weights_of_another_lora_are_not_resumed(whole):
    for setting in ("rank=8", "method=full", "alpha=8"):
        with pytest.raises(ConfigError, match=rf"policy\.{setting[:4]}.* cannot be changed"):
            begin(small(f"policy.{setting}"), whole, resume=True)


def test_another_recipe_is_not_resumed(whole):
    assert resumed_recipe(whole, None, []) == small()
    assert resumed_recipe(whole, small(), []) == small()
    longer = resumed_recipe(whole, None, ["stages.iterations=9"])
    assert difference(small(), longer) == ["stages.0.iterations"]
    with pytest.raises(ConfigError, match=r"another recipe \(optimizer\.lr differ\)"):
        resumed_recipe(whole, small("optimizer.lr=0.5"), [])
    with pytest.raises(ConfigError, match="leave out --out"):
        train_checkpoint(None, [], {}, out=whole, resume=whole, progress=quietly, say=quietly)


def test_guidance_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="guidance"):
        begin(small("rollout.guidance_scale=4.5"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prompt_file_without_prompts(tmp_path):
    path = tmp_path / "none.txt"
    path.write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"none\.txt"):
        begin(small(f'stages.prompts=["{path}"]'), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.txt", "a red star\na blue cup\n"),
        ("own.csv", "prompt,tag\na red star,one\na blue cup,one\n"),
        ("own.jsonl", '{"prompt": "a red star"}\n\n{"prompt": "a blue cup"}\n'),
    ],
)
def test_prompts_of_ones_own(tmp_path, name, content):
    """Every kind of file that `eval --prompts` takes; ids are not those of the same prompts when they are asked."""
    (tmp_path / name).write_text(content, "utf-8")
    recipe = small(f"stages.prompts={tmp_path / name}")
    data = stage_data(recipe.stages[0], RewardSet(recipe, "cpu"))
    assert [p.text for p in data.prompts] == ["a red star", "a blue cup"]
    assert all(p.id.startswith("t0-0000") for p in data.prompts)


def test_a_typo_in_a_setting_is_one_line(start, tmp_path):
    code, out, err = start("train", "--set", "stages.group_sise=4", "--out", "run").finish()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "did you mean 'group_size'?" in err
    assert not (tmp_path / "run").exists()


def test_a_trust_region_is_switched_on_and_off_on_resume(tmp_path):
    flags = [word for setting in settings_of("stages.iterations=1") for word in ("--set", setting)]
    assert run_here(tmp_path, "train", "--recipe", "pocket", *flags, "--out", "run")[0] == 0
    for iterations, setting, expected in (
        ("2", "stages.trust_region.kl=1", TrustRegion(kl=1)),
        ("3", "stages.trust_region=off", None),
    ):
        more = ("--iterations", iterations, "--set", setting)
        code, said = run_here(tmp_path, "train", "--resume", "run", *more)
        assert code == 0 and "stages.0.trust_region.kl" in said, said
        assert stored_recipe(tmp_path / "run").stages[0].trust_region == expected


# --- several seeds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("0,1,0", "seed 0 stands twice in --seeds 0,1,0"),
        ("0,a", "expected --seeds as whole numbers with commas, such as 0,1,2, got '0,a'"),
        ("", "expected --seeds as whole numbers"),
    ],
)
def test_seeds_that_are_none(text, wrong):
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        parse_seeds(text)
