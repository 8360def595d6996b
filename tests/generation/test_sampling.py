"""Prompts to images: seeds, independence of the batch, rounding, and what a pipeline cannot be told."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import image_seed, samples
from nftbench.generation.checkpoint import own_settings
from nftbench.generation.sampling import generate, sampling_arguments, to_uint8
from rewards.base import ConfigError, Prompt
from tests.helpers.paths import GOLDEN

PROTOCOL = (
    load_benchmark("geneval-pocket")
    .protocol(num_inference_steps=3, guidance_scale=3.0)
    .filled(own_settings("pocket"))
)
PROMPTS = [
    Prompt(id="a", text="a photo of a red circle"),
    Prompt(id="b", text='a sign that says "KITE"'),
    Prompt(id="c", text="a photo of three stars"),
    Prompt(id="d", text="a photo of a heart left of a moon"),
]


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_are_pinned():
    """A change of these numbers changes every image ever made."""
    assert image_seed(0, "0000", 0) == 127967962445557043
    assert image_seed(17, "00552", 3) == 5604111136137248926


keys = st.tuples(st.integers(0, 99), st.text("ab-._01", max_size=4), st.integers(0, 12))


@given(st.sets(keys, min_size=2, max_size=20))
def test_every_image_has_its_own_seed(chosen):
    seeds = {image_seed(*key) for key in chosen}
    assert len(seeds) == len(chosen) and all(0 <= s < 2**63 for s in seeds)


def test_samples_go_prompt_by_prompt_and_name_files():
    assert [s.key for s in samples(PROMPTS[:2], 3)] == [
        "a-00", "a-01", "a-02", "b-00", "b-01", "b-02"
    ]  # fmt: skip


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_image_depends_on_its_own_seed_alone(policy, record_property):
    """The same seven images in batches of 1, 3 and 7, after other draws from the global generator."""
    wanted = samples(PROMPTS, 2)[:7]
    made = {}
    for size in (1, 3, 7):
        torch.rand(size)
        parts = [
            generate(policy.pipeline, wanted[i : i + size], PROTOCOL) for i in range(0, 7, size)
        ]
        made[size] = np.concatenate(parts).astype(int)
    assert made[7].shape == (7, 64, 64, 3)
    for size in (1, 3):
        off = np.abs(made[size] - made[7])
        record_property(f"batch {size}", f"{(off > 0).mean():.1e} of values differ, by {off.max()}")
        assert off.max() <= 1 and (off > 0).mean() < 1e-3
    pairs = [(i, j) for i in range(7) for j in range(i)]
    assert min(np.abs(made[7][i] - made[7][j]).mean() for i, j in pairs) > 1  # all different


def test_seed_steps_and_guidance_reach_the_pipeline(policy):
    wanted = samples(PROMPTS[:1], 1)
    base = generate(policy.pipeline, wanted, PROTOCOL)
    np.testing.assert_array_equal(generate(policy.pipeline, wanted, PROTOCOL), base)
    for change in ({"seed": 1}, {"num_inference_steps": 2}, {"guidance_scale": 1.0}):
        other = generate(policy.pipeline, wanted, PROTOCOL.model_copy(update=change))
        assert (other != base).any(), change


class Talker:
    """A pipeline that says what it was asked for."""

    def __call__(
        self, prompt, generator, height, width, num_inference_steps, guidance_scale, output_type
    ):
        self.told = dict(locals())
        return type("Output", (), {"images": np.full((len(prompt), height, width, 3), 0.5)})


def test_the_protocol_becomes_arguments():
    protocol = PROTOCOL.model_copy(update={"max_sequence_length": None})
    assert sampling_arguments(Talker(), protocol) == {
        "height": 64,
        "width": 64,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
    }
    pipeline, wanted = Talker(), samples(PROMPTS[:2], 1)
    assert (generate(pipeline, wanted, protocol) == 128).all()
    assert pipeline.told["prompt"] == [p.text for p in PROMPTS[:2]]
    assert [g.initial_seed() for g in pipeline.told["generator"]] == [
        image_seed(0, "a", 0),
        image_seed(0, "b", 0),
    ]


def test_what_a_pipeline_cannot_be_told_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"Talker has no argument max_sequence_length, .*geneval-pocket"
    ):
        sampling_arguments(Talker(), PROTOCOL)


# --- rounding -------------------------------------------------------------------------------------


def test_golden_rounding():
    golden = np.load(GOLDEN / "pixels.npz")
    np.testing.assert_array_equal(to_uint8(golden["float_pixels"]), golden["uint8_pixels"])


def test_levels_come_back_and_the_rest_is_clipped():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(levels.astype(np.float32) / 255), levels)
    assert to_uint8(np.array([-0.2, 0.0, 1.0, 1.4])).tolist() == [0, 0, 255, 255]


def test_pixels_that_are_no_numbers_are_an_error_not_black():
    class Broken:
        def __call__(self, prompt, generator, output_type, height, width, num_inference_steps):
            return type("Output", (), {"images": np.full((len(prompt), height, width, 3), np.nan)})

    protocol = PROTOCOL.model_copy(update={"guidance_scale": None, "max_sequence_length": None})
    with pytest.raises(ConfigError, match="not finite numbers"):
        generate(Broken(), samples(PROMPTS[:1], 1), protocol)
