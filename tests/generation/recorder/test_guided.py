"""A guided policy from the records of two unguided calls: what the solver was given, at every step."""

import functools
from dataclasses import replace

import pytest
import torch

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.recorder.call_arguments import flat
from nftbench.generation.recorder.guided import guided_records, refuse_other_guidance
from nftbench.generation.recorder.replay import learn, record
from nftbench.generation.recorder.trace import denoiser_of, watch
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import learn_settings
from rewards.base import ConfigError, Prompt
from tests.helpers.models import families

pytestmark = pytest.mark.slow

SCALE = 2.5
PROMPTS = [Prompt(id=text, text=text) for text in ("red", "blue moon")]
SAMPLES = [Sample(prompt, number) for prompt in PROMPTS for number in (0, 1)]
OWN_WAY = ("lumina2", "sdxl")
"""One gives the sum another size, the other has zeros in the place of the empty prompt."""


@functools.cache
def drawn(family: str):
    """The pipeline, and a guided call of it with its records."""
    pipeline = families.build(family)
    off, on = (
        learn_settings(
            pipeline,
            SamplingParameters(num_inference_steps=4, guidance=kind, guidance_scale=scale),
        )
        for kind, scale in (("off", None), ("cfg", SCALE))
    )

    def briefly(texts):
        generate(pipeline, [Sample(Prompt(id=str(i), text=t), 0) for i, t in enumerate(texts)], off)

    layout = learn(pipeline, briefly)

    def traced(samples, settings):
        with watch(pipeline) as trace:
            generate(pipeline, samples, settings)
        return trace

    empty = [Sample(replace(PROMPTS[0], text=""), 0)]
    plain = record(traced(SAMPLES[::2], off), layout, [0, 1])
    nothing = record(traced(empty, off), layout, [0])
    trace = traced(SAMPLES, on)
    return pipeline, trace, *guided_records(plain, nothing, trace, [0, 0, 1, 1], SCALE)


def network_of(pipeline):
    def network(of, x_t, images, steps):
        with torch.no_grad():
            return of.velocity(denoiser_of(pipeline)[1], x_t, images, steps)

    return network


@pytest.mark.parametrize("family", ["sd3", "sd15", "pixart"])
def test_the_guided_velocity_is_what_the_solver_was_given_at_every_step(family):
    pipeline, trace, kept, guided = drawn(family)
    network, images = network_of(pipeline), torch.arange(4)
    for number, step in enumerate(trace.steps):
        steps = torch.full((4,), number)
        seen = flat(step.arguments[kept.layout.noisy])[:4].reshape(kept.x_0.shape)
        x_t = seen / kept.scale[number]
        given = kept.as_velocity(step.model_output.float(), x_t, steps)
        ours = guided.velocity(lambda of, x=x_t, at=steps: network(of, x, images, at), kept)
        torch.testing.assert_close(ours, given, rtol=1e-3, atol=1e-3 * float(given.abs().max()))
    assert torch.equal(kept.x_0, trace.steps[-1].prev_sample)
    refuse_other_guidance(trace, kept, guided, network)


@pytest.mark.parametrize("family", OWN_WAY)
def test_another_way_of_guiding_is_refused(family):
    pipeline, trace, kept, guided = drawn(family)
    with pytest.raises(ConfigError, match=r"guidance of this pipeline is not unguided \+ 2.5"):
        refuse_other_guidance(trace, kept, guided, network_of(pipeline))


def test_another_scale_than_the_one_that_drew_is_refused():
    pipeline, trace, kept, guided = drawn("sd3")
    with pytest.raises(ConfigError, match="is off by"):
        refuse_other_guidance(trace, kept, replace(guided, scale=5.0), network_of(pipeline))
