"""How the network is run in an update: mixed precision and the attention kernel."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def mixed(device: torch.device, precision: str = "no") -> Iterator[None]:
    """Automatic mixed precision (`no`, `bf16`, `fp16`) on a device.

    On a CPU attention is computed by its plain formula: the fused kernel's backward pass is slower than all matrix
    products together (44% of a training step of the pocket policy).
    """
    with ExitStack() as stack:
        if precision != "no":
            stack.enter_context(torch.autocast(device.type, HALVES[precision]))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
