"""Stable Diffusion 3.5 Medium's shape with random weights: images a second, peak memory, one NFT iteration.

Nothing is fetched: the networks are built on the device `meta` from the public configurations, and filled with random
numbers where they run. Speed and memory are those of the real model; its images are noise. What is not done within
`--minutes` is stopped and named as not finished; what was measured until then is printed. `--small` runs the same on a
CPU in little.

Run: python -m tests.gpu.sd35 [--small] [--minutes 6] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from nftbench.benchmark.schema import SamplingParameters
from nftbench.commands import evaluate_checkpoint
from nftbench.evaluation.scoring.loading import quiet
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.machine.memory import drawing_memory
from nftbench.generation.settings.effective import learn_settings
from nftbench.training import setup
from nftbench.training.config.overrides import load_recipe
from nftbench.training.run import train
from rewards.certify.loaded import makers
from rewards.clip.models import clip_tokenizer
from rewards.measuring.cost import peak_memory
from rewards.weights.stand_ins import standing_in
from tests.helpers.models.tiny import tokenizer
from tests.performance.memory import filled

TRANSFORMER = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64}
VAE = {"latent_channels": 16, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
"""Public configurations of stabilityai/stable-diffusion-3.5-medium."""
SMALL = {
    "transformer": {
        "sample_size": 8,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 16,
        "dual_attention_layers": (0,),
    },
    "clip": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "t5": {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2},
    "vae": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
}  # fmt: skip
FULL_REWARDS = "pickscore,hpsv2@nft,clipscore@nft,aesthetic,imagereward,jpeg"
SMALL_REWARDS = "clipscore@pocket,pickscore@pocket,jpeg"
NOT_MEASURED = "GenEval's detector, OCR, and UnifiedReward, which runs behind a server"


class TimeUp(Exception):
    """The minutes are over."""


class Clock:
    """Times of progress, by stage; ends the work when the minutes are over."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.times: dict[str, list[tuple[float, int]]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See `rewards.base.Progress`."""
        now = time.perf_counter()
        if now > self.deadline:
            raise TimeUp
        self.times.setdefault(stage.partition(": ")[2] or stage, []).append((now, done))

    def rates(self) -> dict[str, float]:
        """Items a second of each stage, from its first batch on: loading is before it."""
        found = {}
        for stage, times in self.times.items():
            (begun, before), (ended, done) = times[0], times[-1]
            found[stage] = (done - before) / max(ended - begun, 1e-9)
        return found


def build(small: bool, device: torch.device) -> StableDiffusion3Pipeline:
    """The pipeline in bfloat16, with random weights."""
    less: dict[str, dict[str, Any]] = SMALL if small else {}
    with torch.device("meta"):
        parts = {
            "transformer": SD3Transformer2DModel(**TRANSFORMER | less.get("transformer", {})),
            "vae": _vae(less.get("vae", {})),
            "text_encoder": _clip(CLIP_L | less.get("clip", {}), "quick_gelu"),
            "text_encoder_2": _clip(CLIP_G | less.get("clip", {}), "gelu"),
            "text_encoder_3": T5EncoderModel(
                T5Config(
                    vocab_size=32128, feed_forward_proj="gated-gelu", **T5_XXL | less.get("t5", {})
                )
            ),
        }
    generator = torch.Generator(device).manual_seed(0)
    for part in parts.values():
        _fill(part.to(torch.bfloat16).to_empty(device=device).eval(), generator)
    return StableDiffusion3Pipeline(
        **parts,
        scheduler=Euler(shift=3.0),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=tokenizer(),
    )


def _vae(less: dict[str, Any]) -> AutoencoderKL:
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **VAE | less,
    )


def _clip(sizes: dict[str, int], activation: str) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        **sizes, hidden_act=activation, projection_dim=sizes["hidden_size"], eos_token_id=49407
    )
    return CLIPTextModelWithProjection(config)


@torch.no_grad()
def _fill(part: nn.Module, generator: torch.Generator) -> None:
    """Matrices that keep the size of what passes through, ones for scales, zeros for shifts: images stay finite."""
    for name, weight in part.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(float(name.endswith("weight")))
    for name, buffer in part.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape))
        else:
            buffer.zero_()


class Peak:
    """Wall time and peak memory of a block: torch's on a GPU, the process's on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"

    def __enter__(self) -> "Peak":
        if self._gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._gpu:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._begun
        self.gigabytes = (torch.cuda.max_memory_allocated() if self._gpu else peak_memory()) / 1e9


def drawn_and_scored(model: LoadedModel, small: bool, folder: Path, clock: Clock) -> dict[str, Any]:
    """The real command over a loaded model: the time of each stage, and the peak with all rewards."""
    settings = {
        "height": 64 if small else 512,
        "width": 64 if small else 512,
        "num_inference_steps": 2 if small else 40,
        "guidance_scale": 1.0,
        "limit": 2 if small else 24,
        "images_per_prompt": 2,
    }
    at_once = 2 if small else 16
    evaluate = partial(evaluate_checkpoint, model, "geneval-pocket", batch_size=at_once)
    brief = {**settings, "num_inference_steps": 2}
    with Peak(model.pipeline.device) as drawing:  # and a warm-up: one reward that takes no memory
        evaluate(brief, rewards="jpeg", out=folder / "warm-up", progress=clock)
    clock.clear()
    rewards = SMALL_REWARDS if small else FULL_REWARDS
    with Peak(model.pipeline.device) as peak, standing_in("measured", makers(filled)):
        evaluate(settings, rewards=rewards, out=folder / "run", progress=clock)
    rates = clock.rates()
    return {
        "images": settings["limit"] * settings["images_per_prompt"],
        "steps": settings["num_inference_steps"],
        "size": settings["height"],
        "images_per_second": rates.pop("images"),
        "rewards_per_second": rates,
        "peak_gb": peak.gigabytes,
        "drawing_gb": drawing.gigabytes,
        "drawing_estimated_gb": _drawing_memory(model, settings["height"], at_once),
        "not_measured": NOT_MEASURED,
    }


def _drawing_memory(model: LoadedModel, size: int, images: int) -> float:
    """What `nftbench inspect` says that drawing takes."""
    parameters = SamplingParameters(height=size, width=size, guidance_scale=1.0)
    memory = drawing_memory(model.pipeline, learn_settings(model.pipeline, parameters))
    away = model.pipeline.device.type == "cuda"
    return memory.peak(images, encoders_leave=away) / 1e9


def one_iteration(model: LoadedModel, small: bool, folder: Path, clock: Clock) -> dict[str, Any]:
    """One iteration of NFT, as the recipe has it but for the number of images."""
    groups, size, steps = (2, 2, 2) if small else (2, 8, 10)
    recipe = load_recipe(
        "sd3.5-m-pickscore",
        [
            "stages.rewards=jpeg",
            "stages.prompts=['geneval-pocket']",
            "stages.iterations=1",
            f"stages.groups={groups}",
            f"stages.group_size={size}",
            f"stages.num_inference_steps={steps}",
            f"rollout.height={64 if small else 512}",
            f"rollout.width={64 if small else 512}",
            f"rollout.batch_size={2 if small else 8}",
            "evaluation.every=0",
            "evaluation.benchmarks=[]",
            "loggers=[]",
            "policy.dtype=bfloat16",
            "policy.precision=bf16",
            f"policy.rank={4 if small else 32}",
        ],
    )
    loaded = mock.patch.object(setup, "load_model", lambda *_, **__: model)
    with loaded, Peak(model.pipeline.device) as peak:
        train(recipe, folder / "train", resume=False, progress=clock, say=lambda _: None)
    lines = (folder / "train" / "metrics.jsonl").read_text("utf-8").splitlines()
    return {
        "images": groups * size,
        "steps": steps,
        "seconds": peak.seconds,
        "peak_gb": peak.gigabytes,
        "clock": {k: v for k, v in json.loads(lines[-1]).items() if k.startswith("seconds")},
    }


def measured(small: bool, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All that is done within the minutes.

    Args:
        small: the same networks in little.
        minutes: after which nothing is begun, and what runs is stopped at its next step.
        say: told of each part as it is done.
    """
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begun = time.perf_counter()
    pipeline = build(small, device)
    pipeline.set_progress_bar_config(disable=True)
    model = LoadedModel(name="random-sd3.5-m", digest="random", pipeline=pipeline)
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    weights = [w for part in parts for w in (*part.parameters(), *part.buffers())]
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "small": small,
        "weights_gb": sum(w.nbytes for w in weights) / 1e9,
        "build_seconds": time.perf_counter() - begun,
    }
    clock = Clock(begun + minutes * 60)
    with tempfile.TemporaryDirectory() as folder:
        for part, work in (("evaluation", drawn_and_scored), ("iteration", one_iteration)):
            clock.clear()
            try:
                found[part] = work(model, small, Path(folder), clock)
            except TimeUp:
                found[part] = f"not finished within {minutes:g} minutes"
            say(json.dumps({part: found[part]}))
    return found | {"seconds": time.perf_counter() - begun}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="on a CPU, in little")
    parser.add_argument("--minutes", type=float, default=6, help="after which it ends")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = json.dumps(measured(given.small, given.minutes, print), indent=2)
    print(found)
    if given.out:
        given.out.write_text(f"{found}\n", "utf-8")


if __name__ == "__main__":
    main()
