"""Runs of two stages: a later one that cannot be trained is seen at once; one that is done is not changed on resume."""

import json
import shutil
from pathlib import Path

import pytest

from nftbench.training.config.overrides import load_recipe
from nftbench.training.seeds import is_finished
from nftbench.training.setup import resumed_recipe
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import begin, metrics_of, settings_of

pytestmark = pytest.mark.slow

STAGE = '{prompts=["geneval-pocket"], rewards="jpeg", iterations=1}'


def two(*settings: str) -> list[str]:
    """Settings of two stages, two iterations each."""
    return [f"stages=[{STAGE}, {STAGE}]", *settings_of("stages.iterations=2", *settings)]


def train(folder: Path, *settings: str, recipe: str = "pocket") -> tuple[int, str]:
    """`nftbench train` of two stages into `folder/run`."""
    flags = [word for setting in two(*settings) for word in ("--set", setting)]
    return run_here(folder, "train", "--recipe", recipe, *flags, "--out", "run")


@pytest.mark.parametrize(
    ("recipe", "setting", "wrong"),
    [
        ("pocket", "stages[1].noise_range=[0.2, 0.21]", "stage 2: none of the sampler's noise"),
        ("pocket-flow-grpo", "flow_grpo.window=[3, 1]", "stage 1: window (3, 1) is empty"),
        ("pocket-flow-grpo", "flow_grpo.window=[0, 9]", "stage 1: window (0, 9) reaches beyond"),
        ("pocket-flow-grpo", "flow_grpo.window=[2, 3]", "stage 1: no step can be trained"),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused_before_the_run_begins(
    tmp_path, recipe, setting, wrong
):
    code, said = train(tmp_path, setting, recipe=recipe)
    assert (code, wrong in said.splitlines()[-1]) == (2, True), said
    assert not list(tmp_path.iterdir())


def test_only_the_stage_whose_steps_meet_the_noise_range_needs_to(tmp_path):
    """Four steps have a level that three have not."""
    levels = "stages[1].noise_range=[0.85, 0.99]"
    assert train(tmp_path, levels)[0] == 2
    code, said = train(tmp_path, levels, "stages[1].num_inference_steps=6")
    assert code == 0, said


def test_the_rate_of_a_stages_last_iteration_is_its_own(tmp_path):
    """Where the next stage begins with a new optimiser, that one's was logged."""
    falls = ("optimizer.lr=1e-2", "optimizer.final_lr=1e-5", "stages[1].reset=['optimizer']")
    code, said = train(tmp_path, *falls)
    assert code == 0, said
    rates = [line["lr"] for line in metrics_of(tmp_path / "run")[1:]]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])


# --- resumed with more iterations ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """`run`, two stages of an iteration each, both done."""
    folder = tmp_path_factory.mktemp("two")
    assert train(folder, "stages.iterations=1")[0] == 0
    return folder


@pytest.fixture
def stopped(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(trained, tmp_path / "copy")


def resume(folder: Path, *arguments: str) -> tuple[int, str]:
    return run_here(folder, "train", "--resume", "run", *arguments)


@pytest.mark.parametrize(("key", "old", "new"), [("iterations", "1", "2"), ("beta", "1.0", "0.5")])
def test_a_setting_of_a_stage_that_is_behind_is_refused(stopped, key, old, new):
    """It stood in the run's history, and nothing was trained so."""
    before = (stopped / "run" / "recipe.json").read_bytes()
    code, said = resume(stopped, "--set", f"stages[0].{key}={new}")
    assert code == 2 and f"stage 1 is behind this run, with {key} {old}; leave out" in said
    assert (stopped / "run" / "recipe.json").read_bytes() == before


def test_what_is_set_for_all_stages_is_of_those_to_come(stopped):
    code, said = resume(stopped, "--iterations", "2", "--set", "stages.beta=0.5")
    assert code == 0, said
    assert "stages.0" not in said
    assert "so its settings stay: stage 1" in said and "iteration 3/3" in said
    recipe = json.loads((stopped / "run" / "recipe.json").read_text("utf-8"))
    assert recipe["run"]["history"] == [
        {"iteration": 2, "changes": {"stages.1.beta": [1.0, 0.5], "stages.1.iterations": [1, 2]}}
    ]
    assert is_finished(stopped / "run")


def test_a_stage_that_is_being_trained_may_be_given_more(tmp_path):
    """Nothing is behind a run in its first stage, whether its recipe is named again or not."""
    run = begin(load_recipe("pocket", two()), tmp_path / "run")
    run.trainer.iterate()
    run._saved.save()
    for named in (None, load_recipe("pocket", two("stages.iterations=5"))):
        longer = resumed_recipe(tmp_path / "run", named, ["stages.iterations=5"])
        assert [stage.iterations for stage in longer.stages] == [5, 5]
    run.trainer.iterate()
    run._saved.save()
    for named in (None, load_recipe("pocket", two("stages.iterations=5"))):
        longer = resumed_recipe(tmp_path / "run", named, ["stages.iterations=5"])
        assert [stage.iterations for stage in longer.stages] == [2, 5]
