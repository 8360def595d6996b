"""The processes that share a run: started by `torchrun` or `accelerate launch`, each knows its rank and how many."""

import datetime
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from nftbench.runs.launched import OthersEnded, launched
from rewards.base import ConfigError

T = TypeVar("T")
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
            with meeting():
                both = broadcast_object_list([made[0], refused[0]])
            made, refused = both[:1], both[1:]
        if refused[0]:
            raise ConfigError(refused[0])
        return made[0]

    def agreed(
        self, make: Callable[[], T], refusals: tuple[type[Exception], ...] = (ConfigError,)
    ) -> T:
        """What each process makes for itself; where one of them refuses all do, so that they end at the same point."""
        if self.count == 1:
            return make()
        made, refused = [], [None]
        try:
            made = [make()]
        except refusals as error:
            refused = [error]
        first = next((error for error in self.gather(refused) if error is not None), None)
        if first is not None:
            raise first
        return made[0]

    def refuse_unlike(self, facts: Mapping[str, Any]) -> None:
        """Refuse to share work that is not the same in all processes: each would do its part of another one.

        Args:
            facts: what has to be the same, by what it is called.

        Raises:
            ConfigError: in all of them; names the machine and the first fact that differs.
        """
        everyone = self.gather([(socket.gethostname(), dict(facts))])
        host, own = everyone[0]
        for rank, (other, theirs) in enumerate(everyone):
            unlike = (k for k in {**own, **theirs} if own.get(k) != theirs.get(k))
            if (what := next(unlike, None)) is not None:
                raise ConfigError(
                    f"the processes do not do the same: {what} is {theirs.get(what)!r} in process {rank} ({other}) and "
                    f"{own.get(what)!r} in process 0 ({host}); start all with the same command and files"
                )

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of their ranks.

        Raises:
            OthersEnded: one of them is gone.
        """
        if self.count == 1:
            return items
        with meeting():
            return gather_object(items)

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


@contextmanager
def meeting() -> Iterator[None]:
    """What all processes do together; the libraries raise a RuntimeError where one of them does not come.

    Raises:
        OthersEnded: in its place.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = (str(error).splitlines() or [""])[0].rpartition("] ")[2].partition(". ")[0][:100]
        raise OthersEnded(f"another process of this command has ended ({why})") from None


ALONE = Processes()
"""One process."""
