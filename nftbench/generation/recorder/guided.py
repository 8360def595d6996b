"""A policy with classifier-free guidance, put together again from its record: v = v_0 + scale (v_c - v_0).

Training learns from images of any policy whose velocity is known. A guided one is known by two records: of the prompts
(v_c), and of the empty prompt (v_0), which is what pipelines put in the prompt's place.

Source: arXiv:2207.12598 eq. 6.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nftbench.generation.recorder.call_arguments import flat
from nftbench.generation.recorder.replay import Record
from nftbench.generation.recorder.trace import Trace, TracedStep
from rewards.base import ConfigError

Network = Callable[[Record], Tensor]
"""A network's velocity at what is asked, under the conditioning of a record."""
TOLERANCE = 0.25
"""Error, relative to what guidance adds to a velocity, that mixed precision may make."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guided:
    """Guidance of the images of a record."""

    empty: Record
    """Of the same images under the empty prompt."""
    scale: float

    def velocity(self, network: Network, record: Record) -> Tensor:
        """Velocity of the guided policy: two calls of the network."""
        unguided = network(self.empty)
        return unguided + self.scale * (network(record) - unguided)


def guided_records(
    plain: Record, empty: Record, trace: Trace, images: list[int], scale: float
) -> tuple[Record, Guided]:
    """The records of a guided call.

    Args:
        plain: of an unguided call at the same times, an image of each prompt.
        empty: of an unguided call at the same times, one image of the empty prompt.
        trace: of the guided call.
        images: (N,) of the guided call, which image of `plain` has the same prompt.
        scale: of the guidance.
    """
    x_0 = trace.steps[-1].prev_sample.detach()
    prompt = plain.prompt[torch.tensor(images, device=plain.prompt.device)]
    nobody = empty.prompt.new_zeros(len(images))
    record = replace(plain, x_0=x_0, prompt=prompt)
    return record, Guided(empty=replace(empty, x_0=x_0, prompt=nobody), scale=scale)


def refuse_other_guidance(
    trace: Trace, record: Record, guided: Guided, network: Callable[..., Tensor]
) -> None:
    """Refuse a pipeline that guides in another way than `Guided` does.

    Args:
        trace: of the guided call.
        record: of it.
        guided: of it.
        network: `network(record, x_t, images, steps)`, velocities of the policy that drew, (N, ...).

    Raises:
        ConfigError: the solver was given something else in the first step.
    """
    first = trace.steps[0]
    steps = torch.zeros(len(record.x_0), dtype=torch.long, device=record.x_0.device)
    x_t = _seen(first, record) / record.scale[0]
    given = record.as_velocity(first.model_output.float(), x_t, steps)
    images = torch.arange(len(steps), device=steps.device)
    alone = network(record, x_t, images, steps)
    ours = guided.velocity(lambda one: network(one, x_t, images, steps), record)
    error = _size(ours - given) / max(_size(ours - alone), 1e-12)
    if not error <= TOLERANCE:
        raise ConfigError(
            f"guidance of this pipeline is not unguided + {guided.scale:g} (guided - unguided) with the empty prompt: "
            f"its part of the velocity is off by {100 * error:.0f}%; leave out stages.guided"
        )


def _size(v: Tensor) -> float:
    return float(v.square().mean().sqrt())


def _seen(step: TracedStep, record: Record) -> Tensor:
    """The noisy images that the network saw, (N, ...): the solver's own sample may be scaled otherwise."""
    rows = flat(step.arguments[record.layout.noisy])
    assert rows is not None, "`learn` found images in this argument"
    return rows[: len(record.x_0)].reshape(record.x_0.shape).float()
