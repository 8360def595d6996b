"""The process's own random numbers, which some pipelines and solvers draw beside the generators they are given.

diffusers' FlowMatchEulerDiscreteScheduler does so where `stochastic_sampling` is on, and every solver that adds noise
in a pipeline that hands it no generator. Left alone, such an image is another one in every process and every batch.
"""

import random
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch


class Chance(AbstractContextManager):
    """Random numbers of torch, numpy and Python that follow from a seed within the block; put back behind it."""

    def __init__(self, seed: int) -> None:
        """Nothing is changed before the block begins.

        Args:
            seed: in [0, 2^63).
        """
        self._seed = seed
        self.used = False
        """Whether any were drawn within the block; known at its end."""

    def __enter__(self) -> "Chance":
        self._before = _states()
        torch.manual_seed(self._seed)
        np.random.seed(self._seed % 2**32)
        random.seed(self._seed)
        self._begun = _states()
        return self

    def __exit__(self, *_: object) -> None:
        self.used = _differ(self._begun, _states())
        (cpu, *cuda), numbers, plain = self._before
        torch.set_rng_state(cpu)
        for device, state in enumerate(cuda):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(numbers)
        random.setstate(plain)


def _states() -> tuple[list[torch.Tensor], Any, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda], np.random.get_state(), random.getstate()


def _differ(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    (torch_1, numpy_1, python_1), (torch_2, numpy_2, python_2) = one, two
    same_torch = all(map(torch.equal, torch_1, torch_2))
    same_numpy = np.array_equal(numpy_1[1], numpy_2[1]) and numpy_1[2:] == numpy_2[2:]
    return not (same_torch and same_numpy and python_1 == python_2)
