"""A pipeline of a few lines with every habit of the real ones, around networks whose exact answer is known.

The images are Gaussian, x_0 ~ N(MEAN, SPREAD^2) in each number, so that the best guesses of x_0 and of the noise eps at
x = alpha x_0 + sigma eps are linear in x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

MEAN, SPREAD = 0.7, 0.5


def best_guess(
    x: Tensor, alpha: float, sigma: float, spread: float = SPREAD
) -> tuple[Tensor, Tensor]:
    """E[x_0 | x] and E[eps | x]."""
    rest = (x - alpha * MEAN) / (alpha**2 * spread**2 + sigma**2)
    return MEAN + alpha * spread**2 * rest, sigma * rest


class Network(nn.Module):
    """Says the best guess, in the words that `say` puts it."""

    def __init__(self, say: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.say, self.gain = say, nn.Parameter(torch.ones(()))

    def forward(
        self, latents: Any, time: Tensor, text: Tensor | None = None, extra: Any = None
    ) -> Any:
        if isinstance(latents, list):
            return [self.gain * self.say(x, t) for x, t in zip(latents, time, strict=True)], None
        column = torch.as_tensor(time).reshape(-1, *[1] * (latents.ndim - 1))
        return (self.gain * self.say(latents, column),)


@dataclass(frozen=True)
class Habits:
    """How a pipeline speaks to its network."""

    time: Callable[[Tensor, int], Any] = lambda t, n: (t / 1000).expand(n)
    noisy: Callable[[Tensor], Any] = lambda x: x
    heard: Callable[[Any], Tensor] = lambda raw: raw
    """What the solver is given, of what the network said."""
    extra: Callable[[int, int], Any] = lambda step, n: None
    """A further argument, by step and number of images."""
    times_called: int = 1


class ToyPipeline(DiffusionPipeline):
    def __init__(self, transformer: nn.Module, scheduler: Any, habits: Habits) -> None:
        super().__init__()
        self.transformer, self.scheduler, self.habits = transformer, scheduler, habits

    @property
    def components(self) -> dict[str, Any]:
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    @torch.no_grad()
    def __call__(self, prompt: list[str], num_inference_steps: int = 20) -> Tensor:
        count, habits = len(prompt), self.habits
        x = torch.stack(
            [torch.randn(3, 2, generator=torch.Generator().manual_seed(i)) for i in range(count)]
        )
        text = torch.tensor([[float(len(p))] for p in prompt])
        self.scheduler.set_timesteps(num_inference_steps)
        x = x * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for i, t in enumerate(self.scheduler.timesteps):
            scaled = x
            if hasattr(self.scheduler, "init_noise_sigma"):
                scaled = self.scheduler.scale_model_input(x, t)
            for _ in range(habits.times_called):
                raw = self.transformer(
                    habits.noisy(scaled),
                    habits.time(t, count),
                    text=text,
                    extra=habits.extra(i, count),
                )[0]
            x = self.scheduler.step(habits.heard(raw), t, x, return_dict=False)[0]
        return x
