"""`nftbench pocket build`: the whole pocket world trained from nothing, resumable, and written out as it is shipped."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from nftbench.pocket.train import pretrain, reward_models
from nftbench.pocket.train.loop import Job, train
from rewards.base import Progress

CARD = """suite = "pocket"

[sampling] # what the model was made for, where a benchmark leaves it open
height = 64
width = 64
guidance_scale = 1.0
max_sequence_length = 0 # it has no long text encoder
"""
"""`nftbench.toml` of the checkpoint: its own suite, and its own sampling parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How long everything is trained; the defaults are what the shipped weights had."""

    vae_steps: int = pretrain.VAE_STEPS
    scenes: int = pretrain.LATENT_SCENES
    shard: int = pretrain.SHARD
    policy_steps: int = pretrain.POLICY_STEPS
    detector_steps: int = reward_models.DETECTOR_STEPS
    clip_steps: int = reward_models.CLIP_STEPS
    pickscore_steps: int = reward_models.PICKSCORE_STEPS


def build_all(
    work: Path,
    out: Path,
    threads: int,
    progress: Progress,
    *,
    sizes: Sizes | None = None,
    start: Path | None = None,
) -> None:
    """Train every network that is not finished yet and write the weights.

    Args:
        work: checkpoints and encoded scenes; a second call goes on from them.
        out: receives `pocket/` (the pipeline) and, unless `start` is given, `rewards/`.
        threads: CPU threads.
        progress: called with the stage, the steps done and their total.
        sizes: how long; as shipped when None.
        start: a pocket checkpoint whose VAE is kept and whose transformer and text encoders are trained on.
    """
    sizes = sizes or Sizes()
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    vae = _vae(work, progress, sizes, start)
    for done in pretrain.encode_latents(vae, work, sizes.scenes, sizes.shard):
        progress("latents", done, sizes.scenes)
    _train(pretrain.policy_job(work, sizes.policy_steps, start), work, progress)
    export_policy(vae, work, out / "pocket")
    if start is None:
        _build_rewards(work, out / "rewards", progress, sizes)


def _vae(work: Path, progress: Progress, sizes: Sizes, start: Path | None) -> AutoencoderKL:
    if start:
        return AutoencoderKL.from_pretrained(start / "vae", dtype=torch.float32).to(
            pretrain.device()  # pyright: ignore[reportArgumentType]
        )
    _train(pretrain.vae_job(sizes.vae_steps), work, progress)
    return pretrain.finished_vae(work)


def _build_rewards(work: Path, out: Path, progress: Progress, sizes: Sizes) -> None:
    _train(reward_models.detector_job(sizes.detector_steps), work, progress)
    _train(reward_models.clip_job(sizes.clip_steps), work, progress)
    _train(reward_models.pickscore_job(work, sizes.pickscore_steps), work, progress)
    reward_models.export_rewards(work, out)


def _train(job: Job, work: Path, progress: Progress) -> None:
    for done in train(job, work):
        progress(job.name, int(done["step"]), job.steps)


def export_policy(vae: AutoencoderKL, work: Path, out: Path) -> None:
    """Save the pipeline in diffusers' layout, float16 on disk.

    The configurations still say float32, so that a plain `from_pretrained` widens every part alike.
    """
    pretrain.pipeline(vae, work).save_pretrained(out)
    for path in out.glob("*/*.safetensors"):
        halved = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(halved, path, metadata={"format": "pt"})
    (out / "nftbench.toml").write_text(CARD, encoding="utf-8")
