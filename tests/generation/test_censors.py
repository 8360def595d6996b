"""Safety checkers that black images out, and warnings that say an image is not what was asked: neither in silence."""

import functools

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils import logging
from transformers import CLIPConfig, CLIPImageProcessor

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.checkpoint import load_model
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import learn_settings
from rewards.base import ConfigError, Prompt
from tests.helpers.models import families

PARAMETERS = SamplingParameters(height=64, width=64, num_inference_steps=2, guidance="off")
BATCH = [Sample(Prompt(id=i, text=i), 0) for i in ("red", "blue")]


def strict_checker() -> StableDiffusionSafetyChecker:
    """One that takes offence at every image."""
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    seeing = small | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=small, vision_config=seeing, projection_dim=16)
    made = StableDiffusionSafetyChecker(config).eval()
    with torch.no_grad():
        made.concept_embeds_weights.fill_(-2)  # a threshold that every cosine is above
        made.special_care_embeds_weights.fill_(-2)
    return made


def censored() -> StableDiffusionPipeline:
    parts = {k: v for k, v in families.build("sd15").components.items() if k != "image_encoder"}
    eyes = CLIPImageProcessor(size=32, crop_size=32)
    parts |= {"safety_checker": strict_checker(), "feature_extractor": eyes}
    made = StableDiffusionPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_safety_checker_is_left_out_at_load_and_it_is_said(tmp_path):
    pipeline = censored()
    black = pipeline(prompt="red", height=64, width=64, num_inference_steps=2, output_type="np")
    assert black.nsfw_content_detected == [True] and not black.images.any()
    pipeline.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.pipeline.safety_checker is None
    assert any("safety_checker left out" in line for line in model.said)
    assert (
        generate(model.pipeline, BATCH, learn_settings(model.pipeline, PARAMETERS))
        .any(axis=(1, 2, 3))
        .all()
    )


def test_a_live_pipeline_that_blacks_images_out_is_refused():
    pipeline = censored()
    with pytest.raises(ConfigError, match="blacked out 2 images"):
        generate(pipeline, BATCH, PARAMETERS)


class Talkative(StableDiffusionPipeline):
    """Says that it does something else than was asked."""

    @functools.wraps(StableDiffusionPipeline.__call__)
    def __call__(self, *args, **kwargs):
        logging.get_logger("diffusers.pipelines.mine").warning("drawing at another size than asked")
        return super().__call__(*args, **kwargs)


def test_what_the_library_warns_of_becomes_a_note_of_the_run():
    parts = {k: v for k, v in families.build("sd15").components.items() if k != "image_encoder"}
    pipeline = Talkative(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    logging.set_verbosity_error()  # as `nftbench` has it while it draws
    notes = learn_settings(pipeline, PARAMETERS).notes
    assert notes.count("drawing at another size than asked") == 1
