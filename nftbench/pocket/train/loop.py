"""One resumable training loop for every network of the pocket world."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)

SAVE_EVERY = 180.0
"""Seconds between checkpoints."""


@dataclass(kw_only=True)
class Job:
    """What is trained and how long.

    The loss of a step depends on the weights and the step's number alone, so that a run that is cut and resumed
    takes the same steps as one that is not.
    """

    name: str
    model: nn.Module
    loss: Callable[[int], Tensor]
    """Step number -> scalar loss; the global generator has been seeded by (seed, step)."""
    optimizers: list[torch.optim.Optimizer]
    steps: int
    warmup: int = 200
    decay: float = 0.3
    """Last share of the steps, over which the rate falls linearly to zero."""
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    peak: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.peak = [[group["lr"] for group in o.param_groups] for o in self.optimizers]


def muon_and_adamw(
    model: nn.Module, is_block: Callable[[str], bool], *, muon: float, adamw: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else.

    Args:
        model: the network.
        is_block: whether a matrix of that name belongs to a transformer block.
        muon: Muon's learning rate, on AdamW's scale.
        adamw: AdamW's learning rate.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [p for name, p in named if p.ndim == 2 and is_block(name)]
    chosen = {id(p) for p in blocks}
    rest = [p for _, p in named if id(p) not in chosen]
    return [
        torch.optim.Muon(blocks, lr=muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=adamw, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def rate(job: Job, step: int) -> float:
    """Factor on the peak learning rate: linear warm-up, plateau, linear fall to zero."""
    up = min(1.0, (step + 1) / max(job.warmup, 1))
    down = min(1.0, (job.steps - step) / max(job.decay * job.steps, 1))
    return up * down


def train(job: Job, folder: Path) -> Iterator[dict[str, float]]:
    """Run a job to its end, from its last checkpoint if there is one.

    Yields:
        After every step `step`, `loss` (smoothed), `rate` in steps a second.

    The trained weights are those of the moving average: see `averaged`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.name}.pt"
    ema = AveragedModel(job.model, multi_avg_fn=get_ema_multi_avg_fn(job.ema))
    start, smooth = _restore(job, ema, path), None
    saved = begun = time.monotonic()
    for step in range(start, job.steps):
        torch.manual_seed(job.seed * 1_000_003 + step)
        value = _step(job, step)
        ema.update_parameters(job.model)
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if time.monotonic() - saved > SAVE_EVERY or step + 1 == job.steps:
            _save(job, ema, step + 1, path)
            saved = time.monotonic()
        yield {
            "step": step + 1,
            "loss": smooth,
            "rate": (step + 1 - start) / (time.monotonic() - begun),
        }


def averaged(name: str, model: M, folder: Path) -> M:
    """A job's model with its averaged weights, in evaluation mode.

    Args:
        name: of the job.
        model: gets the weights.
        folder: the job's.

    Raises:
        FileNotFoundError: the job was never run in `folder`.
    """
    state = torch.load(folder / f"{name}.pt", weights_only=True, map_location="cpu")
    ema = {k.removeprefix("module."): v for k, v in state["ema"].items() if k.startswith("module.")}
    model.load_state_dict(ema)
    return model.eval()


def _step(job: Job, step: int) -> float:
    factor = rate(job, step)
    for optimizer, peaks in zip(job.optimizers, job.peak, strict=True):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
    loss = job.loss(step)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{job.name}: loss is {loss.item()} at step {step}")
    loss.backward()
    nn.utils.clip_grad_norm_(job.model.parameters(), job.clip)
    for optimizer in job.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _restore(job: Job, ema: AveragedModel, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    job.model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    for optimizer, saved in zip(job.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _save(job: Job, ema: AveragedModel, step: int, path: Path) -> None:
    state = {
        "step": step,
        "model": job.model.state_dict(),
        "ema": ema.state_dict(),
        "optimizers": [o.state_dict() for o in job.optimizers],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
