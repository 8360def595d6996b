"""What one file of weights says of itself, and what it lacks."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from nftbench.generation.sources import files
from nftbench.generation.sources.loading.leftovers import refuse_scales

ENCODERS = ("text_encoders.", "cond_stage_model.", "conditioner.")
"""Beginnings of a text encoder's names in single files."""
_FILE = "_one_file"
"""Attribute of a part: the file that it was loaded from."""


def encoders_beside(
    path: Path, index: Mapping[str, Any], folder: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Text encoders of the configuration's folder, for a file that was published without any."""
    with safe_open(path, "pt") as file:
        if any(name.startswith(ENCODERS) for name in file.keys()):  # noqa: SIM118
            return {}
    return {
        name: getattr(importlib.import_module("transformers"), index[name][1]).from_pretrained(
            str(folder / name), torch_dtype=dtype
        )
        for name in files.parts_of(index)
        if index[name][0] == "transformers" and [*(folder / name).glob("*model*.safetensors")]
    }


def from_one_file(kind: Any, path: Path, config: str, dtype: torch.dtype) -> Any:
    """A network from a file of its own, which it then knows: see `follow_prediction`.

    Raises:
        ConfigError: weights of 8 bits with scales beside them.
    """
    refuse_scales(path)
    network = kind.from_single_file(str(path), config=config, torch_dtype=dtype)
    setattr(network, _FILE, path)
    return network


def follow_prediction(pipeline: DiffusionPipeline, *paths: Path) -> list[str]:
    """Let a pipeline's solver take its network's output for what the network's own file says it is.

    A single file carries no configuration: the base's says `epsilon` of a network that was trained on to predict v,
    and images are noise.

    Args:
        pipeline: its solver is replaced where the file says v and the solver's configuration says epsilon.
        paths: single files that it was loaded from; those of parts that were put in are known.

    Returns:
        What was done, in words.
    """
    scheduler: Any = getattr(pipeline, "scheduler", None)
    own = getattr(scheduler, "config", {}).get("prediction_type")
    known = [getattr(part, _FILE, None) for part in pipeline.components.values()]
    for path in (*paths, *filter(None, known)):
        if own == "epsilon" and (said := _said_of(path)):
            taken = inspect.signature(type(scheduler).__init__).parameters
            told = {k: v for k, v in said.items() if k in taken}
            pipeline.scheduler = type(scheduler).from_config(scheduler.config, **told)
            changes = ", ".join(f"{k} {v!r}" for k, v in told.items())
            return [
                f"{path.name} says that its network predicts v: solver set to {changes} (its configuration: epsilon)"
            ]
    return []


def _said_of(path: Path) -> dict[str, Any]:
    """Fields of a solver's configuration that a file states; empty where it does not say v."""
    try:
        with safe_open(path, "pt") as file:
            names, header = set(file.keys()), file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
    if "v_pred" not in names and header.get("modelspec.prediction_type") != "v":
        return {}
    zero = {"rescale_betas_zero_snr": True} if "ztsnr" in names else {}
    return {"prediction_type": "v_prediction", **zero}
