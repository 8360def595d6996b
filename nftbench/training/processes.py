"""The processes that train together: their gradients are summed, and all stop at the same point."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nftbench.runs.processes import Processes, meeting
from nftbench.training import Interrupted


class TrainingProcesses(Processes):
    """One of `count` processes of a training."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self._stop_asked = self._gently = False

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum of all processes' gradients in the place of each one's own."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            with meeting():
                summed = self._accelerator.reduce(parameter.grad, "sum")
            parameter.grad = summed  # pyright: ignore[reportAttributeAccessIssue]

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
