"""What the command line changes of a recipe, and how two recipes differ."""

import json

import pytest

from nftbench.training.config.names import recipe_name
from nftbench.training.config.overrides import changed, difference, load_recipe, refuse_twice
from nftbench.training.config.recipe import Recipe, Threshold, TrustRegion
from nftbench.training.config.record import save_recipe
from rewards.base import ConfigError
from tests.helpers.commands import run_here


def test_settings_are_toml_or_bare_words():
    recipe = load_recipe(
        "pocket",
        [
            "seed=7",
            "policy.method=lora",
            'policy.targets=["to_q", "to_k"]',
            "optimizer.lr = 1e-4",
            "stages.timesteps_per_image=all",
            "algorithm=flow-grpo",
            "flow_grpo.window=[0, 3]",
            "variants.ocr=rapidocr-x4",
            "guards.brightness.stop=0.5",
            "stages.rewards=ocr,pickscore:0.5",
        ],
    )
    assert (recipe.seed, recipe.policy.method, recipe.policy.targets) == (
        7,
        "lora",
        ("to_q", "to_k"),
    )
    assert (recipe.optimizer.lr, recipe.stages[0].timesteps_per_image) == (1e-4, "all")
    assert recipe.flow_grpo.window == (0, 3) and recipe.variants["ocr"] == "rapidocr-x4"
    assert recipe.guards.brightness == Threshold(warn=0.1, stop=0.5)
    assert recipe.stages[0].rewards == "ocr,pickscore:0.5"


def test_one_limit_of_a_guard_leaves_the_other(mine):
    default = load_recipe(mine).guards.kl
    assert load_recipe(mine, ["guards.kl.warn=0.25"]).guards.kl == Threshold(warn=0.25, stop=5.0)
    assert load_recipe(mine, ["guards.kl.stop=off"]).guards.kl == Threshold(warn=default.warn)
    assert load_recipe(mine, ["guards.kl={}"]).guards.kl == default
    off = load_recipe(mine, ["guards.kl={warn='off', stop='off'}"])
    assert off.guards.kl == Threshold()
    assert Recipe.model_validate_json(off.model_dump_json()) == off


OPTIONAL = {
    "flow_grpo.window": ("[0, 2]", lambda r: r.flow_grpo.window),
    "evaluation.limit": ("3", lambda r: r.evaluation.limit),
    "evaluation.num_inference_steps": ("3", lambda r: r.evaluation.num_inference_steps),
    "stages.trust_region": ("{kl=1}", lambda r: r.stages[0].trust_region),
    "stages.lr": ("1e-3", lambda r: r.stages[0].lr),
    "stages.final_lr": ("1e-3", lambda r: r.stages[0].final_lr),
    "stages.guided": ("2.0", lambda r: r.stages[0].guided),
    "optimizer.final_lr": ("1e-3", lambda r: r.optimizer.final_lr),
}


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_is_optional_is_switched_off_by_a_word(mine, key):
    value, read = OPTIONAL[key]
    given = ["stages.lr=1e-2"] * (key == "stages.final_lr") + ["stages.old_schedule=keep"]
    given += ["algorithm=flow-grpo"] * key.startswith("flow_grpo.")
    given += ["evaluation.benchmarks=ocr-pocket"] * key.startswith("evaluation.")
    on = load_recipe(mine, [*given, f"{key}={value}"])
    assert read(on)
    assert read(changed(on, [f"{key}=off"])) is None


@pytest.mark.parametrize("before", [(), ("stages.trust_region=off",)])
def test_one_key_switches_a_trust_region_on(mine, before):
    """Also of a recipe as a run keeps it, in which it stands as null."""
    one = ["stages.trust_region.kl=1"]
    expected = TrustRegion(kl=1)
    for recipe in (load_recipe(mine, [*before, *one]), changed(load_recipe(mine, before), one)):
        assert [stage.trust_region for stage in recipe.stages] == [expected] * 2


def test_every_stage_or_one(mine):
    both = load_recipe(mine, ["stages.groups=5"])
    assert [s.groups for s in both.stages] == [5, 5]
    second = load_recipe(mine, ["stages[1].groups=6", "stages[1].iterations=9"])
    assert [(s.groups, s.iterations) for s in second.stages] == [(48, 3), (6, 9)]
    named = ["stages.1.groups=6", "stages.1.iterations=9"]  # as faults and differences name them
    assert load_recipe(mine, named) == second
    weights = load_recipe(mine, ["stages.1.prompt_weights.7=2"]).stages[1].prompt_weights
    assert weights == {"7": 2}, "a tag of digits is no number of a section"


@pytest.mark.parametrize(
    "key", ["stages.groups", "stages.trust_region.kl", "seed", "optimizer.lr", "guards.kl.warn"]
)
def test_true_is_no_number(tmp_path, key):
    code, said = run_here(tmp_path, "train", "--recipe", "pocket", "--set", f"{key}=true")
    assert code == 2 and "expected another value than true or false, got True" in said
    assert load_recipe("pocket", ["policy.folded=true"]).policy.folded


def test_one_stage_by_its_number_on_the_command_line(tmp_path):
    """Bad values, so that nothing is trained: what is said names what was written."""
    for setting in ("stages.0.iterations=0", "stages[0].iterations=0"):
        code, said = run_here(tmp_path, "train", "--recipe", "pocket", "--set", setting)
        assert code == 2 and "stages.0.iterations: expected a number greater than" in said
    code, said = run_here(tmp_path, "train", "--recipe", "pocket", "--set", "stages.4.groups=1")
    assert code == 2 and "--set stages.4.groups=1: there is no stages[4]" in said


@pytest.mark.parametrize("setting", ["lr=1e-6", "final_lr=1e-6", "={lr=1e-6}"])
def test_a_rate_that_no_stage_follows_is_refused(mine, setting):
    setting = f"optimizer.{setting}".replace(".=", "=")
    assert (
        load_recipe(mine, ["stages[0].lr=1e-3", setting]).optimizer != load_recipe(mine).optimizer
    )
    own = load_recipe(mine, ["stages.lr=1e-3"])
    assert changed(own, ["stages.lr=off", setting]).optimizer != own.optimizer
    for refused in (
        lambda: load_recipe("pocket-ocr", [setting]),
        lambda: changed(own, [setting]),
    ):
        with pytest.raises(ConfigError, match=r"would change nothing, as .*; set stages\.lr and"):
            refused()


def test_settings_of_the_other_algorithm_are_refused(tmp_path):
    code, said = run_here(
        tmp_path, "train", "--recipe", "pocket", "--set", "flow_grpo.window=[0, 3]"
    )
    assert code == 2 and "flow_grpo.window would change nothing, as nft trains" in said
    assert load_recipe("pocket-flow-grpo", ["flow_grpo.window=[0, 3]"]).flow_grpo.window == (0, 3)


UNUSED = {
    ("policy.method=full", "policy.rank=8"): "policy.rank",
    ("policy.folded=true", "policy.method=full"): "policy.folded",
    ("rollout.guidance=off", "rollout.guidance_scale=4.5"): "rollout.guidance_scale",
    ("evaluation.every=0", "evaluation.held_out_rewards=jpeg"): "evaluation.held_out_rewards",
    ("evaluation.every=0", "guards.held_out.stop=3"): "guards.held_out.stop",
    ("evaluation.benchmarks=[]", "evaluation.limit=5"): "evaluation.limit",
    ("stages.reset=['optimizer']",): "stages.reset",
    ("stages[0].reset=['ema']",): "stages[0].reset",
    ("algorithm=flow-grpo", "guards.kl_exploded.stop=0.1"): "guards.kl_exploded.stop",
}


@pytest.mark.parametrize("settings", UNUSED)
def test_what_would_change_nothing_is_refused(tmp_path, settings):
    """It was taken, and the training went on as without it."""
    flags = [word for setting in settings for word in ("--set", setting)]
    code, said = run_here(tmp_path, "train", "./nowhere", "--recipe", "pocket", *flags)
    assert code == 2 and f"{UNUSED[settings]} would change nothing, as " in said, said


def test_what_acts_in_one_place_is_no_fault_in_another(mine):
    """A stage after the first begins anew what it is told to; what is switched off is not asked for."""
    load_recipe(mine, ["stages.reset=['ema']"])
    load_recipe(mine, ["evaluation.every=0", "evaluation.limit=off", "evaluation.benchmarks=[]"])
    load_recipe(mine, ["rollout.guidance=off", "rollout.guidance_scale=1"])


def test_a_variant_that_there_is_not_is_refused_though_nothing_is_trained_on_it(tmp_path):
    for variant, near in (("genevl=pocket", "geneval@pocket"), ("geneval=poket", "geneval@pocket")):
        flags = ("--set", f"variants.{variant}", "--prompts", "nosuch.txt")
        code, said = run_here(tmp_path, "train", *flags)
        assert code == 2 and f"did you mean '{near}'" in said, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rewards", ""), "stage 1 names no rewards; expected some"),
        (("--set", "evaluation.held_out_rewards=jpeg:0.5"), "weighs jpeg, which is not trained on"),
    ],
)
def test_rewards_that_say_nothing_and_weights_of_what_is_watched(tmp_path, words, said):
    """No rewards "all have weight 0"; a weight beside a watched reward was passed over."""
    code, out = run_here(tmp_path, "train", *words, "--prompts", "nosuch.txt")
    assert code == 2 and said in out, out


def test_a_resume_says_no_change_of_a_rate_that_no_stage_follows(tmp_path):
    (tmp_path / "run").mkdir()
    save_recipe(tmp_path / "run", load_recipe("pocket-ocr"))
    code, said = run_here(tmp_path, "train", "--resume", "run", "--set", "optimizer.lr=1e-6")
    assert code == 2 and "recipe pocket-ocr: optimizer.lr would change nothing" in said


def test_the_last_setting_wins():
    assert load_recipe("pocket", ["seed=1", "seed=2"]).seed == 2


def test_top_level_values():
    recipe = load_recipe("pocket", ["seed=1"], checkpoint="runs/a", algorithm=None)
    assert (recipe.checkpoint, recipe.algorithm, recipe.seed) == ("runs/a", "nft", 1)


def test_what_is_not_written_is_the_default(mine):
    recipe = load_recipe(mine)
    assert difference(recipe, load_recipe(mine, ["policy.rank=32", "seed=0"])) == []
    assert (recipe.algorithm, recipe.rollout.max_sequence_length) == ("nft", None)


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (("train", "--seeds", "1²"), "expected --seeds as whole numbers with commas"),
        (("train", "--seeds", "1" * 5000), "expected --seeds as whole numbers with commas"),
        (("train", "--seed", "9" * 23), "seed: expected a number less than 9223372036854775808"),
        (("train", "--set", "optimizer.betas=[1.5,2]"), "optimizer.betas.0: expected a number"),
        (
            ("train", "--set", "stages.kl_weight=1e308"),
            "stages.0.kl_weight: expected 0 or a number",
        ),
        (("train", "--set", "optimizer.max_grad_norm=1e-300"), "float32, 1.2e-38 to 3.4e+38"),
        (("train", "--rewards", "jpeg:1e308"), "must be at most 1e+09, got '1e308'"),
        (("train", "--set", "stages.groups=1000000000000"), "less than or equal to 100000"),
        (("train", "--set", "stages.updates=100000"), "each of 100000 updates, got"),
        (("train", "--set", "stages.noise_range=[false,true]"), "another value than true or false"),
        (("train", "--set", "stages.prompt_weights.counting=true"), "a whole number, got True"),
        (
            ("train", "--set", 'stages.reset=["theta","theta"]'),
            "each name once, got 'theta' 2 times",
        ),
        (("train", "--set", "policy.targets=to_q,to_q"), "each name once, got 'to_q' 2 times"),
        (("eval", "pocket", "--size", "9" * 5000), "expected at least 8 pixels"),
        (("eval", "pocket", "--images-per-prompt", "9" * 23), "'--images-per-prompt'"),
    ],
)
def test_a_number_that_cannot_be_is_one_line(tmp_path, asked, wrong):
    code, said = run_here(tmp_path, *asked)
    assert (code, len(said.splitlines())) == (2, 1) and wrong in said
    assert not list(tmp_path.iterdir())


# --- differences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ([], []),
        (["seed=9"], ["seed"]),
        (["optimizer.lr=1e-5", "policy.rank=4"], ["optimizer.lr", "policy.rank"]),
        (["stages.beta=0.5"], ["stages.0.beta", "stages.1.beta"]),
        (['stages[1].prompts=["x.txt"]'], ["stages.1.prompts"]),
        (["guards.kl.warn=0.25"], ["guards.kl.warn"]),
        (["variants.ocr=tesseract"], ["variants.ocr"]),
    ],
)
def test_difference_names_the_settings(mine, settings, named):
    one, other = load_recipe(mine), load_recipe(mine, settings)
    assert difference(one, other) == difference(other, one) == named


def test_another_stage_is_a_difference():
    five, one = load_recipe("sd3.5-m-multireward"), load_recipe("sd3.5-m-pickscore")
    assert "stages.4.iterations" in difference(five, one)


def test_a_list_of_names_may_be_one_word():
    """As it is written on a command line."""
    changed = load_recipe(
        "pocket", ["stages.prompts=my.txt, ocr-pocket", "evaluation.benchmarks=ocr-pocket"]
    )
    assert changed.stages[0].prompts == ("my.txt", "ocr-pocket")
    assert changed.evaluation.benchmarks == ("ocr-pocket",)


@pytest.mark.parametrize("name", ["dpm++", "dpm++2"])
def test_a_solver_has_the_name_that_eval_gives_it(name):
    """Recipes that name it as they did before are still read."""
    assert load_recipe("pocket", (f"rollout.solver={name}",)).rollout.solver == "dpm++2"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--iterations", "3", "--set", "stages.iterations=4"], "stages.iterations is set twice, as 3 and as 4"),
        (["--rewards", "ocr", "--set", "stages.rewards = jpeg"], "stages.rewards is set twice, as ocr and as jpeg"),
        (["--seed", "1", "--set", "seed=2"], "seed is set twice, as 1 and as 2; leave one of them out"),
        (["jpeg", "--set", "checkpoint=pocket"], "checkpoint is set twice"),
    ],
)  # fmt: skip
def test_a_setting_that_is_named_twice_is_refused(tmp_path, flags, words):
    code, said = run_here(tmp_path, "train", *flags, "--out", "run")
    assert code == 2 and words in said and not (tmp_path / "run").exists()


def test_a_setting_that_is_named_twice_alike_is_one():
    refuse_twice({"seed": 2, "checkpoint": None}, ["seed = 2", "seed=2", "checkpoint=pocket"])


# --- no recipe named --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "rewards", "expected"),
    [
        (None, None, "pocket"),
        (None, "pickscore", "pocket"),
        (None, "ocr, pickscore:0.5", "pocket-ocr"),
        (None, "ocr@rapidocr", "pocket-ocr"),
        (None, "geneval,ocr", "pocket"),
        (None, "geneval", "pocket-geneval"),
        ("nft", " geneval@pocket:0.5 ", "pocket-geneval"),
        ("flow-grpo", "geneval", "pocket-flow-grpo"),
    ],
)
def test_rewards_choose_a_recipe_where_none_is_named(algorithm, rewards, expected):
    settings = [] if rewards is None else [f"stages.rewards={rewards}"]
    top = {"algorithm": algorithm, "checkpoint": None}
    assert recipe_name(None, settings, top) == expected
    assert recipe_name(None, settings, top | {"checkpoint": "pocket"}) == expected
    assert recipe_name("mine.toml", settings, top) == "mine.toml"


def test_another_checkpoint_gets_the_recipe_that_asks_nothing_of_a_pipeline():
    """`pocket-geneval` draws by a solver that some pipelines cannot take."""
    assert recipe_name(None, ["stages.rewards=geneval"], {"checkpoint": "./mine"}) == "pocket"
    assert load_recipe("pocket").rollout.solver == "own"


def test_the_recipe_of_the_rewards_is_what_the_command_runs(start, tmp_path):
    """One iteration, as small as it gets; the run's own recipe says which it was."""
    few = ("iterations=1", "groups=1", "group_size=2", "num_inference_steps=2", "updates=1")
    small = [f"stages.{s}" for s in few] + ["policy.compiled=false", "evaluation.benchmarks=[]"]
    flags = [word for setting in small for word in ("--set", setting)]
    code, out, err = start("train", "--rewards", "geneval", *flags, "--out", "run").finish()
    assert code == 0, err
    assert "recipe pocket-geneval: made for these rewards" in out + err
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text("utf-8"))
    assert kept["name"] == "pocket-geneval"
    resumed = start("train", "--resume", "run", "--json").finish()
    assert resumed[0] == 0 and "recipe pocket-geneval:" not in resumed[1] + resumed[2]
