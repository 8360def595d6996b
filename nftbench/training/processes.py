"""The processes that share a run, and what one has to know of the others."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from nftbench.training import Interrupted
from rewards.base import ConfigError


def started(loggers: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """What joins the processes that torchrun started; on a machine without an accelerator they share its CPUs.

    Args:
        loggers: names of trackers.
        folder: where these write.
    """
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        log_with=list(loggers) or None,
        project_dir=folder,
    )


class Processes:
    """One of `count` processes; alone, nothing is sent anywhere."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.is_main = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        self._stop_asked = self._gently = False

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of what all have to do."""
        return items[self.rank :: self.count]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What the main process makes, in all of them; a ConfigError there is one everywhere."""
        made, refused = [None], [""]
        if self.is_main:
            try:
                made = [make()]
            except ConfigError as error:
                refused = [str(error)]
        if self.count > 1:
            both = broadcast_object_list([made[0], refused[0]])
            made, refused = both[:1], both[1:]
        if refused[0]:
            raise ConfigError(refused[0])
        return made[0]

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
        """SIGTERM is Ctrl-C, in the block: see `stopping_gently`."""

        def ask(number: int, frame: Any) -> None:
            if not self._gently or self._stop_asked:
                raise KeyboardInterrupt
            self.ask_to_stop()

        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread is told of signals
            return
        old = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def stopping_gently(self) -> Iterator[None]:
        """In the block the first signal asks for a stop, and only a second one stops at once."""
        self._gently = True
        try:
            yield
        finally:
            self._gently = False
