"""Distilled to few steps, by what a checkpoint's files say; a name says nothing."""

import pytest
from diffusers import LCMScheduler

from nftbench.generation.distillation import distillation, warning
from tests.helpers.models import families, tiny


def test_evidence_is_in_the_settings_and_never_in_a_name():
    pipeline = tiny.build("sd3")
    pipeline.register_to_config(_name_or_path="someone/SD3-Turbo-lightning-4-steps-distilled")
    assert distillation(pipeline).verdict == "unknown" and warning(pipeline) == ""
    pipeline.transformer.register_to_config(is_distilled=True)
    assert str(distillation(pipeline)) == "yes: transformer setting is_distilled=True"
    assert "train the model it was distilled from" in warning(pipeline)
    pipeline.transformer.register_to_config(is_distilled=False)
    assert str(distillation(pipeline)) == "no: transformer setting is_distilled=False"
    pipeline.register_modules(scheduler=LCMScheduler())
    assert distillation(pipeline).evidence == ("scheduler setting original_inference_steps=50",)


@pytest.mark.parametrize(
    ("family", "verdict"),
    [("sana_sprint", "yes"), ("lcm", "yes"), ("flux2_klein", "yes"), ("flux2_klein_base", "no"),
     ("sd3", "unknown")],
)  # fmt: skip
def test_families(family, verdict):
    assert distillation(families.build(family)).verdict == verdict
