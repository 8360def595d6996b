"""`nftbench pocket build`, the policy's half: VAE, then latents, then text encoders and transformer.

Every stage goes on from its last checkpoint in the working folder; a finished stage is skipped.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nftbench.pocket import networks as policy
from nftbench.pocket.train.loop import Job, averaged, muon_and_adamw
from nftbench.pocket.world import drawing, scenes

VAE_STEPS, VAE_BATCH, VAE_MEASURED = 4800, 16, 1000
POLICY_STEPS, POLICY_BATCH = 18000, 128
LATENT_SCENES, SHARD = 120_000, 10_000
CAPTION_DROPOUT = 0.1
SIGN_SHARE = 0.45
"""Of the policy's samples: letters are learnt later than shapes (at 0.8 million samples GenEval's tasks stood at 0.48
with guidance, words at 0.04), so signs come more often than `scenes.TASK_WEIGHTS` has them."""


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half() -> torch.autocast:
    """bfloat16 autocast; on a CPU it is worth 1.2 to 1.5 times the speed."""
    return torch.autocast(device().type, torch.bfloat16)


def draw(seed: int, count: int) -> tuple[np.ndarray, list[scenes.Scene]]:
    """`count` training scenes of one seed: pixels uint8 (count, 64, 64, 3) and what they show."""
    rng = np.random.default_rng(seed)
    drawn = [scenes.random_scene(rng) for _ in range(count)]
    return np.stack([drawing.render(s) for s in drawn]), drawn


def vae_job(steps: int = VAE_STEPS) -> Job:
    """The autoencoder on fresh scenes."""
    vae = policy.make_vae().to(device())  # pyright: ignore[reportArgumentType]

    def loss(step: int) -> Tensor:
        images = policy.to_input(
            torch.from_numpy(draw(10_000_000 + step, VAE_BATCH)[0]).to(device())
        )
        with half():
            return policy.vae_loss(vae, images)

    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0)
    return Job(name="vae", model=vae, loss=loss, optimizers=[optimizer], steps=steps, ema=0.995)


def finished_vae(folder: Path) -> AutoencoderKL:
    """The trained VAE, its latents scaled to zero mean and unit variance as SD3's are."""
    vae = averaged("vae", policy.make_vae().to(device()), folder)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        means = vae.encode(
            policy.to_input(torch.from_numpy(draw(1, VAE_MEASURED)[0]).to(device()))
        ).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
    vae.register_to_config(
        shift_factor=round(means.mean().item(), 4), scaling_factor=round(1 / means.std().item(), 4)
    )
    return vae


def encode_latents(vae: AutoencoderKL, folder: Path, count: int, shard: int) -> Iterator[int]:
    """Draw and encode the training scenes, shard by shard, into `latents-*.safetensors`.

    A shard holds `mean` and `std` of the posterior, float16 (shard, C, 8, 8), and `token_ids` (shard, L) uint8.
    """
    tokenizer = policy.make_tokenizer()
    for index in range(count // shard):
        path = folder / f"latents-{index:03d}.safetensors"
        if not path.exists():
            tensors = _encode_shard(vae, tokenizer, index, shard)
            save_file(tensors, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        yield (index + 1) * shard


@torch.no_grad()
def _encode_shard(vae: AutoencoderKL, tokenizer, index: int, shard: int) -> dict[str, Tensor]:
    parts = {"mean": [], "std": [], "token_ids": []}
    for start in range(0, shard, 50):
        images, drawn = draw(20_000_000 + index * shard + start, 50)
        posterior = vae.encode(policy.to_input(torch.from_numpy(images).to(device()))).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        parts["mean"].append(
            ((posterior.mean - vae.config["shift_factor"]) * vae.config["scaling_factor"])
            .half()
            .cpu()
        )
        parts["std"].append((posterior.std * vae.config["scaling_factor"]).half().cpu())
        parts["token_ids"].append(tokenize(tokenizer, [s.caption for s in drawn]).to(torch.uint8))
    return {k: torch.cat(v).contiguous() for k, v in parts.items()}


def tokenize(tokenizer, captions: list[str]) -> Tensor:
    """Padded token ids (N, L), as the pipeline makes them."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def policy_job(folder: Path, steps: int = POLICY_STEPS, start: Path | None = None) -> Job:
    """Text encoders and transformer on the encoded scenes.

    Args:
        folder: holds the encoded scenes.
        steps: how long.
        start: a finished pocket checkpoint to go on from; random weights when None.
    """
    shards = [load_file(p) for p in sorted(folder.glob("latents-*.safetensors"))]
    data = {k: torch.cat([s[k] for s in shards]) for k in shards[0]}
    tokenizer = policy.make_tokenizer()
    empty = tokenize(tokenizer, [""])
    is_sign = (data["token_ids"] == tokenizer.convert_tokens_to_ids("sign")).any(1)  # pyright: ignore[reportAttributeAccessIssue]
    signs, others = is_sign.nonzero().flatten(), (~is_sign).nonzero().flatten()
    torch.manual_seed(0)
    denoiser = policy.Denoiser(tokenizer).to(device())
    if start:
        denoiser.load_state_dict(
            shipped_weights(start, "text_encoder", "text_encoder_2", "transformer")
        )

    def loss(step: int) -> Tensor:
        wanted = torch.rand(POLICY_BATCH) < SIGN_SHARE
        pick = [group[torch.randint(len(group), (POLICY_BATCH,))] for group in (signs, others)]
        chosen = torch.where(wanted, *pick)
        mean, std, ids = (data[k][chosen].to(device()) for k in ("mean", "std", "token_ids"))
        x_0 = mean.float() + std.float() * torch.randn(mean.shape, device=device())
        dropped = torch.rand(POLICY_BATCH, 1, device=device()) < CAPTION_DROPOUT
        ids = torch.where(dropped, empty.to(device()), ids.long())
        # The CPU's fused attention has a backward pass slower than all matrix products together (44% of a step).
        attention = sdpa_kernel(SDPBackend.MATH) if device().type == "cpu" else nullcontext()
        with half(), attention:
            return policy.flow_loss(denoiser, x_0, ids)

    return Job(
        name="policy",
        model=denoiser,
        loss=loss,
        optimizers=muon_and_adamw(denoiser, _is_block, muon=2e-3, adamw=1.5e-3),
        steps=steps,
        warmup=300,
        ema=0.9993,
    )


def _is_block(name: str) -> bool:
    return ("transformer_blocks" in name or "encoder.layers" in name) and "norm1" not in name


def shipped_weights(checkpoint: Path, *parts: str) -> dict[str, Tensor]:
    """Weights of a checkpoint's parts, under names that begin with the part's."""
    files = {part: next((checkpoint / part).glob("*.safetensors")) for part in parts}
    return {f"{part}.{k}": v for part, path in files.items() for k, v in load_file(path).items()}


def pipeline(vae: AutoencoderKL, folder: Path) -> StableDiffusion3Pipeline:
    """The pipeline made of the averaged weights of the last checkpoint."""
    tokenizer = policy.make_tokenizer()
    denoiser = averaged("policy", policy.Denoiser(tokenizer), folder)
    return assemble(denoiser, vae.cpu(), tokenizer)


def assemble(denoiser: policy.Denoiser, vae: AutoencoderKL, tokenizer) -> StableDiffusion3Pipeline:
    """SD3's pipeline around trained parts; it has no T5."""
    return StableDiffusion3Pipeline(
        transformer=denoiser.transformer,
        scheduler=policy.make_scheduler(),
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=denoiser.text_encoder_2,
        tokenizer_2=tokenizer,
        text_encoder_3=None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=None,
    )
