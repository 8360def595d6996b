"""What a checkpoint is: sizes that can be counted, guidance that was tried, training that was tried."""

import pytest

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.inspection import inspect_model
from tests.helpers.commands import run_here
from tests.helpers.models import families

SIZE = SamplingParameters(height=64, width=64)


@pytest.mark.slow
def test_the_packaged_model(policy):
    found = inspect_model(policy, SamplingParameters(**policy.own))
    assert found.family == "StableDiffusion3Pipeline" and found.trainable.startswith("yes")
    sizes = {part.name: part.parameters for part in found.parts}
    assert sizes["transformer"] == sum(p.numel() for p in policy.pipeline.transformer.parameters())
    assert (found.height, found.width) == (64, 64)
    assert found.guidance == "off, 1 network call(s) a step"
    assert found.guidance_choices["cfg"] == "yes" and found.guidance_choices["embedded"] != "yes"
    assert found.text_lengths == {"tokenizer": 18, "tokenizer_2": 18}
    assert found.schedulers == {"scheduler": "FlowMatchEulerDiscreteScheduler, flow_prediction"}


def test_a_network_that_is_told_its_scale():
    model = LoadedModel(name="lcm", digest="0", pipeline=families.build("lcm"))
    found = inspect_model(model, SIZE)
    assert found.guidance.startswith("embedded 8.5, 1 network call")
    assert found.guidance_choices["off"].startswith("no: ")


@pytest.mark.parametrize(
    ("family", "lora"),
    [("pixart", "LoRA in the layout of peft and full"), ("sd15", "LoRA and full")],
)
def test_how_a_network_may_be_trained(tmp_path, family, lora):
    """PixArt has no `save_lora_weights`; its LoRAs are trained and saved as peft does (tests/families)."""
    families.build(family).save_pretrained(tmp_path / family)
    code, said = run_here(tmp_path, "inspect", family, "--size", "64")
    assert code == 0 and f"yes ({lora})" in " ".join(said.split())
