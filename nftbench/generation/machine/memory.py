"""How much memory drawing takes: tensors that are alive at once, counted while one image and two are drawn.

What is counted is what torch was asked for. Its allocator rounds up, and what libraries keep for themselves (Python,
CUDA's context) comes on top.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nftbench.generation.machine.encoders import is_encoder
from nftbench.generation.sampling import Sample, generate
from nftbench.generation.settings.effective import PROBE, Effective
from nftbench.generation.settings.probe import brief_steps
from rewards.base import Prompt

GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingMemory:
    """Bytes that drawing takes."""

    weights: int
    """Of all parts."""
    encoders: int
    """Of those, the text encoders': on a GPU they leave before images are drawn."""
    first: int
    """Beyond the weights, at the worst moment of drawing one image."""
    further: int
    """More for each image that is drawn at the same time."""

    def peak(self, images: int, *, encoders_leave: bool) -> int:
        """At the worst moment, for so many images at once.

        Args:
            images: drawn at once.
            encoders_leave: whether text encoders are away meanwhile, as on a GPU.
        """
        drawing = self.first + (images - 1) * self.further
        if not encoders_leave:
            return self.weights + drawing
        return max(self.weights, self.weights - self.encoders + drawing)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made within the block and alive at once."""

    def __init__(self, known: list[Tensor]) -> None:
        """Begin to count.

        Args:
            known: tensors that were there before; views of them are not counted.
        """
        super().__init__()
        self.most = 0
        """Bytes, at the worst moment so far."""
        self._known = {t.untyped_storage()._cdata for t in known}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0
        """Of what was made, with what has gone since it was last looked for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; look which tensors are alive where there may be more than ever, for looking takes time."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        within = _within(func, args, made)
        if self._bytes + within > self.most:
            self._made = {k: one for k, one in self._made.items() if not one[0].expired()}
            self._bytes = sum(size for _, size in self._made.values())
            self.most = max(self.most, self._bytes + within)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        ref, before = self._made.get(key) or (StorageWeakRef(storage), 0)
        self._made[key] = (ref, size)
        self._bytes += size - before


def _within(func: Any, args: tuple, made: Any) -> int:
    """Bytes that an operation holds for itself: a convolution on a CPU reads and writes a layout of its own.

    Its input is copied into that layout, and its result out of it, when the first copy is gone.
    """
    if "convolution" not in str(func) or not isinstance(made, Tensor) or made.device.type != "cpu":
        return 0
    return max(args[0].nbytes, made.nbytes)


def drawing_memory(pipeline: DiffusionPipeline, settings: Effective) -> DrawingMemory:
    """Draw one image and two, in two steps, and count.

    Args:
        pipeline: any.
        settings: learned for it; size and guidance count, the number of steps does not.
    """
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    encoders = [m for n, m in pipeline.components.items() if is_encoder(n, m)]
    brief = settings.at(num_inference_steps=brief_steps(pipeline))
    drawn = [Sample(Prompt(id="memory", text=PROBE), i) for i in range(2)]
    one, two = (
        most_bytes(parts, lambda some=some: generate(pipeline, some, brief))
        for some in (drawn[:1], drawn)
    )
    return DrawingMemory(
        weights=bytes_of(parts),
        encoders=bytes_of(encoders),
        first=one,
        further=max(0, two - one),
    )


def most_bytes(parts: list[nn.Module], work: Callable[[], object]) -> int:
    """The most bytes that some work holds at once beyond the weights of networks: measured on a GPU, else counted."""
    weights = [w for part in parts for w in (*part.parameters(), *part.buffers())]
    device = next((w.device for w in weights), torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes(weights) as counted:
        work()
    return counted.most


def bytes_of(parts: list[nn.Module]) -> int:
    """Of all parameters and buffers; what several share counts once."""
    tensors = {
        t.untyped_storage()._cdata: t.untyped_storage().nbytes()
        for part in parts
        for t in (*part.parameters(), *part.buffers())
    }
    return sum(tensors.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
