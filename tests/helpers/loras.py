"""LoRAs that were trained on pocket, in the layouts that people publish."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.generation.checkpoint import Allowed, load_model, packaged
from nftbench.generation.sampling import generate
from rewards.base import Prompt

PROTOCOL = load_benchmark("geneval-pocket").protocol(num_inference_steps=2, guidance_scale=2.0)
WANTED = samples([Prompt(id="0", text="a photo of a red circle")], 1)
OWN = packaged()["pocket-nft"] / "lora" / "pytorch_lora_weights.safetensors"
RANK, ALPHA, LAYERS = 16, 32, 75


def drawn(checkpoint: str, **allowed: bool) -> np.ndarray:
    model = load_model(checkpoint, allowed=Allowed(**allowed))
    return generate(model.pipeline, WANTED, PROTOCOL)


def tensors() -> dict[str, torch.Tensor]:
    """Of pocket-nft's LoRA, by module and factor: `attn.to_q.lora_A.weight`."""
    return {k.removeprefix("transformer."): v for k, v in load_file(OWN).items()}


def in_peft_layout(folder: Path, **config: object) -> Path:
    """As DiffusionNFT and FlowGRPO write `checkpoint-N/lora/`."""
    folder.mkdir(parents=True)
    named = {f"base_model.model.{k}": v for k, v in tensors().items()}
    save_file(named, folder / "adapter_model.safetensors")
    targets = sorted({k.rpartition(".lora_")[0] for k in tensors()})
    whole = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(whole | config))
    return folder


def in_kohya_layout(path: Path, prefix: str = "lora_unet_", **alpha: float) -> Path:
    """Dots become underscores, factors are down and up, and alpha is a tensor of its own."""
    flat = {}
    for name, tensor in tensors().items():
        module, _, factor = name.partition(".lora_")
        place = f"{prefix}{module.replace('.', '_')}"
        flat[f"{place}.lora_{'down' if factor[0] == 'A' else 'up'}.weight"] = tensor
        if alpha:
            flat[f"{place}.alpha"] = torch.tensor(alpha["alpha"])
    save_file(flat, path)
    return path
