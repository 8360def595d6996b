"""Whether a checkpoint was distilled to few steps, by what its own files say: never by its name."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import DiffusionPipeline
from torch import nn

FEW_STEPS = 8
"""Models that draw in so few steps of their own accord were distilled; others need 20 and more."""
FEW_STEP_SETTINGS = ("original_inference_steps", "stochastic_sampling")
"""Of solvers for consistency models: set where a model was distilled from another one's steps."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """What is known; nothing in a checkpoint says for certain that it was not distilled, unless it says so itself."""

    verdict: Literal["yes", "no", "unknown"]
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verdict}: {'; '.join(self.evidence)}"


def distillation(pipeline: DiffusionPipeline) -> Distillation:
    """Look for evidence in the settings of a pipeline, its networks and its solvers.

    Args:
        pipeline: any.
    """
    settings = list(_settings(pipeline))
    said = [(f"{part} setting {k}={v}", v) for part, k, v in settings if "distill" in k]
    found = [text for text, value in said if value is True]
    found += [
        f"{part} setting {k}={v}"
        for part, k, v in settings
        if (k in FEW_STEP_SETTINGS and v) or (k == "prediction_type" and v == "trigflow")
    ]
    default = inspect.signature(pipeline.__call__).parameters.get("num_inference_steps")
    steps = getattr(default, "default", None)
    if isinstance(steps, int) and steps <= FEW_STEPS:
        found.append(f"{type(pipeline).__name__} draws in {steps} steps unless told otherwise")
    if found:
        return Distillation("yes", tuple(found))
    denied = [text for text, value in said if value is False]
    if denied:
        return Distillation("no", tuple(denied))
    return Distillation("unknown", ("no setting of the checkpoint says that it was, or was not",))


def warning(pipeline: DiffusionPipeline) -> str:
    """For a training, which undoes such a distillation; empty where nothing speaks for one.

    Source: NVlabs/DiffusionNFT issue 45 (blur and collapse).
    """
    found = distillation(pipeline)
    if found.verdict != "yes":
        return ""
    return (
        f"{type(pipeline).__name__} looks step-distilled ({'; '.join(found.evidence)}): training is known to blur such "
        "models; train the model it was distilled from"
    )


def _settings(pipeline: DiffusionPipeline) -> Iterator[tuple[str, str, Any]]:
    """Part, name and value of every setting that was saved with the checkpoint."""
    owners = {"pipeline": pipeline, **pipeline.components}
    for part, owner in owners.items():
        solver = hasattr(owner, "set_timesteps")
        config = getattr(owner, "config", None)
        if part == "pipeline" or solver or isinstance(owner, nn.Module):
            values = config if isinstance(config, dict) else getattr(config, "__dict__", {})
            yield from ((part, str(key), value) for key, value in values.items())
