"""In which precision the network is run while it is trained, and how its attention is computed then."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nftbench.training.config.recipe import AUTO, PolicyConfig
from nftbench.training.processes import TrainingProcesses

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""A CPU's units for products in bfloat16, of x86 and of ARM, as torch names them."""


@contextmanager
def mixed(device: torch.device, precision: str = "no") -> Iterator[None]:
    """Automatic mixed precision (`no`, `bf16`, `fp16`) on a device, with `attention_of` it."""
    with ExitStack() as stack:
        if precision != "no":
            stack.enter_context(torch.autocast(device.type, HALVES[precision]))
        stack.enter_context(attention_of(device))
        yield


def attention_of(device: torch.device) -> AbstractContextManager[Any]:
    """How attention is computed on a device, forward and, where passes are computed again, on the way back.

    On a CPU by its plain formula: the fused kernel's backward pass is slower than all matrix products together (44% of
    a training step of the pocket policy).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


# --- for a recipe that says `auto` -----------------------------------------------------------------------------------


def chosen_by_device(
    config: PolicyConfig, processes: TrainingProcesses, say: Callable[[str], None]
) -> PolicyConfig:
    """The policy with `precision = "auto"` decided, the same in all processes: bf16 where each has units for it.

    Args:
        config: the recipe's.
        processes: that train together.
        say: told what was chosen, and why.
    """
    if config.precision != AUTO:
        return config
    able = all(processes.gather([has_bfloat16(processes.device)]))
    why = "has units for it" if able else "has no units for bf16, which would take longer"
    chosen = "bf16" if able else "no"
    say(f"policy.precision = {chosen}: the {processes.device.type} {why}")
    return config.model_copy(update={"precision": chosen})


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in units of its own; without these it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 cannot say
    return device.type == "cpu" and any(known.get(unit) for unit in UNITS)
