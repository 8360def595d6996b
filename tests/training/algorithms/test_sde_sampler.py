"""The stochastic sampler in a pipeline: what it draws, and what it records of every step."""

import inspect
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from nftbench.training.algorithms.sde_sampler import (
    LEVELS,
    LOG_PROB,
    SdeScheduler,
    Step,
    Transition,
    gaussian,
)
from rewards.base import ConfigError

PROMPTS = ["a photo of a red circle", "a photo of three stars", 'a sign that says "KITE"']


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transition_of(scheduler: SdeScheduler, v: torch.Tensor, step: Step) -> Transition:
    """The Gaussian of a recorded step for any velocity, as an update computes it."""
    levels = {name: getattr(step, name) for name in LEVELS}
    return gaussian(step.x, v, scheduler.variant, scheduler.noise_level, **levels)


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def sample(pipeline, count: int = 3, steps: int = 4, of: slice = slice(None)) -> torch.Tensor:
    """Latents of images whose first noise is always the same; `of` picks some of them."""
    return pipeline(
        prompt=PROMPTS[:count][of],
        generator=generators(count, 100)[of],
        num_inference_steps=steps,
        height=64,
        width=64,
        max_sequence_length=0,
        guidance_scale=1.0,
        output_type="latent",
    ).images


@pytest.fixture
def pipeline(policy):
    return policy.pipeline


@pytest.mark.parametrize("variant", ["sde", "cps"])
def test_without_noise_the_sampler_is_the_pipelines_own(pipeline, variant):
    own = sample(pipeline)
    with SdeScheduler.swap(pipeline, noise_level=0, variant=variant) as scheduler:
        assert torch.equal(sample(pipeline), own)
        assert scheduler.transitions == []


@pytest.mark.parametrize("variant", ["sde", "cps"])
def test_images_follow_their_generators(pipeline, variant):
    own = sample(pipeline)
    with SdeScheduler.swap(pipeline, variant=variant) as scheduler:
        made = []
        for seeds_from in (0, 0, 50):
            scheduler.generators = generators(3, seeds_from)
            made.append(sample(pipeline))
        scheduler.generators = [*generators(2), *generators(1, 70)]
        last = sample(pipeline)
    assert torch.equal(made[0], made[1])
    assert (made[0] - made[2]).abs().mean() > 0.1 < (made[0] - own).abs().mean()
    assert (last - made[0])[2].abs().mean() > 0.1
    torch.testing.assert_close(last[:2], made[0][:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["sde", "cps"])
def test_an_image_knows_nothing_of_its_batch(pipeline, variant, record_property):
    with SdeScheduler.swap(pipeline, variant=variant) as scheduler:
        scheduler.generators = generators(3)
        together = sample(pipeline, steps=10)
        densities = [step.log_prob for step in scheduler.transitions]
        for i in range(3):
            scheduler.generators = generators(3)[i : i + 1]
            alone = sample(pipeline, steps=10, of=slice(i, i + 1))
            record_property(f"image {i}", f"{(alone - together[[i]]).abs().max():.1e}")
            torch.testing.assert_close(alone, together[[i]], rtol=0, atol=1e-4)
            for step, batch in zip(scheduler.transitions, densities, strict=True):
                torch.testing.assert_close(step.log_prob, batch[[i]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("variant", "drawn"), [("sde", 4), ("cps", 3)])
def test_recorded_steps_replay_to_the_last_bit(pipeline, variant, drawn):
    """And the noise in them is the generators' own; CPS ends with a step that draws nothing."""
    velocities = []
    hook = pipeline.transformer.register_forward_hook(lambda *call: velocities.append(call[2][0]))
    with SdeScheduler.swap(pipeline, variant=variant) as scheduler:
        scheduler.generators = generators(3)
        x_0 = sample(pipeline)
    hook.remove()
    steps = scheduler.transitions
    assert [step.index for step in steps] == list(range(drawn))
    fresh = generators(3)
    for step, v in zip(steps, velocities, strict=False):
        again = transition_of(scheduler, v, step)
        assert torch.equal(LOG_PROB[scheduler.variant](step.x_next, again), step.log_prob)
        z = torch.stack([torch.randn(step.x.shape[1:], generator=g) for g in fresh])
        torch.testing.assert_close((step.x_next - again.mean) / again.std, z, rtol=0, atol=2e-3)
        assert (step.sigma, step.sigma_next) == tuple(scheduler.sigmas[step.index :][:2].tolist())
    for step, after in pairwise(steps):
        assert torch.equal(step.x_next, after.x)
    if variant == "sde":
        assert torch.equal(steps[-1].x_next, x_0)


def test_a_recorded_step_teaches_the_velocity(pipeline):
    """At the recorded velocity the ratio is 1, and the gradient of the density points to what was drawn."""
    with SdeScheduler.swap(pipeline) as scheduler:
        scheduler.generators = generators(3)
        sample(pipeline)
    step = scheduler.transitions[1]
    v = normal(0, *step.x.shape).float().requires_grad_()
    at = transition_of(scheduler, v, step)
    LOG_PROB[scheduler.variant](step.x_next, at).sum().backward()
    dt = step.sigma_next - step.sigma
    slope = (1 + at.diffusion**2 * (1 - step.sigma) / (2 * step.sigma)) * dt
    expected = (step.x_next - at.mean) / at.std**2 * slope / step.x[0].numel()
    torch.testing.assert_close(v.grad, expected.detach(), rtol=1e-4, atol=1e-7)


def test_steps_outside_the_window_are_eulers(pipeline):
    plain = []
    hook = pipeline.transformer.register_forward_hook(lambda *call: plain.append(call[2][0]))
    with SdeScheduler.swap(pipeline, variant="cps", noise_level=0.8, window=(1, 3)) as scheduler:
        scheduler.generators = generators(3)
        x_0 = sample(pipeline, steps=5)
        (first, second), sigmas = scheduler.transitions, scheduler.sigmas
        with pytest.raises(ConfigError, match=r"window \(1, 3\) reaches beyond the 2 steps"):
            sample(pipeline, steps=2)
    hook.remove()
    assert (first.index, second.index) == (1, 2)
    x = second.x_next
    for i in (3, 4):
        x = x + (sigmas[i + 1] - sigmas[i]) * plain[i]
    torch.testing.assert_close(x_0, x, rtol=0, atol=1e-6)


def test_half_precision_records_what_the_pipeline_got():
    scheduler = SdeScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    scheduler.generators = generators(2)
    x, v = normal(0, 2, 4, 4).bfloat16(), normal(1, 2, 4, 4).bfloat16()
    output = scheduler.step(v, scheduler.timesteps[0], x)
    (step,) = scheduler.transitions
    assert output.prev_sample.dtype == step.x_next.dtype == torch.bfloat16
    assert torch.equal(output.prev_sample, step.x_next) and step.log_prob.dtype == torch.float32
    again = LOG_PROB[scheduler.variant](step.x_next, transition_of(scheduler, v, step))
    assert torch.equal(again, step.log_prob)
    at = transition_of(scheduler, v, step)
    expected = torch.distributions.Normal(at.mean, at.std).log_prob(step.x_next.float())
    torch.testing.assert_close(step.log_prob, expected.mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_the_pipeline_gets_its_own_scheduler_back(pipeline):
    own, config = pipeline.scheduler, dict(pipeline.config)
    own.set_shift(2.5)
    try:
        with SdeScheduler.swap(pipeline) as scheduler:
            assert pipeline.scheduler is scheduler and scheduler.shift == 2.5
            assert dict(scheduler.config) == {**own.config, "_class_name": "SdeScheduler"}
            assert list(inspect.signature(scheduler.set_timesteps).parameters) == list(
                inspect.signature(own.set_timesteps).parameters
            )
        with pytest.raises(ConfigError, match="expected 3 generators"), SdeScheduler.swap(pipeline):
            sample(pipeline)
    finally:
        own.set_shift(3.0)
    assert pipeline.scheduler is own and dict(pipeline.config) == config


@pytest.mark.parametrize(
    ("scheduler", "settings", "message"),
    [
        (DPMSolverMultistepScheduler(), {}, "this pipeline has a DPMSolverMultistepScheduler"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), {}, "without invert_sigmas"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), {}, "without stochastic_s"),
        (FlowMatchEulerDiscreteScheduler(), {"variant": "ode"}, "unknown variant 'ode'"),
        (FlowMatchEulerDiscreteScheduler(), {"noise_level": -0.1}, "at least 0"),
        (FlowMatchEulerDiscreteScheduler(), {"noise_level": 1.1, "variant": "cps"}, "at most 1"),
        (FlowMatchEulerDiscreteScheduler(), {"noise_level": math.nan}, "at least 0"),
        (FlowMatchEulerDiscreteScheduler(), {"window": (3, 3)}, r"window \(3, 3\) is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused(scheduler, settings, message):
    holder = SimpleNamespace(scheduler=scheduler)
    with pytest.raises(ConfigError, match=message), SdeScheduler.swap(holder, **settings):
        pytest.fail("was let in")
    assert holder.scheduler is scheduler


def test_a_time_for_each_token_is_refused():
    scheduler = SdeScheduler()
    scheduler.set_timesteps(2)
    x = torch.zeros(1, 2, 2)
    with pytest.raises(ConfigError, match="one time an image"):
        scheduler.step(x, scheduler.timesteps[0], x, per_token_timesteps=torch.zeros(1, 2))
