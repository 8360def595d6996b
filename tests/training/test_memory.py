"""Memory of a training: estimates that are near what a process takes, and what `auto` in a recipe comes to."""

import json
import sys

import pytest

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.settings.effective import learn_settings
from nftbench.training import setup
from nftbench.training.config.recipe import PolicyConfig
from nftbench.training.config.record import stored_recipe
from nftbench.training.policy import memory
from nftbench.training.policy.memory import UpdateMemory, chosen_by_memory, update_memory
from nftbench.training.setup import resumed_recipe
from rewards.base import ConfigError
from tests.helpers.models import families
from tests.helpers.runs.trainings import begin, small

pytestmark = pytest.mark.slow

AUTO = PolicyConfig(rank=4, dtype="auto", gradient_checkpointing="auto")
TYPES = ("float32", "bfloat16")
MEASURE = """
import ctypes, sys
for threshold in (-1, -3):  # to trim at, to map from: freed memory is given back, as `memory_estimates.MAPPED` has it
    assert ctypes.CDLL(None).mallopt(threshold, 128 * 1024) == 1
sys.argv = ["", "--measure", {kind!r}, "--images", "64"]
from tests.performance.memory_estimates import main
main()
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read as Linux has it")
@pytest.mark.parametrize("kind", ["draw", "train full"])
def test_an_estimate_is_within_a_quarter_of_what_a_process_takes(kind, start_code):
    code, out, err = start_code(MEASURE.format(kind=kind)).finish()
    assert code == 0, err
    estimate, grew = json.loads(out.splitlines()[-1])
    assert 0.75 < estimate / grew < 1.25


# --- counted ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline():
    return families.build("sd3")


@pytest.fixture(scope="module")
def settings(pipeline):
    size = SamplingParameters(height=64, width=64, guidance_scale=1.0)
    return learn_settings(pipeline, size)


@pytest.fixture(scope="module")
def counted(pipeline, settings) -> dict[tuple[str, bool], UpdateMemory]:
    """An update of each precision, without and with checkpointing."""
    return {
        (dtype, on): update_memory(
            pipeline,
            settings,
            AUTO.model_copy(update={"gradient_checkpointing": on}),
            dtype,
        )
        for dtype in TYPES
        for on in (False, True)
    }


def test_checkpointing_and_half_precision_save_memory(counted):
    assert counted["float32", True].further < counted["float32", False].further
    assert counted["bfloat16", False].further < counted["float32", False].further
    assert len({one.kept for one in counted.values()}) == 1  # trained weights are float32 always


def test_counting_leaves_the_pipeline_as_it_was(pipeline, settings):
    before = {k: v.clone() for k, v in pipeline.transformer.state_dict().items()}
    update_memory(pipeline, settings, PolicyConfig(method="full"))
    after = pipeline.transformer.state_dict()
    assert before.keys() == after.keys() and all((before[k] == after[k]).all() for k in before)
    assert not pipeline.transformer.is_gradient_checkpointing


def test_a_network_that_returns_a_list_of_images_is_counted():
    listing = families.build("z_image_omni")
    size = SamplingParameters(height=64, width=64, guidance_scale=1.0)
    assert update_memory(listing, learn_settings(listing, size), AUTO).further > 0


def test_every_set_of_the_trained_weights_counts(pipeline, settings, counted):
    """Seven times float32; of a full training theta is what the weights were."""
    numbers = sum(p.numel() for p in pipeline.transformer.parameters())
    buffers = sum(b.nbytes for b in pipeline.transformer.buffers())
    full = update_memory(pipeline, settings, PolicyConfig(method="full"))
    assert full.kept == numbers * 4 * 6 - buffers
    lora = counted["float32", False]
    assert lora.kept % (4 * 7) == 0 and 0 < lora.kept < full.kept and lora.copies == 0


def test_a_peak_in_closed_form():
    one = UpdateMemory(kept=70, folded=5, copies=4, first=10, further=8)
    assert one.peak(1) == 70 + 20 + 10 and one.peak(3) == 70 + 20 + 26


def test_a_network_that_cannot_be_counted_says_why(pipeline, settings):
    with pytest.raises(ConfigError, match=r"SD3Transformer2DModel cannot be counted: .*nowhere"):
        update_memory(pipeline, settings, PolicyConfig(targets=("nowhere",)))


# --- auto -------------------------------------------------------------------------------------------------------------


def need(counted, dtype: str, on: bool, weights: int) -> int:
    """Bytes that have to be free for a choice to be taken."""
    update = counted[dtype, on].peak(8) - (weights // 2 if dtype == "bfloat16" else 0)
    return int(update / memory.SHARE) + 1


@pytest.fixture
def counted_once(counted, monkeypatch):
    """Every update takes what was counted; any half precision is like bfloat16."""

    def known(pipeline, settings, config, dtype):
        return counted[
            "float32" if dtype == "float32" else "bfloat16", config.gradient_checkpointing
        ]

    monkeypatch.setattr(memory, "update_memory", known)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (("float32", False), ("float32", False)),
        (("float32", True), ("float32", True)),
        (("bfloat16", True), ("bfloat16", True)),
        (None, ("bfloat16", True)),
    ],
)
def test_the_first_choice_that_fits_is_taken_and_said(
    pipeline, settings, counted, counted_once, room, expected
):
    weights = memory.bytes_of([p for p in pipeline.components.values() if hasattr(p, "parameters")])
    free, said = need(counted, *room, weights) if room else 0, []
    free = max(free, 0)
    chosen = chosen_by_memory(pipeline, settings, AUTO, 8, free, said.append)
    assert (chosen.dtype, chosen.gradient_checkpointing) == expected
    (line,) = said
    words = f"policy.dtype = {expected[0]}, policy.gradient_checkpointing = {expected[1]}"
    assert line.startswith(words.replace("True", "true").replace("False", "false") + ": ")
    assert f"{free / 1e9:.2f} GB that are free on cpu" in line
    assert ("may not do" in line) == (room is None)


def test_what_is_named_is_left_as_it_is(pipeline, settings, counted_once):
    named = AUTO.model_copy(update={"dtype": "float16"})
    chosen = chosen_by_memory(pipeline, settings, named, 8, 0, lambda line: None)
    assert (chosen.dtype, chosen.gradient_checkpointing) == ("float16", True)
    with pytest.raises(ValueError, match="expected dtype float32 with folded"):
        PolicyConfig(dtype="auto", folded=True)


def test_a_run_keeps_what_was_chosen(tmp_path, monkeypatch):
    """The same run as with the values named, its id too; resumed, it is not asked again."""
    one = ("stages.iterations=1", "stages.updates=1")
    auto = ("policy.dtype=auto", "policy.gradient_checkpointing=auto")
    said = []
    run = begin(small(*one, *auto), tmp_path / "auto", say=said.append)
    run.run()
    assert any(line.startswith("policy.dtype = float32, policy.gradient_") for line in said)
    assert stored_recipe(tmp_path / "auto") == small(*one)
    begin(small(*one), tmp_path / "named").run()
    for name in ("lora/pytorch_lora_weights.safetensors", "recipe.json"):
        mine, theirs = ((tmp_path / run / name).read_bytes() for run in ("auto", "named"))
        assert mine == theirs, name
    monkeypatch.setattr(setup, "free_memory", lambda device: 0)
    assert resumed_recipe(tmp_path / "auto", small(*one, *auto), []) == small(*one)


@pytest.mark.thorough
def test_short_memory_checkpoints_gradients(tmp_path, monkeypatch):
    """And the update is the same one: passes that are computed again take attention as it was computed before."""
    one = ("stages.iterations=1", "stages.updates=1", "optimizer.eps=1", "optimizer.lr=1")
    monkeypatch.setattr(setup, "free_memory", lambda device: 0)
    auto = begin(small(*one, "policy.gradient_checkpointing=auto"), tmp_path / "auto")
    assert auto.recipe.policy.gradient_checkpointing is True
    assert auto.policy.denoiser.is_gradient_checkpointing
    plain = begin(small(*one), tmp_path / "plain")
    for run in (auto, plain):
        run.run()
    pairs = zip(auto.policy.weights["theta"], plain.policy.weights["theta"], strict=True)
    assert all((mine - theirs).abs().max() < 1e-5 for mine, theirs in pairs)
