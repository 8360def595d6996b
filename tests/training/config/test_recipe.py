"""Recipes as shipped, the numbers they promise, and what a TOML or a flag may not say."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import rewards
from nftbench.benchmark.registry import load_benchmark, load_suite
from nftbench.training.algorithms import nft
from nftbench.training.config import recipe as recipe_module
from nftbench.training.config.overrides import folder, load_recipe, names
from nftbench.training.config.recipe import (
    ATTENTION,
    OptimizerConfig,
    Recipe,
    Stage,
)
from rewards import parse_rewards
from rewards.base import ConfigError

NFT = ("sd3.5-m-geneval", "sd3.5-m-ocr", "sd3.5-m-pickscore", "sd3.5-m-multireward")
PUBLISHED = (*NFT, "sd3.5-m-geneval-flow-grpo")
GENEVAL, OCR, PICK = "geneval-nft", "ocr", "pick-a-pic"
"""Benchmarks whose training prompts they are."""
THREE = "pickscore,hpsv2,clipscore"


def refusal(*settings: str, name: str = "pocket") -> str:
    """The message with which a recipe is refused: one line."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(name, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.summary
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_published_recipes_are_shipped():
    assert set(PUBLISHED) <= set(names()) and "pocket" in names()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_that_was_not_run_says_so(name):
    assert load_recipe(name).evidence.startswith("none: nothing was measured")


# --- published numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_all_published_runs_share(name):
    recipe = load_recipe(name)
    assert recipe.checkpoint == "stabilityai/stable-diffusion-3.5-medium" and recipe.seed == 42
    policy, optimizer, rollout = recipe.policy, recipe.optimizer, recipe.rollout
    assert (policy.method, policy.rank, policy.alpha, policy.precision) == ("lora", 32, 64, "fp16")
    assert policy.dtype == "float32" and policy.targets == ATTENTION
    assert (optimizer.lr, optimizer.betas, optimizer.eps) == (3e-4, (0.9, 0.999), 1e-8)
    assert (optimizer.weight_decay, optimizer.max_grad_norm, optimizer.ema) == (1e-4, 1.0, 0.9)
    assert (rollout.height, rollout.width, rollout.max_sequence_length) == (512, 512, 128)
    assert rollout.guidance_scale == 1.0
    assert recipe.evaluation.num_inference_steps == 40 and recipe.evaluation.limit == 128
    for stage in recipe.stages:
        assert (stage.groups, stage.group_size, stage.adv_clip) == (48, 24, 5.0)
        assert stage.advantage_std == "batch" and stage.combine == "sum"


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_published_recipe_names_is_there(name):
    recipe = load_recipe(name)
    for source in {load_benchmark(p).training for s in recipe.stages for p in s.prompts}:
        assert source and "24af5554898d85e93efa492f42b5e9cdf4156e9b" in source.url
        assert source.sha256 or source.blob
    texts = [*(s.rewards for s in recipe.stages), recipe.evaluation.held_out_rewards]
    names_ = {item.partition(":")[0] for text in texts for item in text.split(",") if item}
    keys = {rewards.resolve(f"{n}@{v}" if (v := recipe.variants.get(n)) else n) for n in names_}
    measured = {c.reward for c in load_suite("table1").columns} | {"geneval@flowgrpo"}
    assert keys <= {rewards.resolve(key) for key in measured}
    held_out = [load_benchmark(b) for b in recipe.evaluation.benchmarks]
    assert {p for s in recipe.stages for p in s.prompts} - {PICK} <= {b.name for b in held_out}
    assert held_out and all(b.sampling.num_inference_steps == 40 for b in held_out)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("sd3.5-m-geneval", [(GENEVAL, "geneval", 10, 1.0, "linear_to_0.5", 1)]),
        ("sd3.5-m-ocr", [(OCR, "ocr", 10, 0.1, "delayed_to_0.999", 2)]),
        ("sd3.5-m-pickscore", [(PICK, "pickscore", 10, 1.0, "linear_to_0.5", 1)]),
        (
            "sd3.5-m-multireward",
            [
                (PICK, THREE, 25, 0.1, "linear_to_0.5", 1),
                (GENEVAL, "geneval", 25, 0.1, "linear_to_0.5", 1),
                (PICK, THREE, 25, 0.1, "linear_to_0.5", 1),
                (GENEVAL, "geneval", 25, 0.1, "linear_to_0.5", 1),
                (OCR, "ocr", 25, 0.1, "linear_to_0.5", 1),
            ],
        ),
    ],
)
def test_diffusion_nft_as_published(name, stages):
    """NVlabs/DiffusionNFT@24af555 config/nft.py and config/base.py."""
    recipe = load_recipe(name)
    assert recipe.algorithm == "nft"
    found = [
        (*s.prompts, s.rewards, s.num_inference_steps, s.beta, s.old_schedule, s.updates)
        for s in recipe.stages
    ]
    assert found == stages
    assert {(s.kl_weight, s.timesteps_per_image) for s in recipe.stages} == {(1e-4, 0.99)}
    assert [s.timestep_count(s.num_inference_steps) for s in recipe.stages] == [
        9 if s[2] == 10 else 24 for s in stages
    ]
    assert (recipe.evaluation.every, recipe.checkpoints.every) == (10, 30)


def test_the_stages_of_the_multi_reward_run():
    recipe = load_recipe("sd3.5-m-multireward")
    assert [s.iterations for s in recipe.stages] == [800, 300, 200, 200, 100]
    assert sum(s.iterations for s in recipe.stages) == 1600
    text = (folder() / "sd3.5-m-multireward.toml").read_text("utf-8")
    assert "1.7k" in text and "stages.num_inference_steps=40" in text and "not published" in text
    papers = load_recipe("sd3.5-m-multireward", ["stages.num_inference_steps=40"])
    assert [s.timestep_count(40) for s in papers.stages] == [39] * 5
    assert {s.num_inference_steps for s in papers.stages} == {40}


def test_the_baseline_without_guidance():
    """yifan123/flow_grpo config/grpo.py `geneval_sd3_fast_nocfg`."""
    recipe = load_recipe("sd3.5-m-geneval-flow-grpo")
    flow, (stage,) = recipe.flow_grpo, recipe.stages
    assert (recipe.algorithm, flow.variant) == ("flow-grpo", "cps")
    assert (flow.noise_level, flow.clip_range) == (0.8, 1e-5)
    assert flow.window is not None and flow.window[1] - flow.window[0] == 3 and flow.window[1] <= 5
    assert (stage.prompts, stage.rewards) == ((GENEVAL,), "geneval")
    assert (stage.kl_weight, stage.num_inference_steps, stage.updates) == (0.0, 10, 2)
    assert (stage.timestep_count(3), stage.zero_spread, stage.old_schedule) == (3, "skip", "copy")


def test_defaults_are_the_papers():
    stage = Stage(prompts=("a",), rewards="ocr", iterations=1)
    papers = load_recipe("sd3.5-m-geneval").stages[0]
    own = {"prompts", "rewards", "iterations"}
    assert stage.model_dump(exclude=own) == papers.model_dump(exclude=own)


@pytest.mark.parametrize("name", names())
def test_rewards_are_written_as_the_command_line_has_them(name):
    """The names before the variants: `resolve` is for a run, and some judges come with later extras."""
    recipe = load_recipe(name)
    listed = {part.partition(":")[0] for s in recipe.stages for part in s.rewards.split(",")}
    assert listed
    if name.startswith("pocket"):  # its variants stand ready for --rewards
        keys = [f"{n}@{recipe.variants[n]}" if n in recipe.variants else n for n in listed]
        assert len(parse_rewards(",".join(keys))) == len(listed)


# --- times ----------------------------------------------------------------------------------------


def stage_of(timesteps: str | float) -> Stage:
    return Stage(prompts=("a",), rewards="ocr", iterations=1, timesteps_per_image=timesteps)


@given(st.integers(1, 1000), st.floats(0.001, 0.999))
def test_a_share_of_the_times(available, share):
    times = stage_of(share).timestep_count(available)
    assert 1 <= times <= available and abs(times - available * share) < 1
    assert times == max(1, int(available * share))


@given(st.integers(1, 1000), st.integers(1, 2000))
def test_a_number_of_times(available, wanted):
    assert stage_of(wanted).timestep_count(available) == min(available, wanted)


@given(st.integers(1, 1000))
def test_all_times(available):
    assert stage_of("all").timestep_count(available) == available


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.0, 1.5, -0.5, "some", float("nan"), True, None])
def test_times_that_are_none(value):
    with pytest.raises(ValidationError):
        stage_of(value)


# --- typos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("seeds=3", "unknown key 'seeds'; did you mean 'seed'?"),
        ("policy.rnk=3", "unknown key 'policy.rnk'; did you mean 'rank'?"),
        ("stages.iteration=3", "unknown key 'stages.0.iteration'; did you mean 'iterations'?"),
        ("stages[0].bta=1", "unknown key 'stages.0.bta'; did you mean 'beta'?"),
        ("guards.brightnes.warn=1", "unknown key 'guards.brightnes'; did you mean 'brightness'?"),
        ("guards.kl.wrn=1", "unknown key 'guards.kl.wrn'; did you mean 'warn'?"),
        ("zzz=3", "unknown key 'zzz'; expected one of algorithm, checkpoint"),
        ("checkpoints.qqq=3", "unknown key 'checkpoints.qqq'; expected one of every, keep"),
        ("stages.beta=0", "stages.0.beta: expected a number greater than 0, got 0"),
        ("optimizer.ema=1", "optimizer.ema: expected a number less than 1, got 1"),
        ("optimizer.betas=[1.5, 0.9]", "optimizer.betas.0: expected a number less than 1, got 1.5"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1: expected a number less than 1, got 1.0"),
        (f"seed={2**63}", "seed: expected a number less than 9223372036854775808"),
        ("stages[²].beta=1", "there is no stages[²]"),
        (f"stages[{'9' * 5000}].beta=1", "there is no stages[999"),
        ("policy.method=lorra", "policy.method: expected 'lora' or 'full', got 'lorra'"),
        (
            "stages.group_size=1",
            "stages.0.group_size: expected a number greater than or equal to 2",
        ),
        ("stages.timesteps_per_image=some", "expected 'all', a share between 0 and 1"),
        ("stages.timesteps_per_image=1.5", "expected 'all', a share between 0 and 1, or a whole"),
        ("stages.beta=nan", "stages.0.beta: expected a finite number"),
        ("guards.kl={warn=2, stop=1}", "guards.kl: expected stop to be at least warn"),
        ("guards.kl.warn=6", "guards.kl: expected stop to be at least warn"),
        ("guards.kl.warn=-1", "guards.kl.warn: expected a number greater than or equal to 0"),
        (
            "stages.trust_region={kl=0}",
            "stages.0.trust_region.kl: expected a number greater than 0",
        ),
        (
            "stages.trust_region={weight=-1}",
            "trust_region.weight: expected a number greater than 0",
        ),
        ("stages.noise_range=[0.9, 0.5]", "expected two noise levels, 0 <= first < second <= 1"),
        ("policy={folded=true, dtype='bfloat16'}", "expected dtype float32 with folded"),
        ("stages=[]", "stages: expected a list of at least 1, got []"),
        (
            'loggers="wandb,wandb"',
            "loggers: expected each name once, got 'wandb' 2 times; keep one",
        ),
        ('evaluation.benchmarks=["ocr", "ocr"]', "benchmarks: expected each name once, got 'ocr'"),
        ("seed", "expected --set section.key=value, got 'seed'"),
        ("=3", "expected --set section.key=value, got '=3'"),
        ("stages[1].beta=1", "there is no stages[1]"),
        ("stages[-1].beta=1", "there is no stages[-1]"),
        ("policy[0].rank=1", "there is no policy[0]"),
        ("name.x=1", "name is a value, not a section"),
    ],
)
def test_a_wrong_setting_is_named(setting, wrong):
    assert wrong in refusal(setting)


@pytest.mark.parametrize(("name", "near"), [("pockt", "pocket"), ("sd3.5-m-ocrr", "sd3.5-m-ocr")])
def test_an_unknown_recipe_suggests_the_near_one(name, near):
    assert refusal(name=name) == f"unknown recipe {name!r}; did you mean {near!r}?"


def test_an_unknown_recipe_that_is_near_none_lists_them():
    message = refusal(name="zzz")
    assert "did you mean" not in message
    assert "sd3.5-m-ocr" in message and "or a .toml file" in message


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("name = ", encoding="utf-8")
    assert f"not a valid TOML file: {path}" in refusal(name=str(path))
    path.write_text('name = "a"\ncheckpont = "b"\n', encoding="utf-8")
    assert str(path) in refusal(name=str(path))
    assert "none.toml: it is not there" in refusal(name=str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    assert "folder.toml: it is a folder" in refusal(name=str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(
    ("final", "share", "expected"),
    [(None, 0.7, 1e-3), (1e-5, 0.0, 1e-3), (1e-5, 0.5, 1e-4), (1e-5, 1.0, 1e-5)],
)
def test_the_learning_rate_falls_by_equal_factors(final, share, expected):
    assert OptimizerConfig(lr=1e-3, final_lr=final).lr_at(share) == pytest.approx(expected)


def test_schedules_of_recipes_are_those_of_the_algorithm():
    assert get_args(recipe_module.OldSchedule) == get_args(nft.OldSchedule)
