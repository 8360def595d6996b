"""The processes that share a run: started by `torchrun` or `accelerate launch`, each knows its rank and how many."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from nftbench.runs.launched import launched
from rewards.base import ConfigError

PATIENCE = datetime.timedelta(days=7)
"""How long one process waits for another's part; of one that died, the launcher ends all others at once."""


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
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


class Processes:
    """One of `count` processes; alone, nothing is sent anywhere."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        """Join the others.

        Args:
            accelerator: what joins them; None is one process alone.
        """
        self.rank = accelerator.process_index if accelerator else 0
        self.count = accelerator.num_processes if accelerator else 1
        self.is_main = self.rank == 0

    @classmethod
    def joined(cls) -> "Processes":
        """All that were started together with this one; alone, nothing is set up for it."""
        return cls(started() if launched()[1] > 1 else None)

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

    def wait(self) -> None:
        """Go on once all have come here."""
        self.gather([None])

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


ALONE = Processes()
"""One process."""
