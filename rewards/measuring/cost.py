"""What a reward costs: images a second and peak memory, each measured in a process of its own.

Run as a module it measures once and writes what it found as JSON:
`python -m rewards.measuring.cost '{"keys": ["jpeg"]}'`.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np

import rewards as registry
from rewards.base import ConfigError, Prompt, Reward
from rewards.certify import seeded as seeded_networks

PROBES = tuple(
    Prompt(
        id="probe",
        text=f'a photo of a red {name} beside a sign that says "KITE"',
        tag="colors",
        target={"tag": "colors", "include": [{"class": name, "count": 1, "color": "red"}]},
    )
    for name in ("dog", "circle")
)
"""What is asked of the pictures: the first that a reward can score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What to measure."""

    keys: tuple[str, ...]
    """Rewards that score the same pictures one after the other in one process."""
    images: int = 8
    size: int = 512
    """Height and width, pixels."""
    batch_size: int = 8
    seeded: bool = False
    """Take made-up weights where `seeded` knows how; speed and memory are those of the real ones."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What was measured."""

    keys: tuple[str, ...]
    load_seconds: float = 0.0
    """To build the rewards and score a first picture."""
    seconds: float = 0.0
    """To score all pictures."""
    images_per_second: float = 0.0
    memory: int = 0
    """Peak of the process's resident memory, bytes."""
    own_memory: int = 0
    """The part of it above what Python, torch and transformers took before the first reward was built."""
    cuda_memory: int = 0
    """Peak of what torch held on the GPU, bytes; 0 without one."""
    reason: str = ""
    """Why nothing could be measured; empty where it could."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    """What the pictures scored, by reward, so that a measurement of nothing is seen."""


def measure(what: Measurement) -> Cost:
    """Measure in this process; memory counts all that happened in it before."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    before = peak_memory()
    *pictures, first = probe_pictures(what.images + 1, what.size)
    started = time.perf_counter()
    try:
        loaded_rewards = [(key, *_load(key, what)) for key in what.keys]
        tried = [reward.score(first[None], [prompt]) for _, reward, prompt in loaded_rewards]
    except ConfigError as error:
        return Cost(keys=what.keys, reason=str(error))
    unscored = [scores.reasons[0] for scores in tried if scores.reasons[0]]
    if unscored:
        return Cost(keys=what.keys, reason=unscored[0])
    loaded = time.perf_counter()
    scores = {key: _score(reward, prompt, pictures, what) for key, reward, prompt in loaded_rewards}
    seconds = time.perf_counter() - loaded
    return Cost(
        keys=what.keys,
        load_seconds=loaded - started,
        seconds=seconds,
        images_per_second=what.images / seconds,
        memory=peak_memory(),
        own_memory=peak_memory() - before,
        cuda_memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        scores=scores,
    )


def measure_apart(what: Measurement) -> Cost:
    """Measure in a process of its own; one that dies is a reason."""
    done = subprocess.run(
        [sys.executable, "-m", "rewards.measuring.cost", json.dumps(asdict(what))],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Cost(keys=what.keys, reason=f"its process ended with {done.returncode}: {last}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Cost(**found | {"keys": tuple(found["keys"])})


def together(costs: Sequence[Cost]) -> Cost:
    """What rewards take that were measured apart: times and memory added up.

    Args:
        costs: of single rewards over the same number of images; those that could not be measured are left out.
    """
    costs = [cost for cost in costs if not cost.reason]
    seconds = sum(cost.seconds for cost in costs)
    images = costs[0].images_per_second * costs[0].seconds if costs else 0.0
    return Cost(
        keys=tuple(key for cost in costs for key in cost.keys),
        load_seconds=sum(cost.load_seconds for cost in costs),
        seconds=seconds,
        images_per_second=images / seconds if seconds else 0.0,
        memory=sum(cost.memory for cost in costs),
        own_memory=sum(cost.own_memory for cost in costs),
        cuda_memory=sum(cost.cuda_memory for cost in costs),
    )


def probe_pictures(count: int, size: int) -> np.ndarray:
    """Coloured pictures with a word on them, the same ones every time; uint8 RGB (count, size, size, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    draws = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    pictures = []
    for draw in draws:
        picture = Image.fromarray(draw).resize((size, size), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        font = ImageFont.load_default(size / 6)
        pen.rectangle((size // 8, size // 3, size - size // 8, size - size // 3), fill="white")
        pen.text((size // 2, size // 2), "KITE", fill="black", font=font, anchor="mm")
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def peak_memory() -> int:
    """Largest resident memory this process ever had, bytes."""
    status = Path("/proc/self/status")
    if (
        status.is_file()
    ):  # getrusage would count what the parent process had when this one was begun
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seeded() -> dict[str, str]:
    """Key -> `module:function` that builds a reward at its full size with weights made up from names.

    They are the tables `SEEDED` of the modules `rewards.certify.seeded.*`.
    """
    package = seeded_networks
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    tables = [getattr(module, "SEEDED", {}) for module in modules]
    return {key: target for table in tables for key, target in table.items()}


def _load(key: str, what: Measurement) -> tuple[Reward, Prompt]:
    """A reward, and what it can be asked of the pictures."""
    key = registry.resolve(key)
    target = seeded().get(key) if what.seeded else None
    if target:
        module, _, name = target.partition(":")
        reward = getattr(import_module(module), name)(device=what.device)
    else:
        reward = registry.load_reward(key, device=what.device)
    for prompt in PROBES[:-1]:
        if _can_score(reward, prompt):
            return reward, prompt
    reward.check(PROBES[-1:])
    return reward, PROBES[-1]


def _can_score(reward: Reward, prompt: Prompt) -> bool:
    try:
        reward.check([prompt])
    except ConfigError:
        return False
    return True


def _score(
    reward: Reward, prompt: Prompt, pictures: Sequence[np.ndarray], what: Measurement
) -> list[float]:
    """Values of the pictures, each asked for in words of its own: no text is looked at twice."""
    prompts = [replace(prompt, text=f"{i}: {prompt.text}") for i in range(len(pictures))]
    values: list[Any] = []
    for start in range(0, len(pictures), what.batch_size):
        batch = slice(start, start + what.batch_size)
        values += reward.score(np.stack(pictures[batch]), prompts[batch]).values.tolist()
    return values


if __name__ == "__main__":
    found = measure(Measurement(**json.loads(sys.argv[1])))
    sys.stdout.write(f"\n{json.dumps(asdict(found))}\n")
