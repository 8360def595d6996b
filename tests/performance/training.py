"""CPU milliseconds an image of an NFT iteration on the pocket world, part by part, against a plain loop.

The plain loop is what a training script does that was written for one model: every image's prompt is encoded, the
policies are LoRA adapters that are switched, all three run for every pair of image and time. Both draw as many images,
score them by one reward and train on as many pairs, with the same solver, in the same precision; then each lever is
switched on, the last of which are fewer pairs. The best of three iterations counts; compiling is done in the first.

Run: python tests/performance/training.py [no|bf16]...
"""

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import peft
import torch
from accelerate import Accelerator

from nftbench.benchmark.registry import load_benchmark
from nftbench.evaluation.scoring.loading import load_rewards, quiet
from nftbench.generation.checkpoint import load_model
from nftbench.generation.sampling import to_uint8
from nftbench.training.algorithms.nft import nft_loss, velocity_kl
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.recipe import ATTENTION
from nftbench.training.policy.precision import mixed
from nftbench.training.run import TrainingRun
from rewards.base import Reward

REWARD, PROMPTS = "geneval@pocket-nft", "geneval-pocket"
GROUPS, GROUP_SIZE, TIMES, BATCH, STEPS = 8, 12, 3, 48, 10
SETTINGS = (
    f"stages.rewards={REWARD}",
    f"stages.prompts=['{PROMPTS}']",
    f"stages.groups={GROUPS}",
    f"stages.group_size={GROUP_SIZE}",
    f"stages.timesteps_per_image={TIMES}",
    f"stages.num_inference_steps={STEPS}",
    f"rollout.batch_size={BATCH}",
    "loggers=[]",
)
IMAGES = GROUPS * GROUP_SIZE
ALL = ("policy.folded=true", "policy.compiled=true", "stages.old_schedule=copy")
LEVERS = {
    "as the recipe": (),
    "folded": ("policy.folded=true",),
    "folded, copy": ("policy.folded=true", "stages.old_schedule=copy"),
    "folded, copy, no KL": (
        "policy.folded=true",
        "stages.old_schedule=copy",
        "stages.kl_weight=0",
    ),
    "folded, compiled": ("policy.folded=true", "policy.compiled=true"),
    "folded, compiled, copy": ALL,
    "folded, compiled, copy, no KL": (*ALL, "stages.kl_weight=0"),
    "folded, compiled, copy, two times an image": (*ALL, "stages.timesteps_per_image=2"),
    "pocket-geneval's": (
        *ALL,
        "stages.kl_weight=0",
        "stages.trust_region={kl = 0.5, weight = 0.2}",
        "stages.timesteps_per_image=2",
        "stages.noise_range=[0.7, 0.97]",
    ),
}
"""What is switched on beside the common settings."""


def ours(precision: str, *settings: str) -> dict[str, float]:
    """Best of three iterations of the trainer, CPU seconds whole, else seconds by part."""
    recipe = load_recipe("pocket", [*SETTINGS, f"policy.precision={precision}", *settings])
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(recipe, Path(folder), Accelerator(), lambda *_: None, lambda _: None)
        found = []
        for _ in range(3):
            begun = time.process_time()
            metrics = run.trainer.iterate()
            parts = {k.partition("/")[2]: v for k, v in metrics.items() if k.startswith("seconds/")}
            found.append(parts | {"whole": time.process_time() - begun})
    return min(found, key=lambda parts: parts["whole"])


def plain(precision: str) -> dict[str, float]:
    """Best of three iterations of the plain loop; CPU seconds by part."""
    pipeline = load_model("pocket").pipeline
    network = pipeline.transformer
    config = peft.LoraConfig(r=32, lora_alpha=64, target_modules=list(ATTENTION))
    for name in ("old", "default"):
        network.add_adapter(config, adapter_name=name)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    (reward,) = load_rewards(REWARD).values()
    with mixed(torch.device("cpu"), precision):
        found = [_plain_iteration(pipeline, optimizer, reward) for _ in range(3)]
    return min(found, key=lambda p: p["whole"])


def _plain_iteration(pipeline, optimizer, reward: Reward) -> dict[str, float]:
    seconds, begun = defaultdict(float), time.process_time()
    prompts = load_benchmark(PROMPTS).load_training()[::45][:GROUPS]  # of every task
    everything = [p for p in prompts for _ in range(GROUP_SIZE)]
    for start in range(0, IMAGES, BATCH):
        asked = everything[start : start + BATCH]
        texts = [prompt.text for prompt in asked]
        mark = time.process_time()
        pipeline.transformer.set_adapter("old")
        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                texts, texts, texts, do_classifier_free_guidance=False, max_sequence_length=0
            )
        latents = pipeline(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            max_sequence_length=0,
            output_type="latent",
        ).images
        with torch.no_grad():
            scaled = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
            pixels = pipeline.vae.decode(scaled).sample.mul(0.5).add(0.5)
        drawn = to_uint8(pixels.permute(0, 2, 3, 1).float().numpy())
        seconds["rollout"] += time.process_time() - mark
        mark = time.process_time()
        reward.score(drawn, asked)
        seconds["rewards"] += time.process_time() - mark
        for place in range(TIMES):
            _plain_pair(
                pipeline, latents, embeds, pooled, pipeline.scheduler.timesteps[place], seconds
            )
    optimizer.step()
    optimizer.zero_grad()
    return dict(seconds) | {"whole": time.process_time() - begun}


def _plain_pair(pipeline, x_0, embeds, pooled, timestep, seconds) -> None:
    network, begun = pipeline.transformer, time.process_time()
    eps = torch.randn_like(x_0)
    t = (timestep / 1000).reshape(1, 1, 1, 1).expand(len(x_0), 1, 1, 1)
    x_t = (1 - t) * x_0 + t * eps

    def velocity() -> torch.Tensor:
        return network(
            hidden_states=x_t,
            timestep=timestep.expand(len(x_0)),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
        ).sample

    with torch.no_grad():
        network.set_adapter("old")
        v_old = velocity()
        network.disable_adapters()
        v_ref = velocity()
        network.enable_adapters()
    network.set_adapter("default")
    v_theta = velocity()
    r = torch.full((len(x_0),), 0.7)
    loss = nft_loss(v_theta, v_old, x_0, x_t, t, r, beta=1.0) + 1e-4 * velocity_kl(v_theta, v_ref)
    loss.mean().backward()
    seconds["update"] += time.process_time() - begun


def main() -> None:
    """Measure and print."""
    quiet()
    torch.set_num_threads(1)
    for precision in sys.argv[1:] or ("no", "bf16"):
        reference = plain(precision)
        _tell(f"{precision}: plain loop", reference, reference)
        for name, settings in LEVERS.items():
            _tell(f"{precision}: {name}", ours(precision, *settings), reference)


def _tell(name: str, parts: dict[str, float], reference: dict[str, float]) -> None:
    ratio = parts["whole"] / reference["whole"]
    print(
        f"{name}: {parts['whole'] / IMAGES * 1000:.1f} ms an image, ratio {ratio:.2f}", flush=True
    )


if __name__ == "__main__":
    main()
