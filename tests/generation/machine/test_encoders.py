"""Text encoders: not asked twice, out of memory while images are drawn; the pixels are those of the plain way."""

import numpy as np
import pytest
import torch

from nftbench.benchmark.samples import samples
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.machine.encoders import Parked, RememberedTexts
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import learn_settings
from rewards.base import Prompt
from tests.helpers.models import families

pytestmark = pytest.mark.slow

PROMPTS = [
    Prompt(id=str(i), text=t) for i, t in enumerate(("a red dog", "a cat", "two blue birds"))
]
FAMILIES = (
    "sd3",
    "flux",
    "qwen_image",
    "sana",
    "lumina2",
    "kandinsky22",
    "deepfloyd_if",
)


class Counted:
    """How many texts the encoders of a pipeline were given."""

    def __init__(self, pipeline):
        self.texts = 0
        for name, part in pipeline.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.forward = self._counting(part.forward)

    def _counting(self, forward):
        def counted(*args, **kwargs):
            ids = next(v for v in [*args, *kwargs.values()] if isinstance(v, torch.Tensor))
            self.texts += len(ids)
            return forward(*args, **kwargs)

        return counted


def drawn(pipeline, settings, images=2, size=3, **how):
    wanted = samples(PROMPTS, images)
    batches = [(i, wanted[i : i + size]) for i in range(0, len(wanted), size)]
    if not how:
        return np.concatenate([generate(pipeline, b, settings) for _, b in batches])
    with RememberedTexts(pipeline, **how) as texts:
        return np.concatenate(
            [generate(pipeline, b, settings) for _, b in texts.ahead(batches, settings)]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_any_pipeline_draws_the_plain_pixels(family):
    """Byte for byte where calls are remembered; up to one grey level where rows are and encoders leave."""
    pipeline = families.build(family)
    parameters = SamplingParameters(height=64, width=64, num_inference_steps=2)
    settings = learn_settings(pipeline, parameters)
    plain = drawn(pipeline, settings)
    np.testing.assert_array_equal(drawn(pipeline, settings, park=False), plain)
    away = drawn(pipeline, settings, park=True)
    assert np.abs(away.astype(int) - plain).max() <= 1
    np.testing.assert_array_equal(drawn(pipeline, settings), plain)  # as it was before


def test_a_text_is_encoded_once_for_all_its_images(policy):
    settings = learn_settings(
        policy.pipeline, SamplingParameters(**policy.own, num_inference_steps=1)
    )
    pipeline = policy.pipeline
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
    count = Counted(pipeline)
    try:
        drawn(pipeline, settings, images=4, size=5, park=True)
        assert count.texts == len(encoders) * len(PROMPTS)
        drawn(pipeline, settings, images=4, size=5)
        assert count.texts == len(encoders) * len(PROMPTS) * (1 + 4)
    finally:
        for encoder in encoders:
            del encoder.forward


def test_encoders_are_away_while_images_are_drawn(policy):
    """Their weights come back behind the block, or when somebody wants them before."""
    pipeline = policy.pipeline
    settings = learn_settings(pipeline, SamplingParameters(**policy.own, num_inference_steps=1))
    before = {k: v.clone() for k, v in pipeline.text_encoder.state_dict().items()}
    weight = pipeline.text_encoder.get_input_embeddings().weight
    seen = []
    with RememberedTexts(pipeline, park=True) as texts:
        for _, batch in texts.ahead([(0, samples(PROMPTS, 1))], settings):
            seen.append(bool(torch.isnan(weight).all()))
            generate(pipeline, batch, settings)
            seen.append(bool(torch.isnan(weight).all()))
        other = samples([Prompt(id="new", text="a text that nobody encoded")], 1)
        assert generate(pipeline, other, settings).std() > 0  # it came back by itself
    assert seen == [True, True]
    after = pipeline.text_encoder.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_network_that_is_away_is_never_saved_or_used_as_it_is():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    kept = {k: v.clone() for k, v in network.state_dict().items()}
    parked = Parked(network)
    parked.leave()
    assert torch.isnan(network[0].weight).all()
    assert all(torch.equal(v, kept[k]) for k, v in network.state_dict().items())
    parked.leave()
    assert torch.isfinite(network[1](torch.ones(1, 2))).all()  # a part of it was called
    parked.end()
    assert not network[1]._forward_pre_hooks and "forward" not in vars(network)


def test_other_settings_are_other_answers(policy):
    """What is no tensor is a part of the question."""
    encoder = policy.pipeline.text_encoder
    ids = torch.tensor([[1, 2, 3]])
    with RememberedTexts(policy.pipeline, remembered="rows"), torch.no_grad():
        plain = encoder(ids, output_hidden_states=False)
        whole = encoder(ids, output_hidden_states=True)
    assert plain.hidden_states is None and len(whole.hidden_states) > 1


def test_autocast_does_not_reach_an_encoder(policy):
    encoder = policy.pipeline.text_encoder
    ids = torch.tensor([[1, 2, 3]])
    with (
        RememberedTexts(policy.pipeline, remembered="rows"),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        found = encoder(ids)
    assert found[0].dtype == torch.float32
