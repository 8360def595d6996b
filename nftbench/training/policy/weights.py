"""Several sets of weights of one network.

`theta` is trained, `old` draws the images, `ref` is where the run began, `ema` is what is evaluated and saved. The
network holds theta; `with weights.using("old"):` puts another set in its place for as long as the block lasts.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from rewards.base import ConfigError


class Weights:
    """Named sets of the trained parameters, float32.

    Whatever is trained, a LoRA or the whole network, there is one way to reach another policy: its tensors are
    exchanged for the network's. `ref` is the set as it was at the start; a fresh LoRA is then the base exactly, for
    its second factor is zero.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self._sets: dict[str, list[Tensor]] = {}
        self._placed: str | None = None
        for name in ("old", "ref", "ema"):
            self.copy(name)

    def __getitem__(self, name: str) -> list[Tensor]:
        """The tensors of a set, in the order of `parameters`."""
        self._refuse_while_placed(f"read {name!r}")
        return [p.data for p in self.parameters.values()] if name == "theta" else self._sets[name]

    def copy(self, name: str) -> None:
        """Make a set equal to theta."""
        self._refuse_while_placed(f"copy theta to {name!r}")
        self._sets[name] = [p.detach().clone() for p in self.parameters.values()]

    def take(self, name: str) -> None:
        """Make theta equal to a set."""
        for theta, other in zip(self["theta"], self[name], strict=True):
            theta.copy_(other)

    def blend(self, name: str, keep: float) -> None:
        """Set <- keep * set + (1 - keep) * theta."""
        for mine, theta in zip(self[name], self["theta"], strict=True):
            mine.lerp_(theta, 1 - keep)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The network with another set's weights, without gradients.

        Raises:
            RuntimeError: inside another such block; which tensors are whose would be wrong in silence.
        """
        self._refuse_while_placed(f"use {name!r}")
        with torch.no_grad():
            self._swap(name)
            self._placed = name
            try:
                yield
            finally:
                self._placed = None
                self._swap(name)

    def _refuse_while_placed(self, wanted: str) -> None:
        if self._placed is not None:
            raise RuntimeError(
                f"cannot {wanted} while the network holds {self._placed!r}; leave that block first"
            )

    def _swap(self, name: str) -> None:
        if name == "theta":
            return
        for i, (parameter, other) in enumerate(
            zip(self.parameters.values(), self._sets[name], strict=True)
        ):
            parameter.data, self._sets[name][i] = other, parameter.data

    def distance(self, one: str, other: str) -> float:
        """Euclidean distance of two sets."""
        pairs = zip(self[one], self[other], strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5

    def state(self) -> dict[str, Tensor]:
        """theta, old and ema under `SET.PARAMETER`; `ref` is where the run began and needs no keeping."""
        return {
            f"{name}.{key}": tensor.contiguous()
            for name in ("theta", "old", "ema")
            for key, tensor in zip(self.parameters, self[name], strict=True)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ConfigError: the state is of another network.
        """
        own = self.state()
        wrong = [
            k
            for k in own.keys() | state.keys()
            if k not in state or k not in own or own[k].shape != state[k].shape
        ]
        if wrong:
            raise ConfigError(
                f"the checkpoint holds weights of another model or LoRA ({len(wrong)} tensors differ, such as "
                f"{sorted(wrong)[0]}); resume with the checkpoint and policy it was made with"
            )
        for name in ("theta", "old", "ema"):
            for key, tensor in zip(self.parameters, self[name], strict=True):
                tensor.copy_(state[f"{name}.{key}"])


Using = Callable[[str], AbstractContextManager[None]]
"""`with using("old"):` runs the network with that set, without gradients."""
