"""Runs of two stages: a later one that cannot be trained is seen at once."""

from pathlib import Path

import pytest

from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import settings_of

pytestmark = pytest.mark.slow

STAGE = '{prompts=["geneval-pocket"], rewards="jpeg", iterations=1}'


def train(folder: Path, *settings: str, recipe: str = "pocket") -> tuple[int, str]:
    """`nftbench train` of two stages, two iterations each, into `folder/run`."""
    whole = [f"stages=[{STAGE}, {STAGE}]", *settings_of("stages.iterations=2", *settings)]
    flags = [word for setting in whole for word in ("--set", setting)]
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
