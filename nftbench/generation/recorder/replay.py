"""Watches a diffusers pipeline draw images, and hands back what training needs. The pipeline stays a black box.

While a pipeline runs, its network's calls and its scheduler's steps are written down (`watch`). Two calls that differ
only in the number of images show which argument is the noisy sample, which the time, and which belong to an image; the
network's output beside what the scheduler was given shows its sign (`learn`). Then one rollout leaves a `Record`: the
clean latents, the conditioning once a prompt, the times; from which the network can be called again at any noise.

    learn:   layout = learn(pipeline, draw)
    rollout: with watch(pipeline) as trace: pipeline(prompt=..., output_type="latent", ...)
             rollout = record(trace, layout, rows)
    train:   x_t = rollout.noised(x_0, eps, t);  v = rollout.velocity(network, x_t, images, steps)

What the record cannot explain is refused with what was seen. No model is named anywhere here.

Every network is brought to one form, x_t = (1 - t) x_0 + t eps and v = eps - x_0, also those that were trained on
x = alpha x_0 + sigma eps: divided by alpha + sigma, x is x_t with t = sigma / (alpha + sigma).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from nftbench.generation.recorder.call_arguments import (
    Kind,
    convert,
    flat,
    kind_of,
    refuse_new,
    same,
    shown,
    take,
    unwrapped,
    wrapped,
)
from nftbench.generation.recorder.trace import (
    Prediction,
    Trace,
    TracedStep,
    first_output,
    prediction_of,
    watch,
)
from rewards.base import ConfigError

PROMPTS = ("a cat", "two red cats")
"""What a pipeline is watched with; of different lengths, so that padding shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a pipeline talks to its network."""

    noisy: str
    """The argument that holds the noisy sample."""
    time: str
    kinds: Mapping[str, Kind]
    """Whose every other argument is."""
    sign: int
    """1, or -1 where the pipeline negates the network's output."""
    prediction: Prediction


def learn(pipeline: DiffusionPipeline, draw: Callable[[list[str]], object]) -> Layout:
    """Find out how a pipeline talks to its network, by watching it three times.

    Args:
        pipeline: any text-to-image pipeline.
        draw: runs the pipeline on these prompts, one image each, without guidance, with two or three steps.

    Raises:
        ConfigError: guidance is on, or the record does not explain the calls; with what was seen.
    """
    short, long = PROMPTS
    one, two, mixed = (_watched(pipeline, draw, p) for p in ([short], [short] * 2, [short, long]))
    prediction = prediction_of(pipeline.scheduler)
    sign = _sign([*two, *mixed])
    noisy, time = _changing(two, flow=prediction == "flow_prediction")
    others = [k for k in two[0].arguments if k not in (noisy, time)]
    calls = [trace[0].arguments for trace in (one, two, mixed)]
    return Layout(
        noisy=noisy,
        time=time,
        kinds={k: kind_of(k, *(call.get(k) for call in calls)) for k in others},
        sign=sign,
        prediction=prediction,
    )


def _watched(
    pipeline: DiffusionPipeline, draw: Callable[[list[str]], object], prompts: list[str]
) -> list[TracedStep]:
    with watch(pipeline) as trace:
        draw(list(prompts))  # some pipelines change the list
    if len(trace.steps) < 2:
        raise ConfigError(
            f"saw {len(trace.steps)} solver steps of {type(pipeline.scheduler).__name__}; expected at least two"
        )
    for step in trace.steps:
        _refuse_guidance(step, step.arguments)
    if any(b.sigma * a.alpha > a.sigma * b.alpha for a, b in pairwise(trace.steps)):
        raise ConfigError(
            f"the noise of {type(pipeline.scheduler).__name__} grows from step to step; expected it to fall"
        )
    return trace.steps


def _refuse_guidance(step: TracedStep, names: Iterable[str]) -> None:
    """Refuse a step with two network calls, or one whose network saw more images than the solver."""
    wanted = _rows(step.sample, "the solver's sample")
    values = [flat(step.arguments[k]) for k in names if k in step.arguments]
    rows = {len(v) for v in values if v is not None and v.shape[1] == wanted.shape[1]}
    if step.calls > 1 or (rows and len(wanted) not in rows):
        seen = (
            f"{step.calls} network calls"
            if step.calls > 1
            else f"{max(rows)} network rows for {len(wanted)} images"
        )
        raise ConfigError(
            f"guidance is on (saw {seen} a step); training needs one call a step: set guidance_scale to 1 (or 0)"
        )
    if step.calls < 1:
        raise ConfigError("saw a solver step without a network call; switch caching off")


def _rows(value: Any, what: str) -> Tensor:
    """The numbers of each image, (N, n).

    Raises:
        ConfigError: the value does not hold one row of equal length an image.
    """
    rows = flat(value)
    if rows is None:
        raise ConfigError(
            f"{what} is {shown(value)}; expected a tensor, or a list of tensors of one size, with one row an image"
        )
    return rows


def _changing(steps: Sequence[TracedStep], *, flow: bool) -> tuple[str, str]:
    """Names of the two arguments that change from step to step: the noisy sample and the time."""
    first, *rest = steps
    changing = [
        k for k, v in first.arguments.items() if any(not same(v, s.arguments.get(k)) for s in rest)
    ]
    noisy = [k for k in changing if all(_holds_sample(s.arguments[k], s, flow) for s in steps)]
    times = [k for k in changing if k not in noisy]
    if len(noisy) != 1:
        seen = "; ".join(f"{k} is {shown(first.arguments[k])}" for k in changing)
        raise ConfigError(
            f"no argument of the network holds the solver's sample {tuple(first.sample.shape)} up to one factor; "
            f"changing from step to step: {seen or 'nothing'}"
        )
    if len(times) != 1:
        raise ConfigError(
            f"expected one argument of the network beside {noisy[0]} to change from step to step, the time; "
            f"saw {', '.join(times) or 'none'}"
        )
    return noisy[0], times[0]


def _holds_sample(value: Any, step: TracedStep, flow: bool) -> bool:
    """Whether an argument is the solver's sample, or alpha times it, up to rounding to the argument's dtype."""
    seen, sample = flat(value), _rows(step.sample, "the solver's sample")
    if seen is None or seen.shape != sample.shape or not seen.is_floating_point():
        return False
    atol = 4 * torch.finfo(seen.dtype).eps * float(seen.abs().max())
    return any(
        torch.allclose(seen.float(), factor * sample.float(), rtol=0, atol=atol)
        for factor in ((1.0,) if flow else (1.0, step.alpha))
    )


def _sign(steps: Sequence[TracedStep]) -> int:
    """1 where the solver is given what the network returns, -1 where it is given the negative."""
    signs = [s for s in (1, -1) if all(_explains(s, step) for step in steps)]
    if len(signs) == 1:
        return signs[0]
    raw, given = first_output(steps[0].output), steps[0].model_output
    seen = "only zeros" if signs else "other numbers"
    raise ConfigError(
        f"the network returned {shown(raw)} and the solver was given {shown(given)}; expected the same numbers or "
        f"their negatives, saw {seen}; this pipeline cannot be trained through its record"
    )


def _explains(sign: int, step: TracedStep) -> bool:
    raw, given = (
        flat(first_output(step.output)),
        _rows(step.model_output, "the solver's model output"),
    )
    if raw is None or len(raw) != len(given) or raw.shape[1] < given.shape[1]:
        return False
    return torch.equal((sign * _leading(raw, given)).to(given.dtype), given)


def _leading(raw: Tensor, like: Tensor) -> Tensor:
    """The first numbers of each image, (N, n): networks that also predict a variance put it behind."""
    return raw[:, : like[0].numel()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one rollout of N images leaves for training: clean latents, conditioning once a prompt, T times."""

    layout: Layout
    x_0: Tensor
    """Clean latents as the solver left them, (N, ...)."""
    t: Tensor
    """Noise levels sigma / (alpha + sigma) of the rollout, float32 (T,), falling, in [0, 1]; 1 is noise."""
    alpha: Tensor
    """float32 (T,); 1 - t for flow models."""
    sigma: Tensor
    """float32 (T,); t for flow models."""
    scale: Tensor
    """alpha + sigma, float32 (T,); exactly 1 for flow models."""
    moments: Tensor
    """The network's own name for each time, (T,), in its own dtype."""
    shape: tuple[int, ...]
    """Of one noisy image as the network takes it."""
    dtype: torch.dtype
    depth: int | None
    """Lists of one around each image, where the network takes its images as a list; None where as one tensor."""
    conditioning: Mapping[str, Any]
    """All other arguments, with one row a prompt where they belong to images."""
    prompts: int
    """Rows of the conditioning."""
    prompt: Tensor
    """Row of each image's prompt in the conditioning, long (N,)."""

    def to(self, device: torch.device | str) -> "Record":
        """The same record with its tensors on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: convert(v, move) for k, v in held.items() if k != "layout"})

    @staticmethod
    def noised(x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noised latents x_t = (1 - t) x_0 + t eps.

        Args:
            x_0: clean latents, (B, ...).
            eps: noise, (B, ...).
            t: noise level, (B,) in [0, 1].
        """
        t = _column(t, x_0)
        return (1 - t) * x_0 + t * eps

    def velocity(self, denoiser: nn.Module, x_t: Tensor, images: Tensor, steps: Tensor) -> Tensor:
        """Call the network once, with gradient, at a noise of our own.

        Args:
            denoiser: the network that was watched, whatever adapters it now wears.
            x_t: noised latents (1 - t) x_0 + t eps, (B, ...).
            images: which images of the record they are, long (B,) in [0, N); any order, repeats allowed.
            steps: which times of the record, long (B,) in [0, T).

        Returns:
            v = eps - x_0, (B, ...), in x_t's dtype; x_t - t v is the clean latent that the network foresees.

        Source: for epsilon and v-prediction arXiv:2202.00512 Sec. 4 and App. D.
        """
        x = x_t * _column(self.scale[steps], x_t)
        output = denoiser(**self.arguments(x, images, steps))
        raw = _rows(first_output(output), "the network's output")
        predicted = self.layout.sign * _leading(raw, x_t).reshape(x_t.shape).to(x_t.dtype)
        return self.as_velocity(predicted, x_t, steps)

    def as_velocity(self, predicted: Tensor, x_t: Tensor, steps: Tensor) -> Tensor:
        """What a solver is given for x_t at some times, (B, ...), as the velocity eps - x_0."""
        levels = (self.alpha, self.sigma, self.scale)
        alpha, sigma, scale = (_column(each[steps], x_t) for each in levels)
        x = x_t * scale
        if self.layout.prediction == "flow_prediction":
            return predicted
        if self.layout.prediction == "epsilon":
            return predicted - (x - sigma * predicted) / alpha
        return (alpha * predicted + sigma * x) - (alpha * x - sigma * predicted)

    def arguments(self, x: Tensor, images: Tensor, steps: Tensor) -> dict[str, Any]:
        """The network's arguments for x = alpha x_0 + sigma eps, (B, ...), of some images at some times."""
        rows = x.reshape(len(x), *self.shape).to(self.dtype)
        prompts = self.prompt[images]
        given = {
            k: take(v, self.layout.kinds[k], prompts, of=self.prompts)
            for k, v in self.conditioning.items()
        }
        given[self.layout.noisy] = rows
        if self.depth is not None:
            given[self.layout.noisy] = [wrapped(row, self.depth) for row in rows.unbind()]
        given[self.layout.time] = self.moments[steps]
        return given


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def record(trace: Trace, layout: Layout, rows: Sequence[int]) -> Record:
    """What one rollout leaves for training; the trace may be let go.

    Args:
        trace: of one call of the pipeline that made N images.
        layout: of this pipeline.
        rows: (N,) for each image the first image of the call with the same prompt.

    Raises:
        ConfigError: guidance was on, or the call differs from what `learn` saw.
    """
    last, firsts = trace.steps[-1], sorted(set(rows))
    assert len(rows) == len(last.prev_sample), "one row an image"
    moments: dict[tuple[float, float], tuple[Tensor, TracedStep]] = {}
    for step in trace.steps:
        _refuse_guidance(step, [layout.noisy])
        moment = _moment(layout.time, step.arguments[layout.time])
        moments.setdefault((float(moment), step.sigma), (moment, step))
        if step.alpha == 0 and layout.prediction == "epsilon":
            raise ConfigError(
                "the first step is pure noise, where predicted noise does not determine an image; choose another "
                "timestep spacing"
            )
    x_0, noisy = last.prev_sample.detach(), last.arguments[layout.noisy]
    image, depth = unwrapped(noisy[0])

    def each(value: Callable[[float, float], float]) -> Tensor:
        values = [value(step.alpha, step.sigma) for _, step in moments.values()]
        return torch.tensor(values, dtype=torch.float32, device=x_0.device)

    return Record(
        layout=layout,
        x_0=x_0,
        t=each(lambda alpha, sigma: sigma / (alpha + sigma)),
        alpha=each(lambda alpha, sigma: alpha),
        sigma=each(lambda alpha, sigma: sigma),
        scale=each(lambda alpha, sigma: alpha + sigma),
        moments=torch.stack([m for m, _ in moments.values()]).to(x_0.device),
        shape=tuple(image.shape),
        dtype=image.dtype,
        depth=None if isinstance(noisy, Tensor) else depth,
        conditioning=_once_a_prompt(last, layout, rows),
        prompts=len(firsts),
        prompt=torch.tensor([firsts.index(r) for r in rows], device=x_0.device),
    )


def _once_a_prompt(step: TracedStep, layout: Layout, rows: Sequence[int]) -> dict[str, Any]:
    kept, everyone = {}, torch.arange(len(rows))
    for name, value in step.arguments.items():
        if name in (layout.noisy, layout.time):
            continue
        kind = layout.kinds.get(name, "absent")
        refuse_new(name, value, kind)
        mine, first = (take(value, kind, i, of=len(rows)) for i in (everyone, torch.tensor(rows)))
        if not same(mine, first, tolerance=0.01):
            raise ConfigError(
                f"argument {name} of the network differs between images of one prompt, where it should be the same; "
                "name the prompt of every image in place of num_images_per_prompt"
            )
        kept[name] = take(value, kind, torch.tensor(sorted(set(rows))), of=len(rows))
    return kept


def _moment(name: str, value: Any) -> Tensor:
    """The one time of a call, 0-dim; it comes as a number or as one number an image."""
    times = torch.as_tensor(value).reshape(-1)
    if not bool((times == times[0]).all()):
        raise ConfigError(
            f"argument {name} of the network holds different times in one call; expected one"
        )
    return times[0].clone()
