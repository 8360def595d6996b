"""The record against networks whose exact answer is known, under every habit that pipelines have."""

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from nftbench.generation.recorder.replay import learn, record, watch
from rewards.base import ConfigError
from tests.helpers.models.tiny import noise_solvers
from tests.helpers.models.toy import MEAN, SPREAD, Habits, Network, ToyPipeline, best_guess

FLOW = {
    "Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=2.0),
    "Heun": lambda: FlowMatchHeunDiscreteScheduler(shift=2.0),
}


def velocity(x: Tensor, t: Tensor, spread: float = SPREAD) -> Tensor:
    x_0, eps = best_guess(x, 1 - t, t, spread)
    return eps - x_0


HABITS = {
    "plain": (velocity, Habits()),
    "negated": (lambda x, t: -velocity(x, t), Habits(heard=lambda raw: -raw)),
    "time reversed": (
        lambda x, t: velocity(x, 1 - t),
        Habits(time=lambda t, n: (1 - t / 1000).expand(n)),
    ),
    "negated, time reversed, list of (1, 3, 2)": (
        lambda x, t: -velocity(x, 1 - t),
        Habits(
            time=lambda t, n: ((1000 - t) / 1000).expand(n),
            noisy=lambda x: list(x.unsqueeze(1).unbind()),
            heard=lambda raw: -torch.stack(raw).squeeze(1),
        ),
    ),
    "tokens, time 0-dim": (velocity, Habits(time=lambda t, n: t / 1000, noisy=lambda x: x.mT.mT)),
    "time a number": (velocity, Habits(time=lambda t, n: float(t) / 1000)),
    "variance behind": (
        lambda x, t: torch.cat([velocity(x, t), x], 1),
        Habits(heard=lambda raw: raw.chunk(2, 1)[0]),
    ),
}


@pytest.mark.parametrize("solver", FLOW)
@pytest.mark.parametrize("habit", HABITS)
def test_flow_velocity_equals_the_closed_form_at_any_noise(habit, solver):
    say, habits = HABITS[habit]
    pipeline = ToyPipeline(Network(say), FLOW[solver](), habits)
    layout = learn(pipeline, lambda prompts: pipeline(prompts, 2))
    with watch(pipeline) as trace:
        drawn = pipeline(["a", "a", "b"], 7)
    kept = record(trace, layout, [0, 0, 2])
    assert layout.sign == (-1 if "negated" in habit else 1)
    assert len(trace.steps) == (13 if solver == "Heun" else 7) and len(kept.t) == 7
    assert torch.equal(kept.x_0, drawn)
    torch.testing.assert_close(kept.t, pipeline.scheduler.timesteps.unique().flip(0) / 1000)
    x_t = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0, 6, 3, 3])
    v = kept.velocity(pipeline.transformer, x_t, torch.tensor([2, 0, 1, 1]), steps)
    torch.testing.assert_close(
        v, velocity(x_t, kept.t[steps].reshape(-1, 1, 1)), rtol=1e-5, atol=1e-5
    )
    v.sum().backward()
    torch.testing.assert_close(
        pipeline.transformer.gain.grad, v.detach().sum(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("solver", FLOW)
def test_clean_latents_equal_the_closed_form(solver):
    """Straight paths (one possible image) end on it at once; curved ones at MEAN + SPREAD eps in the limit."""
    straight = ToyPipeline(Network(lambda x, t: velocity(x, t, 0.0)), FLOW[solver](), Habits())
    curved = ToyPipeline(Network(velocity), FLOW[solver](), Habits())
    eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for pipeline, steps, expected, atol in (
        (straight, 3, torch.full((1, 3, 2), MEAN), 1e-5),
        (curved, 200, MEAN + SPREAD * eps[None], 2e-2 if solver == "Euler" else 2e-3),
    ):
        layout = learn(pipeline, lambda prompts, p=pipeline: p(prompts, 2))
        with watch(pipeline) as trace:
            pipeline(["a"], steps)
        kept = record(trace, layout, [0])
        torch.testing.assert_close(kept.x_0, expected, rtol=0, atol=atol)


NOISE = [
    (s, p)
    for s in ("DDIM", "Euler", "DPM++", "UniPC", "Heun", "PNDM")
    for p in ("epsilon", "v_prediction")
]


@pytest.mark.parametrize(("solver", "prediction"), NOISE)
def test_noise_predictions_become_the_closed_form_velocity(solver, prediction):
    """alpha and sigma are known to the network from the training noise alone, at whole times."""
    base = noise_solvers()["DDIM"]
    kept_share = base.alphas_cumprod.double()

    def say(x: Tensor, time: Tensor) -> Tensor:
        share = torch.lerp(
            kept_share[time.long()],
            kept_share[(time.long() + 1).clamp_max(999)],
            time.double().frac(),
        )
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
        x_0, eps = best_guess(x.double(), alpha, sigma)
        return (eps if prediction == "epsilon" else alpha * eps - sigma * x_0).to(x.dtype)

    scheduler = {
        **noise_solvers(prediction),
        "Heun": HeunDiscreteScheduler.from_config(base.config, prediction_type=prediction),
        "PNDM": PNDMScheduler.from_config(
            base.config, prediction_type=prediction, skip_prk_steps=True
        ),
    }[solver]
    pipeline = ToyPipeline(Network(say), scheduler, Habits(time=lambda t, n: t.expand(n)))
    layout = learn(pipeline, lambda prompts: pipeline(prompts, 3))
    with watch(pipeline) as trace:
        drawn = pipeline(["a", "b"], 30)
    kept = record(trace, layout, [0, 1])
    assert layout.prediction == prediction and torch.equal(kept.x_0, drawn)
    steps = torch.tensor([0, len(kept.t) // 2, len(kept.t) - 1])
    alpha, sigma, t = (each[steps].reshape(-1, 1, 1) for each in (kept.alpha, kept.sigma, kept.t))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, 1, 1))
    torch.testing.assert_close(t, sigma / (alpha + sigma))
    x_0, eps = torch.randn(2, 3, 3, 2, generator=torch.Generator().manual_seed(0))
    x_t = kept.noised(x_0, eps, kept.t[steps])
    v = kept.velocity(pipeline.transformer, x_t, torch.tensor([1, 0, 1]), steps)
    guess_x_0, guess_eps = best_guess(alpha * x_0 + sigma * eps, alpha, sigma)
    torch.testing.assert_close(v, guess_eps - guess_x_0, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(x_t - t * v, guess_x_0, rtol=1e-3, atol=2e-3)


# --- what the record cannot explain ---------------------------------------------------------------

UNEXPLAINED = {
    "a nonlinear output": (Habits(heard=torch.tanh), "same numbers or their negatives, saw other numbers"),
    "a scaled output": (Habits(heard=lambda raw: 2 * raw), "saw other numbers"),
    "a hidden sample": (Habits(noisy=lambda x: 0.5 * x), r"no argument .* holds the solver's sample \(2, 3, 2\)"),
    "a third change": (Habits(extra=lambda i, n: i), "the time; saw time, extra"),
    "a fixed time": (Habits(time=lambda t, n: torch.ones(n)), "the time; saw none"),
    "a batch behind": (
        Habits(extra=lambda i, n: torch.ones(4, n)),
        r"extra of the network was a tensor \(4, 1\) for one image and a tensor \(4, 2\) for two",
    ),
    "a folded batch": (Habits(extra=lambda i, n: torch.ones(5 * n)), r"extra of the network was a tensor \(5,\)"),
    "a count": (Habits(extra=lambda i, n: {"images": n}), r"extra\['images'\] of the network was 1 .* and 2 for two"),
    "two calls": (Habits(times_called=2), "guidance is on .saw 2 network calls a step"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNEXPLAINED)
def test_the_unexplained_is_refused_by_name(what):
    habits, message = UNEXPLAINED[what]
    pipeline = ToyPipeline(Network(velocity), FLOW["Euler"](), habits)
    with pytest.raises(ConfigError, match=message):
        learn(pipeline, lambda prompts: pipeline(prompts, 3))


def test_a_silent_network_shows_no_sign():
    pipeline = ToyPipeline(Network(lambda x, t: 0 * x), FLOW["Euler"](), Habits())
    with pytest.raises(ConfigError, match="saw only zeros"):
        learn(pipeline, lambda prompts: pipeline(prompts, 3))


class Greedy(Network):
    """Empties the list it is given."""

    def forward(self, latents: list, time: Tensor, text: Tensor, extra: None) -> object:
        mine = [latents.pop(0) for _ in range(len(latents))]
        return super().forward(mine, time, text, extra)


def test_a_network_that_changes_its_lists_is_recorded_as_it_was_called():
    say, habits = HABITS["negated, time reversed, list of (1, 3, 2)"]
    pipeline = ToyPipeline(Greedy(say), FLOW["Euler"](), habits)
    layout = learn(pipeline, lambda prompts: pipeline(prompts, 2))
    with watch(pipeline) as trace:
        pipeline(["a", "b"], 2)
    kept, first = record(trace, layout, [0, 1]), trace.steps[0]
    assert len(first.arguments["latents"]) == 2
    v = kept.velocity(pipeline.transformer, first.sample, torch.arange(2), torch.zeros(2).long())
    torch.testing.assert_close(v, velocity(first.sample, torch.ones(())))


def test_one_step_shows_nothing():
    pipeline = ToyPipeline(Network(velocity), FLOW["Euler"](), Habits())
    with pytest.raises(ConfigError, match="saw 1 solver steps of FlowMatchEulerDiscreteScheduler"):
        learn(pipeline, lambda prompts: pipeline(prompts, 1))


def test_an_argument_that_was_none_when_learnt_is_refused():
    quiet = ToyPipeline(Network(velocity), FLOW["Euler"](), Habits())
    layout = learn(quiet, lambda prompts: quiet(prompts, 3))
    loud = ToyPipeline(Network(velocity), FLOW["Euler"](), Habits(extra=lambda i, n: torch.ones(n)))
    with watch(loud) as trace:
        loud(["a", "b"], 3)
    with pytest.raises(ConfigError, match=r"extra of the network is a tensor \(2,\), but was None"):
        record(trace, layout, [0, 1])


def test_times_that_differ_within_a_call_are_refused():
    pipeline = ToyPipeline(Network(velocity), FLOW["Euler"](), Habits())
    layout = learn(pipeline, lambda prompts: pipeline(prompts, 3))
    spread = Habits(time=lambda t, n: torch.linspace(0.1, 1, n))
    other = ToyPipeline(Network(velocity), FLOW["Euler"](), spread)
    with watch(other) as trace:
        other(["a", "b"], 3)
    with pytest.raises(ConfigError, match="time of the network holds different times"):
        record(trace, layout, [0, 1])


def test_a_solver_whose_stages_hide_their_noise_is_refused():
    """Its second stage calls the network between two of its sigmas, and the sample's scale gives it away."""
    scheduler = KDPM2DiscreteScheduler.from_config(noise_solvers()["DDIM"].config)
    habits = Habits(time=lambda t, n: t.expand(n))
    pipeline = ToyPipeline(Network(lambda x, t: x), scheduler, habits)
    with pytest.raises(ConfigError, match="holds the solver's sample"):
        learn(pipeline, lambda prompts: pipeline(prompts, 3))
