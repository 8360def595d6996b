"""One family by the commands a user types: evaluate its saved folder, train it, evaluate and load what came of it.

What the commands record is held against counts of our own: hooks on the networks and on the solvers' steps.
"""

import ast
import contextlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from nftbench.benchmark.samples import image_seed
from nftbench.generation.sampling import images_of, to_uint8
from tests.helpers.commands import run_here
from tests.helpers.models import families
from tests.helpers.paths import ROOT

SUITE = "geneval-pocket"
PLAIN = ("--suite", SUITE, "--limit", "2", "--images-per-prompt", "1", "--rewards", "jpeg")
PLAIN += ("--batch-size", "1")  # a batch rounds otherwise; pixels are held to be equal below
SHORT = ("--steps", "2")
TRAINING = (
    "policy.rank=4",
    "policy.precision=no",
    "rollout.batch_size=2",
    "evaluation.benchmarks=[]",
    "loggers=[]",
    f'stages.prompts=["{SUITE}"]',
    "stages.rewards=jpeg",
    "stages.iterations=1",
    "stages.groups=1",
    "stages.group_size=2",
    "stages.num_inference_steps=2",
    "stages.timesteps_per_image=1",
)


@dataclass(kw_only=True)
class Finding:
    """A row of the table."""

    family: str
    pipeline: str
    evaluated: str = ""
    """`works`, or the one line that refuses it."""
    recorded: str = ""
    """Guidance as the run has it."""
    counted: str = ""
    """As hooks saw it."""
    size: str = ""
    prompt_seen: str = ""
    trained: str = ""
    """`LoRA`, or why not."""
    loaded_back: str = ""
    """By what other library, and whether the pixels are the same."""
    tracebacks: list[str] = field(default_factory=list)
    """Commands that ended in one: none is allowed."""


def survey(family: str, folder: Path, *, train: bool = True) -> Finding:
    """Take one family through evaluation, training and back.

    Args:
        family: of `families.BUILDERS`.
        folder: empty, for what is saved on the way.
        train: whether to train it, too.
    """
    pipeline = families.build(family)
    found = Finding(family=family, pipeline=type(pipeline).__name__)
    checkpoint = folder / "checkpoint"
    pipeline.save_pretrained(checkpoint)
    size = families.SIZES.get(family, "64")
    code, said = run_here(
        folder, "eval", str(checkpoint), *PLAIN, *SHORT, "--size", size, "--out", "run"
    )  # fmt: skip
    found.evaluated = _outcome(found, "eval", code, said)
    if code == 0:
        _compare(found, checkpoint, folder / "run")
    if code or not train:
        found.trained = "" if code else "not tried: large images on a CPU"
        return found
    height, _, width = size.partition("x")
    sides = (f"rollout.height={height}", f"rollout.width={width or height}")
    settings = [part for s in (*TRAINING, *sides) for part in ("--set", s)]
    code, said = run_here(folder, "train", str(checkpoint), *settings, "--out", "trained")
    found.trained = _outcome(found, "train", code, said)
    if code == 0:
        found.trained = "LoRA"
        guided = ("--guidance", _guidance(folder / "run")) if "cfg" in found.recorded else ()
        code, said = run_here(
            folder, "eval", "trained", *PLAIN, *SHORT, "--size", size, "--out", "after", *guided
        )  # fmt: skip
        found.loaded_back = _outcome(found, "eval of the run", code, said)
        if code == 0:
            found.loaded_back = _loaded_elsewhere(checkpoint, folder)
    return found


def _outcome(found: Finding, what: str, code: int, said: str) -> str:
    """`works`, or the line that says why not."""
    if "Traceback" in said:
        found.tracebacks.append(f"{what}: {said.strip().splitlines()[-1][:300]}")
        return f"TRACEBACK {said.strip().splitlines()[-1][:300]}"
    if code == 0:
        return "works"
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("nftbench: ")] or [-1]
    return f"exit {code}: " + " ".join(lines[starts[-1] :]).removeprefix("nftbench: ")


def _protocol(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text("utf-8"))["protocols"][SUITE]


def _guidance(run: Path) -> str:
    protocol = _protocol(run)
    return f"{protocol['guidance']}:{protocol['guidance_scale']:g}"


def _drawn(run: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted((run / SUITE / "images").glob("*.png"))]


def _compare(found: Finding, checkpoint: Path, run: Path) -> None:
    protocol, images = _protocol(run), _drawn(run)
    scale, calls = protocol["guidance_scale"], protocol["network_calls"]
    shown = "" if scale is None else f" {scale:g}"
    found.recorded = f"{protocol['guidance']}{shown}, {calls:g} a step"
    found.size = f"{protocol['height']}x{protocol['width']}"
    if any(image.shape[:2] != (protocol["height"], protocol["width"]) for image in images):
        found.size += f" BUT SAVED {images[0].shape[:2]}"
    found.prompt_seen = "yes" if not np.array_equal(images[0], images[1]) else "NO"
    pipeline, manifest = _loaded(checkpoint), json.loads((run / "manifest.json").read_text("utf-8"))
    counts = Counts()
    with counts.watching(pipeline):
        again = draw_as(pipeline, manifest)
    found.counted = f"{counts.kind}, {counts.calls:g} a step"
    if not np.array_equal(again, images[0]):
        off = np.abs(again.astype(int) - images[0].astype(int)).max()
        found.prompt_seen += f", THE LIBRARY DRAWS OTHERWISE (by {off})"


def _loaded(checkpoint: Path) -> Any:
    index = json.loads((checkpoint / "model_index.json").read_text("utf-8"))
    absent = {k: None for k, v in index.items() if isinstance(v, list) and v[0] is None}
    loaded = diffusers.DiffusionPipeline.from_pretrained(checkpoint, **absent)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw_as(pipeline: Any, manifest: dict[str, Any]) -> np.ndarray:
    """The run's first image by the library alone: the arguments that the run wrote down, and the noise's seed."""
    protocol, drawn = manifest["protocols"][SUITE], manifest["drawn"][SUITE]
    arguments = {k: ast.literal_eval(v) for k, v in drawn["arguments"].items()}
    prompts = (ROOT / "benchmarks" / "prompts" / f"{SUITE}.jsonl").read_text("utf-8").splitlines()
    prompt = json.loads(prompts[0])
    if protocol["negative_prompt"] is not None:
        arguments["negative_prompt"] = protocol["negative_prompt"]
    generator = torch.Generator().manual_seed(image_seed(0, "0000", 0))
    with torch.no_grad():
        output = pipeline(
            prompt=prompt["prompt"], generator=generator, output_type="np", **arguments
        )
    return to_uint8(images_of(output, "plain", 1))[0]


class Counts:
    """Rows of every denoiser a solver step, by hooks; and whether a network was told a scale."""

    def __init__(self) -> None:
        self._rows = 0
        self._steps: dict[str, list[int]] = {}
        self._told = False

    @contextlib.contextmanager
    def watching(self, pipeline: Any) -> Iterator[None]:
        """Count within the block."""
        with contextlib.ExitStack() as undo:
            for name, part in pipeline.components.items():
                denoises = isinstance(part, nn.Module) and not hasattr(part, "decode")
                if denoises and not isinstance(part, PreTrainedModel):
                    handle = part.register_forward_hook(self._called, with_kwargs=True)
                    undo.callback(handle.remove)
                elif hasattr(part, "set_timesteps"):
                    self._count_steps(name, part)
            yield

    def _called(self, _: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        while not isinstance(output, torch.Tensor) and not isinstance(output, list):
            output = output[0]
        self._rows += len(output)
        told = (kwargs.get(k) for k in ("guidance", "timestep_cond"))
        self._told |= any(value is not None for value in told)

    def _count_steps(self, name: str, scheduler: Any) -> None:
        step = type(scheduler).step

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._steps.setdefault(name, []).append(self._rows)
            self._rows = 0
            return step(scheduler, *args, **kwargs)

        counted.__signature__ = inspect.signature(scheduler.step)
        scheduler.step = counted

    @property
    def calls(self) -> float:
        """Rows a step, of all stages."""
        return sum(sum(rows) / len(rows) for rows in self._steps.values())

    @property
    def kind(self) -> str:
        """off, cfg or embedded."""
        if any(max(rows) > 1 for rows in self._steps.values()):
            return "cfg"
        return "embedded" if self._told else "off"


def _loaded_elsewhere(checkpoint: Path, folder: Path) -> str:
    """Whether diffusers' or peft's own loader draws the pixels of `nftbench eval trained`."""
    pipeline, lora = _loaded(checkpoint), folder / "trained" / "lora"
    if (lora / "adapter_config.json").is_file():
        name = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
        peft.PeftModel.from_pretrained(getattr(pipeline, name), lora)  # into the network itself
        by = "peft"
    else:
        pipeline.load_lora_weights(lora)
        by = "diffusers"
    manifest = json.loads((folder / "after" / "manifest.json").read_text("utf-8"))
    base, after = _drawn(folder / "run")[0], _drawn(folder / "after")[0]
    plain = draw_as(pipeline, manifest)
    if np.array_equal(plain, after):
        moved = "" if not np.array_equal(base, after) else " (nor does the base's differ)"
        return f"{by}: same pixels{moved}"
    return f"{by}: OFF BY {np.abs(plain.astype(int) - after.astype(int)).max()}"
