"""`nftbench pocket build`: the whole pocket world trained from nothing, resumable, and written out as it is shipped."""

from collections.abc import Callable
from pathlib import Path

import torch

from nftbench.pocket import judges, pretrain

CARD = 'suite = "pocket"\n'
"""`nftbench.toml` of the checkpoint: the suite that `nftbench eval` runs when none is named."""


def build_all(work: Path, out: Path, threads: int, report: Callable[[str, int, int], None]) -> None:
    """Train every network that is not finished yet and write the weights.

    Args:
        work: checkpoints and encoded scenes; a second call goes on from them.
        out: receives `pocket/` (the pipeline) and `rewards/` (the judges).
        threads: CPU threads.
        report: told (stage, done, total).
    """
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    _train(pretrain.vae_job(), work, report)
    for done in pretrain.encode_latents(work):
        report("latents", done["step"], pretrain.LATENT_SCENES)
    _train(pretrain.policy_job(work), work, report)
    export_policy(work, out / "pocket")
    for job in (judges.detector_job, judges.clip_job):
        _train(job(), work, report)
    _train(judges.pickscore_job(work), work, report)
    judges.export_judges(work, out / "rewards")


def _train(job, work: Path, report: Callable[[str, int, int], None]) -> None:
    for progress in pretrain.train(job, work):
        report(job.name, progress["step"], job.steps)


def export_policy(work: Path, out: Path) -> None:
    """Save the pipeline in diffusers' layout: float16 on disk where that loses nothing that is seen."""
    pipeline = pretrain.pipeline(work)
    for part in ("transformer", "vae"):
        getattr(pipeline, part).half()
    pipeline.save_pretrained(out)
    (out / "nftbench.toml").write_text(CARD, encoding="utf-8")
