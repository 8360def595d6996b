"""Training through a pipeline that stays a black box: what is seen, what is kept, what is called again.

`pytest tests/generation/test_replay.py -s -k table` prints which pipeline was recorded with which solver.
"""

import functools
import gc
import weakref
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from nftbench.generation.recorder.call_arguments import flat
from nftbench.generation.recorder.replay import Layout, Record, learn, record
from nftbench.generation.recorder.trace import Trace, TracedStep, denoiser_of, watch
from rewards.base import ConfigError
from tests.helpers.models import families, tiny

PROMPTS, ROWS = ["red", "red", "blue moon", "blue moon"], [0, 0, 2, 2]
FLOW = [f for f in tiny.ARGUMENTS if f not in tiny.NOISE_FAMILIES]
ALL = [(f, s) for f in FLOW for s in ("Euler", "Heun", "DPM++", "UniPC")]
ALL += [(f, s) for f in tiny.NOISE_FAMILIES for s in ("DDIM", "Euler", "DPM++", "UniPC")]
NO_SIGMAS = ("flux", "flux2", "qwen_image", "z_image", "lumina2")
"""Pipelines that hand their solver sigmas and a shift, which these solvers' set_timesteps do not take."""
REFUSED = {(f, "Heun") for f in NO_SIGMAS}
REFUSED |= {(f, "DPM++") for f in ("qwen_image", "z_image", "lumina2")}
REFUSED |= {("z_image", "UniPC")}  # its sigmas are a list, where this solver wants an array
CASES = [case for case in ALL if case not in REFUSED]


class Rollout(NamedTuple):
    network: torch.nn.Module
    trace: Trace
    layout: Layout
    record: Record
    images: Tensor


@functools.cache
def rollout(family: str, solver: str) -> Rollout:
    pipeline = tiny.build(family, solver)
    layout = learn(pipeline, lambda prompts: tiny.draw(pipeline, family, prompts))
    with watch(pipeline) as trace:
        images = tiny.draw(pipeline, family, PROMPTS, 4)
    kept = record(trace, layout, ROWS)
    return Rollout(denoiser_of(pipeline)[1], trace, layout, kept, images)


def said(output: Any) -> Tensor:
    return flat(output[0] if isinstance(output, tuple) else output)


def moments(run: Rollout) -> list[int]:
    """For each recorded step, which of the record's times it was at."""
    seen = [torch.as_tensor(s.arguments[run.layout.time]).reshape(-1)[0] for s in run.trace.steps]
    return [int((run.record.moments == m).nonzero()[0, 0]) for m in seen]


@torch.no_grad()
def again(network: torch.nn.Module, step: TracedStep) -> Any:
    """The network called as it was called in a step."""
    return network(**step.arguments)


def x_t_of(run: Rollout, k: int, time: int) -> Tensor:
    """Sample of step k in the record's coordinates."""
    seen = flat(run.trace.steps[k].arguments[run.layout.noisy])
    return (seen / run.record.scale[time]).reshape(run.images.shape)


# --- real pipelines and solvers -------------------------------------------------------------------


@pytest.mark.parametrize(("family", "solver"), CASES)
def test_a_recorded_call_replays_bit_for_bit(family, solver):
    run = rollout(family, solver)
    for step in run.trace.steps:
        assert torch.equal(said(again(run.network, step)), said(step.output))
        expected = said(step.output)[:, : step.sample[0].numel()] * run.layout.sign
        assert torch.equal(expected, flat(step.model_output))
    assert torch.equal(run.record.x_0, run.images) and run.images.std() > 0


def test_table_of_pipelines_and_solvers():
    """Prints pipeline x solver: `equal` where every recorded call replays bit for bit, else why the pipeline refuses.

    Run `pytest tests/generation/test_replay.py -s -k table`.
    """
    lines = []
    for family, solver in ALL:
        try:
            run = rollout(family, solver)
        except (ValueError, TypeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:72]
            lines.append((family, solver, f"diffusers refuses: {reason}"))
            assert (family, solver) in REFUSED
        else:
            equal = all(
                torch.equal(said(again(run.network, s)), said(s.output)) for s in run.trace.steps
            )
            calls = f"{len(run.trace.steps)} calls at {len(run.record.t)} times"
            lines.append((family, solver, f"{'equal' if equal else 'DIFFERS'} ({calls})"))
            assert equal
    print("\n" + "\n".join(f"{f:<11}{s:<7}{result}" for f, s, result in lines))  # noqa: T201


@pytest.mark.parametrize(("family", "solver"), CASES)
def test_velocity_at_a_recorded_sample_is_what_the_solver_was_given(family, solver):
    run, everyone = rollout(family, solver), torch.arange(4)
    for k, time in enumerate(moments(run)):
        x_t, step = x_t_of(run, k, time), run.trace.steps[k]
        with torch.no_grad():
            v = run.record.velocity(run.network, x_t, everyone, torch.full((4,), time))
        expected = step.model_output
        if run.layout.prediction == "epsilon":  # x_0 by the formula of the solver's own papers
            seen = flat(step.arguments[run.layout.noisy]).reshape(expected.shape)
            expected = expected - (seen - step.sigma * expected) / step.alpha
            scale = 1 / step.alpha
        else:
            scale = 1.0
        assert (v - expected).abs().max() <= 2e-6 * scale * max(1, expected.abs().max())


@pytest.mark.parametrize("family", tiny.ARGUMENTS)
def test_some_images_in_any_order_at_their_own_times(family):
    run = rollout(family, "Euler")
    images, steps = torch.tensor([3, 0, 0, 2, 1]), torch.tensor([1, 2, 0, 1, 3])
    x_t = torch.randn(5, *run.images.shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = run.record.velocity(run.network, x_t, images, steps)
        for b in range(5):
            # All four images at this time, with our sample in the wanted place.
            rows = torch.zeros_like(run.images)
            rows[images[b]] = x_t[b]
            alone = run.record.velocity(
                run.network, rows, torch.arange(4), steps[b].expand(4).clone()
            )[images[b]]
            torch.testing.assert_close(together[b], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", tiny.ARGUMENTS)
def test_the_prompt_reaches_the_network(family):
    run = rollout(family, "Euler")
    x_t = run.images[:1].expand(4, *run.images.shape[1:])
    with torch.no_grad():
        v = run.record.velocity(run.network, x_t, torch.arange(4), torch.full((4,), 2))
    torch.testing.assert_close(v[0], v[1], rtol=1e-5, atol=1e-5)
    assert (v[0] - v[2]).abs().max() > 1e-4


MASKS_ASTRAY = ("qwen_image", "sana", "lumina2")
"""With images per prompt these give their images embeddings in the order aabb and padding masks in the order abab."""


@pytest.mark.parametrize("family", tiny.ARGUMENTS)
def test_images_per_prompt_leave_the_same_record(family):
    run, pipeline = rollout(family, "Euler"), tiny.build(family)
    with watch(pipeline) as trace:
        images = tiny.draw(pipeline, family, PROMPTS[::2], 4, num_images_per_prompt=2)
    if family in MASKS_ASTRAY:
        with pytest.raises(ConfigError, match=r"mask of the network differs between images of one"):
            record(trace, run.layout, ROWS)
        return
    kept = record(trace, run.layout, ROWS)
    torch.testing.assert_close(images, run.images, rtol=1e-5, atol=1e-5)
    x_t, where = torch.ones_like(images)[:3], (torch.tensor([2, 1, 3]), torch.full((3,), 1))
    with torch.no_grad():
        ours, theirs = (r.velocity(run.network, x_t, *where) for r in (kept, run.record))
    assert kept.prompts == 2 and kept.prompt.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_images_of_one_prompt_may_be_drawn_together():
    """One entry of the argument for all images of a prompt: it serves each of them."""
    run, pipeline = rollout("qwen_image", "Euler"), tiny.build("qwen_image")
    with watch(pipeline) as trace:
        tiny.draw(pipeline, "qwen_image", ["red", "sky"], 4, num_images_per_prompt=2)
    assert len(trace.steps[0].arguments["img_shapes"]) == 2
    kept, step = record(trace, run.layout, ROWS), trace.steps[2]
    images, steps = torch.tensor([3, 0]), torch.full((2,), 2)
    with torch.no_grad():
        v = kept.velocity(pipeline.transformer, step.sample[images], images, steps)
    torch.testing.assert_close(v, step.model_output[images], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", tiny.ARGUMENTS)
def test_gradients_reach_weights_and_adapters(family):
    run, pipeline = rollout(family, "Euler"), tiny.build(family)
    _, network = denoiser_of(pipeline)
    x_t, where = torch.ones_like(run.images), (torch.arange(4), torch.arange(4))
    run.record.velocity(network, x_t, *where).square().mean().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in grads) > 0

    network.requires_grad_(False)
    config = LoraConfig(r=2, init_lora_weights="gaussian", target_modules=["to_q"])
    if hasattr(network, "add_adapter"):
        network.add_adapter(config)
    else:
        inject_adapter_in_model(config, network)
    with torch.no_grad():
        before = run.record.velocity(run.network, x_t, *where)
        torch.testing.assert_close(run.record.velocity(network, x_t, *where), before)
    run.record.velocity(network, x_t, *where).square().mean().backward()
    trained = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    assert trained and all("lora" in n for n in trained)
    assert all(g.abs().max() > 0 for n, g in trained.items() if "lora_B" in n)


@pytest.mark.parametrize("family", ["sd3", "sana", "z_image"])
def test_half_precision_is_recorded_too(family):
    pipeline = tiny.build(family).to(torch.bfloat16)
    layout = learn(pipeline, lambda prompts: tiny.draw(pipeline, family, prompts))
    assert layout == rollout(family, "Euler").layout
    with watch(pipeline) as trace:
        tiny.draw(pipeline, family, PROMPTS, 3)
    kept, step = record(trace, layout, ROWS), trace.steps[1]
    with torch.no_grad():
        v = kept.velocity(
            pipeline.transformer, step.sample.float(), torch.arange(4), torch.full((4,), 1)
        )
    assert kept.dtype == torch.bfloat16 and v.dtype == torch.float32
    assert torch.equal(v, step.model_output.float())


def test_a_network_that_takes_a_list_of_images_each_in_a_list_of_its_own_replays():
    pipeline = families.build("z_image_omni")
    settings = {**tiny.ARGUMENTS["z_image"], "output_type": "latent", "num_inference_steps": 2}

    def draw(prompts: list[str]) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        return pipeline(prompt=prompts, generator=generators, **settings).images

    layout = learn(pipeline, draw)
    with watch(pipeline) as trace:
        images = draw(list(PROMPTS))
    kept, step = record(trace, layout, ROWS), trace.steps[1]
    assert (layout.noisy, kept.depth) == ("x", 1) and torch.equal(kept.x_0, images)
    with torch.no_grad():
        x_t = step.sample.float()
        v = kept.velocity(pipeline.transformer, x_t, torch.arange(4), torch.full((4,), 1))
    assert (v - step.model_output).abs().max() <= 2e-6 and v.std() > 0


def test_layouts_are_pinned():
    """The widest-spread habits: plain, a negated list with time running 0 -> 1, a mask that appears, nested."""
    plain, listed, masked, nested = (
        rollout(f, "Euler").layout for f in ("sd3", "z_image", "qwen_image", "sdxl")
    )
    assert (plain.noisy, plain.time, plain.sign) == ("hidden_states", "timestep", 1)
    assert (listed.noisy, listed.time, listed.sign) == ("x", "t", -1)
    assert rollout("z_image", "Euler").record.depth == 0
    moments_up = rollout("z_image", "Euler").record.moments
    torch.testing.assert_close(moments_up, 1 - rollout("z_image", "Euler").record.t)
    assert masked.kinds["encoder_hidden_states_mask"] == "image"
    assert nested.kinds["added_cond_kwargs"] == {"text_embeds": "image", "time_ids": "image"}
    assert nested.prediction == "epsilon" and plain.prediction == "flow_prediction"


def test_times_of_the_pocket_checkpoint_are_pinned(policy):
    arguments = {"height": 64, "width": 64, "max_sequence_length": 0, "guidance_scale": 1.0}
    pipeline = policy.pipeline

    def draw(prompts: list[str], steps: int = 2) -> Tensor:
        return pipeline(
            prompt=prompts, num_inference_steps=steps, output_type="latent", **arguments
        ).images

    layout = learn(pipeline, draw)
    with watch(pipeline) as trace:
        images = draw(["a photo of a red circle"], 5)
    kept = record(trace, layout, [0])
    assert torch.equal(kept.x_0, images)
    expected = torch.tensor([1.0, 0.900359, 0.751121, 0.502985, 0.008929])
    torch.testing.assert_close(kept.t, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(kept.moments, 1000 * expected, rtol=0, atol=1e-3)


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd3", "z_image", "sdxl"])
def test_a_record_keeps_a_row_a_prompt_and_lets_go_of_the_trace(family):
    run, pipeline = rollout(family, "Euler"), tiny.build(family)
    held = next(k for k, v in run.layout.kinds.items() if v == "image")
    assert len(run.record.conditioning[held]) == 2
    with watch(pipeline) as trace:
        tiny.draw(pipeline, family, PROMPTS, 2)
    first = weakref.ref(trace.steps[0].prev_sample)
    kept = record(trace, run.layout, ROWS)
    del trace
    gc.collect()
    assert first() is None and kept.x_0.shape == run.images.shape


@pytest.mark.parametrize("family", ["flux", "z_image", "sdxl"])
def test_a_record_moves_whole(family):
    moved = rollout(family, "Euler").record.to("meta")
    tensors = [moved.x_0, moved.t, moved.moments, moved.prompt]
    for value in moved.conditioning.values():
        tensors += value if isinstance(value, list) else [value]
    devices = {t.device.type for t in tensors if isinstance(t, Tensor)}
    assert devices == {"meta"} and moved.layout == rollout(family, "Euler").layout


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1))
def test_noised_inverts_by_the_true_velocity(seed, t):
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    x_t = Record.noised(x_0, eps, torch.full((3,), t, dtype=torch.float64))
    torch.testing.assert_close(x_t - t * (eps - x_0), x_0, rtol=0, atol=1e-12)


def test_a_mask_that_is_missing_in_one_rollout_is_no_harm():
    """The mask appears only where prompts of a batch differ in length."""
    run, pipeline = rollout("qwen_image", "Euler"), tiny.build("qwen_image")
    with watch(pipeline) as trace:
        tiny.draw(pipeline, "qwen_image", ["red", "sky"], 4)
    kept = record(trace, run.layout, [0, 1])
    assert kept.conditioning["encoder_hidden_states_mask"] is None
    step = trace.steps[2]
    with torch.no_grad():
        v = kept.velocity(pipeline.transformer, step.sample, torch.arange(2), torch.full((2,), 2))
    assert torch.equal(v, step.model_output)


# --- what is refused ------------------------------------------------------------------------------

GUIDED = {
    "sd3": {"guidance_scale": 4.0},
    "z_image": {"guidance_scale": 4.0},
    "sd15": {"guidance_scale": 7.5},
    "lumina2": {"guidance_scale": 4.0},
    "qwen_image": {"negative_prompt": " ", "true_cfg_scale": 4.0},
    "flux": {"negative_prompt": " ", "true_cfg_scale": 4.0},
}


@pytest.mark.parametrize("family", GUIDED)
def test_guidance_is_refused_when_learning_and_when_recording(family):
    pipeline, run = tiny.build(family), rollout(family, "Euler")
    wanted = r"^guidance is on \(saw 2 network (calls|rows for 1 images) a step\); .*guidance_scale"
    with pytest.raises(ConfigError, match=wanted):
        learn(pipeline, lambda p: tiny.draw(pipeline, family, p, **GUIDED[family]))
    with watch(pipeline) as trace:
        tiny.draw(pipeline, family, PROMPTS, 2, **GUIDED[family])
    with pytest.raises(ConfigError, match=r"^guidance is on"):
        record(trace, run.layout, ROWS)


def test_images_of_other_prompts_are_no_images_of_this_one():
    run = rollout("sd3", "Euler")
    with pytest.raises(ConfigError, match="encoder_hidden_states of the network differs"):
        record(run.trace, run.layout, [0, 0, 0, 0])


def test_everything_is_put_back_also_after_an_error():
    pipeline = tiny.build("sd3")
    before = tiny.draw(pipeline, "sd3", PROMPTS)
    hooks = (pipeline.transformer._forward_hooks, pipeline.transformer._forward_pre_hooks)
    with pytest.raises(ZeroDivisionError), watch(pipeline):
        assert "step" in vars(pipeline.scheduler)
        raise ZeroDivisionError
    assert "step" not in vars(pipeline.scheduler) and not any(hooks)
    mine = pipeline.scheduler.step
    pipeline.scheduler.step = mine
    with watch(pipeline) as trace:
        assert torch.equal(tiny.draw(pipeline, "sd3", PROMPTS), before)
    assert pipeline.scheduler.step is mine and len(trace.steps) == 2


def test_a_pipeline_without_a_network_is_refused():
    pipeline = tiny.build("sd3")
    pipeline.transformer = None
    with pytest.raises(ConfigError, match="neither a transformer nor a unet"):
        denoiser_of(pipeline)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(prediction_type="sample"), "prediction_type 'sample' without flow sigmas"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "grows from step to step"),
    ],
)
def test_solvers_of_other_conventions_are_refused(scheduler, message):
    pipeline = tiny.sd3(scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(ConfigError, match=message):
        learn(pipeline, lambda prompts: tiny.draw(pipeline, "sd3", prompts))
