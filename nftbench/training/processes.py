"""The processes that share a run, and what one has to know of the others."""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from nftbench.training import Interrupted


class Processes:
    """One of `count` processes; alone, nothing is sent anywhere."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        self._stop_asked = False

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of what all have to do."""
        return items[self.rank :: self.count]

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of their ranks."""
        return gather_object(items) if self.count > 1 else items

    def mean(self, metrics: dict[str, float]) -> dict[str, float]:
        """Means over the processes, so that a guard stops all of them or none."""
        if self.count == 1:
            return metrics
        everyone = self.gather([metrics])
        names = {k for m in everyone for k in m}
        return {k: float(np.mean([m[k] for m in everyone if k in m])) for k in sorted(names)}

    def sum(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Sums over the processes."""
        if self.count == 1:
            return dict(numbers)
        everyone = self.gather([dict(numbers)])
        names = {k for n in everyone for k in n}
        return {k: sum(n.get(k, 0.0) for n in everyone) for k in sorted(names)}

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum of all processes' gradients in the place of each one's own."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self._accelerator.reduce(parameter.grad, "sum")

    # --- stopping -------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Ask this process to stop at the next point from which the run can be resumed."""
        self._stop_asked = True

    def stop_asked(self) -> bool:
        """Whether any process was asked to stop."""
        return any(self.gather([self._stop_asked]))

    def stop_here_if_asked(self) -> None:
        """Stop inside an iteration; only a process that is alone can, one that left would leave the others waiting.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self._stop_asked and self.count == 1:
            raise Interrupted

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C is Python's own."""

        def ask(number: int, _: Any) -> None:
            self.ask_to_stop()
            signal.signal(signal.SIGINT, old[signal.SIGINT])

        old = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
