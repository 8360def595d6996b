"""FlowGRPO: transitions, densities and loss in closed form, and the reference's own steps.

Golden files: of `solvers` the deterministic and two stochastic runs of the reference's flow solver with 10 steps, and
its single float64 steps of the flow and the DDIM solver.
"""

import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from nftbench.training.algorithms import load_algorithm
from nftbench.training.algorithms.flow_grpo import grpo_loss, transition_kl
from nftbench.training.algorithms.sde_sampler import (
    SdeScheduler,
    Transition,
    cps_log_prob,
    cps_transition,
    log_prob,
    sde_transition,
)
from nftbench.training.config.overrides import load_recipe
from rewards.base import ConfigError
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN
GOLDEN = json.loads((FOLDER / "solvers.json").read_text("utf-8"))
ARRAYS = np.load(FOLDER / "solvers.npz")
STEPS = {
    f: [c for c in GOLDEN["float64_steps"] if c["fn"] == f] for f in ("flow_grpo_step", "ddim_step")
}

seeds = st.integers(0, 2**31)
levels = st.tuples(st.floats(0.01, 0.99), st.floats(0, 0.95)).map(lambda p: (p[0], p[0] * p[1]))
"""sigma and sigma_next."""


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[key])


def close(got, expected, relative: float = 1e-11) -> None:
    torch.testing.assert_close(got, expected, rtol=relative, atol=relative)


# --- what a recipe may ask of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "stages.trust_region.kl=1",
        "stages.noise_range=[0.5, 1]",
        "stages.beta=0.1",
        "rollout.solver=dpm++2",
    ],
)
def test_what_only_nft_does_is_refused(setting):
    recipe = load_recipe("pocket-flow-grpo", [setting])
    key = setting.partition("=")[0].removesuffix(".kl")
    with pytest.raises(ConfigError, match=rf"^FlowGRPO .*; leave out {re.escape(key)}, or train"):
        load_algorithm("flow-grpo")(recipe)


@pytest.mark.parametrize("name", ["pocket-flow-grpo", "sd3.5-m-geneval-flow-grpo", "pocket"])
def test_a_recipe_that_asks_for_nothing_else_is_taken(name):
    load_algorithm("flow-grpo")(load_recipe(name, algorithm="flow-grpo"))


# --- transitions ----------------------------------------------------------------------------------


def test_sde_step_of_one_number():
    """sigma = 1/2, dt = -1/4, a = 1/2: s = 1/2, so s^2 / (2 sigma) = 1/4."""
    x, v = torch.tensor([[2.0]]), torch.tensor([[4.0]])
    step = sde_transition(x, v, 0.5, 0.25, noise_level=0.5, sigma_1=0.9)
    assert step.mean.item() == pytest.approx(2 * (1 - 1 / 16) + 4 * (1 + 1 / 8) * (-1 / 4))
    assert (step.std.item(), step.diffusion.item()) == pytest.approx((0.25, 0.5))


def test_cps_step_of_one_number():
    """a = 1/3: sin is 1/2, so s = sigma' / 2."""
    x, v = torch.tensor([[2.0]]), torch.tensor([[4.0]])  # x_0 = 0, eps = 4
    step = cps_transition(x, v, 0.5, 0.25, noise_level=1 / 3)
    assert step.mean.item() == pytest.approx(math.sqrt(0.25**2 - 0.125**2) * 4)
    assert (step.std.item(), step.diffusion.item()) == pytest.approx((0.125, 0.125))


@given(seeds, levels)
def test_without_noise_both_are_euler(seed, sigmas):
    """Identity 8."""
    x, v, (sigma, sigma_next) = normal(seed, 2, 3), normal(seed + 1, 2, 3), sigmas
    euler = x + (sigma_next - sigma) * v
    sde = sde_transition(x, v, sigma, sigma_next, noise_level=0, sigma_1=0.9)
    cps = cps_transition(x, v, sigma, sigma_next, noise_level=0)
    torch.testing.assert_close(sde.mean, euler, rtol=0, atol=0)
    close(cps.mean, euler)
    assert sde.std.max() == cps.std.max() == 0


@given(levels, st.floats(-3, 3), st.floats(0, 1))
def test_cps_keeps_the_shares_of_image_and_noise(sigmas, x_0, noise_level):
    """Where the velocity is exact, x' = (1 - sigma') x_0 + a mix of eps and z of variance sigma'^2."""
    (sigma, sigma_next), eps = sigmas, torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    x = (1 - sigma) * x_0 + sigma * eps
    step = cps_transition(x, eps - x_0, sigma, sigma_next, noise_level=noise_level)
    without, of_eps = step.mean[0].item(), (step.mean[1] - step.mean[0]).item()
    assert without == pytest.approx((1 - sigma_next) * x_0, abs=1e-12)
    assert of_eps**2 + step.std.item() ** 2 == pytest.approx(sigma_next**2, abs=1e-12)


@pytest.mark.parametrize("noise_level", [0.0, 0.7, 1.5])
def test_sde_has_the_marginals_of_the_flow(noise_level):
    """Data N(m, d^2) under the exact velocity, in 4000 steps: mean and variance arrive at the data's."""
    m, d, count = 0.8, 0.5, 4000
    # To 0 the drift of x / sigma has no finite step; the flow's marginal at the end is known as well.
    sigmas = torch.linspace(1, 0.02, count + 1, dtype=torch.float64).tolist()

    def variance_at(sigma: float) -> float:
        return (1 - sigma) ** 2 * d**2 + sigma**2

    probe, mean, variance = torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0.0, 1.0
    for sigma, sigma_next in pairwise(sigmas):
        slope = (sigma - (1 - sigma) * d**2) / variance_at(sigma)
        v = -m + slope * (probe - (1 - sigma) * m)
        step = sde_transition(
            probe, v, sigma, sigma_next, noise_level=noise_level, sigma_1=sigmas[1]
        )
        at_0, gain = step.mean[0].item(), (step.mean[1] - step.mean[0]).item()
        mean, variance = at_0 + gain * mean, gain**2 * variance + step.std.item() ** 2
    assert mean == pytest.approx((1 - sigmas[-1]) * m, abs=5e-3)
    assert variance == pytest.approx(variance_at(sigmas[-1]), rel=0.02)


@given(seeds, st.lists(levels, min_size=3, max_size=3))
def test_every_image_may_have_its_own_levels(seed, pairs):
    x, v = normal(seed, 3, 2, 2), normal(seed + 1, 3, 2, 2)
    sigma, sigma_next = torch.tensor(pairs, dtype=torch.float64).T
    for make in (
        lambda *a: sde_transition(*a, noise_level=0.7, sigma_1=0.99),
        lambda *a: cps_transition(*a, noise_level=0.8),
    ):
        together = make(x, v, sigma, sigma_next)
        for i in range(3):
            alone = make(x[[i]], v[[i]], *pairs[i])
            close(together.mean[[i]], alone.mean)
            close(together.std[[i]], alone.std)


@pytest.mark.parametrize("shift", [1.18, 1.32])
def test_a_schedule_that_begins_beside_1_is_taken_as_1(shift):
    """Diffusers rounds: these begin at 1 - 1.2e-7 and 1 + 1.2e-7."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    sigma, sigma_1 = scheduler.sigmas[:2].tolist()
    assert sigma != 1
    x, v = normal(0, 1, 4).float(), normal(1, 1, 4).float()
    beside, at = (
        sde_transition(x, v, s, sigma_1, noise_level=0.7, sigma_1=sigma_1) for s in (sigma, 1.0)
    )
    torch.testing.assert_close(beside.mean, at.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(beside.std, at.std, rtol=1e-5, atol=0)


def test_half_precision_is_computed_in_float32():
    x, v = normal(0, 2, 8).bfloat16(), normal(1, 2, 8).bfloat16()
    for step, wide in (
        (f(x, v, 0.7, 0.6), f(x.float(), v.float(), 0.7, 0.6))
        for f in (
            lambda *a: sde_transition(*a, noise_level=0.7, sigma_1=0.99),
            lambda *a: cps_transition(*a, noise_level=0.7),
        )
    ):
        assert step.mean.dtype == step.std.dtype == torch.float32
        assert torch.equal(step.mean, wide.mean) and torch.equal(step.std, wide.std)


# --- densities, loss, distance --------------------------------------------------------------------


@given(seeds, levels, st.floats(0.1, 1))
def test_log_prob_is_torchs_normal(seed, sigmas, noise_level):
    x, v, x_next = (normal(seed + i, 2, 3, 2) for i in range(3))
    step = sde_transition(x, v, *sigmas, noise_level=noise_level, sigma_1=0.9)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(x_next).mean((1, 2))
    close(log_prob(x_next, step), expected)


def test_cps_log_prob_drops_constants_and_the_variance():
    mean = torch.zeros(2, 2)
    step = Transition(mean, torch.full((1, 1), 0.1), torch.full((1, 1), 0.1))
    got = cps_log_prob(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), step)
    assert got.tolist() == [-5, -2]


@given(seeds)
def test_unchanged_policy_pays_its_advantage(seed):
    density, advantages = normal(seed, 5), normal(seed + 1, 5)
    moved = density.clone().requires_grad_()
    loss = grpo_loss(moved, density, advantages, clip_range=1e-4)
    torch.testing.assert_close(loss.detach(), -advantages, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), moved)
    close(gradient, -advantages)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.05, 2.0, -2.1, -2.1),  # within
        (1.2, 2.0, -2.2, 0.0),  # no more gain above 1.1
        (0.8, 2.0, -1.6, -1.6),  # a good image that became rarer is pulled back
        (0.8, -2.0, 1.8, 0.0),  # no more gain below 0.9
        (1.2, -2.0, 2.4, 2.4),  # a bad image that became likelier is pushed back
        (1.2, 0.0, 0.0, 0.0),
    ],
)
def test_clip_by_hand(ratio, advantage, loss, gradient):
    moved = torch.tensor([math.log(ratio) - 3], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([-3.0]), torch.tensor([advantage])
    got = grpo_loss(moved, old, advantages, clip_range=0.1)
    (by_density,) = torch.autograd.grad(got, moved)
    assert (got.item(), by_density.item()) == pytest.approx((loss, gradient))


@given(seeds, levels)
def test_distance_is_the_gaussian_kl_but_for_dt(seed, sigmas):
    (sigma, sigma_next), x = sigmas, normal(seed, 2, 3)
    ours, ref = (
        sde_transition(x, normal(seed + i, 2, 3), *sigmas, noise_level=0.7, sigma_1=0.9)
        for i in (1, 2)
    )
    of_torch = torch.distributions.kl_divergence(
        torch.distributions.Normal(ours.mean, ours.std),
        torch.distributions.Normal(ref.mean, ref.std),
    ).mean(1)
    got = transition_kl(ours.mean, ref.mean, ours.diffusion)
    close(got, of_torch * (sigma - sigma_next), 1e-9)
    close(transition_kl(ours.mean, ref.mean, ours.std), of_torch, 1e-9)


# --- the reference's steps ------------------------------------------------------------------------


@pytest.mark.parametrize("case", STEPS["flow_grpo_step"], ids=lambda c: c["id"])
def test_golden_float64_steps(case):
    x, v, z, x_next, density = (
        golden(f"{case['id']}/{name}") for name in ("x", "v", "noise", "prev_sample", "log_prob")
    )
    levels = (case["sigma"], case["sigma_next"])
    step = sde_transition(x, v, *levels, noise_level=case["eta"], sigma_1=case["sigma_1"])
    close(step.mean + step.std * z, x_next, 1e-12)
    # the reference's ln sqrt(2 pi) is a float32 number
    torch.testing.assert_close(log_prob(x_next, step), density, rtol=0, atol=5e-8)


@pytest.mark.parametrize("case", STEPS["ddim_step"], ids=lambda c: c["id"])
def test_golden_ddim_steps_are_cps_steps_of_some_noise_level(case):
    """DDIM takes another share of fresh noise; given its share, read off the recorded step, CPS makes the same."""
    x, v, z, x_next, density = (
        golden(f"{case['id']}/{name}") for name in ("x", "v", "noise", "prev_sample", "log_prob")
    )
    sigma, sigma_next = case["sigma"], case["sigma_next"]
    rest = x_next - (1 - sigma_next) * (x - sigma * v)
    parts = torch.stack([(x + (1 - sigma) * v).flatten(), z.flatten()], 1)
    share = torch.linalg.lstsq(parts, rest.flatten()[:, None]).solution[1].item()
    noise_level = math.asin(share / sigma_next) * 2 / math.pi
    step = cps_transition(x, v, sigma, sigma_next, noise_level=noise_level)
    close(step.mean + step.std * z, x_next, 1e-12)
    torch.testing.assert_close(log_prob(x_next, step), density, rtol=0, atol=5e-8)


class Replayed(SdeScheduler):
    """Takes its noise from a recording."""

    def noise(self, x):
        return self.recorded[self.step_index - 1]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["id"])
def test_golden_runs_of_ten_steps(case, record_property):
    """Latents to 1e-5 of their largest, log densities to 1e-5; deterministic runs are noise_level 0."""
    M, b, x = (golden(case[name]).float() for name in ("M", "b", "z"))
    scheduler = Replayed(shift=3.0)
    scheduler.set_timesteps(case["steps"])
    assert scheduler.sigmas.tolist() == pytest.approx(GOLDEN["sigmas"], abs=1e-7)
    scheduler.noise_level = 0 if case["deterministic"] else case["eta"]
    scheduler.recorded = None if case["deterministic"] else golden(f"{case['id']}/noise")
    latents = [x]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        v = torch.einsum("cd,bdhw->bchw", M, x)
        v = v + b[:, None, None] * torch.sin(3 * x + 2 * sigma)
        (x,) = scheduler.step(v, t, x, return_dict=False)
        latents.append(x)
    expected = golden(f"{case['id']}/latents")
    off = (torch.stack(latents) - expected).abs().max() / expected.abs().max()
    record_property("latents", f"{off:.1e}")
    assert off < 1e-5
    assert len(scheduler.transitions) == (0 if case["deterministic"] else 10)
    densities = golden(f"{case['id']}/log_probs").T
    for step in scheduler.transitions:
        got = step.log_prob.double()
        torch.testing.assert_close(got, densities[step.index], rtol=0, atol=1e-5)
