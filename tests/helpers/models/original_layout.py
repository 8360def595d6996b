"""An SD3 folder as the one file that its authors publish: other names, joined projections, swapped halves.

Source: huggingface/diffusers@v0.42.1:src/diffusers/loaders/single_file_utils.py, whose conversion this is undone for.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOP = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
JOINED = {"x_block": "attn.to_{}", "context_block": "attn.add_{}_proj"}


def write(folder: Path, file: Path) -> None:
    """Transformer and VAE; the text encoders stay in the folder, as with SD3's smallest file."""
    transformer = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    state = {f"model.diffusion_model.{k}": v for k, v in _transformer(transformer).items()}
    state |= {f"first_stage_model.{k}": v for k, v in _vae(vae).items()}
    save_file({k: v.contiguous() for k, v in state.items()}, file)


def _transformer(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    blocks = 1 + max(int(k.split(".")[1]) for k in own if k.startswith("transformer_blocks."))
    found = {}
    for name, tensor in own.items():
        stem, _, kind = name.rpartition(".")
        if name in TOP:
            found[TOP[name]] = tensor
        elif stem in TOP:
            found[f"{TOP[stem]}.{kind}"] = tensor
        elif stem == "norm_out.linear":
            found[f"final_layer.adaLN_modulation.1.{kind}"] = _swapped(tensor)
        else:
            _, number, inner = stem.split(".", 2)
            if inner in BLOCK:
                last = inner == "norm1_context.linear" and int(number) == blocks - 1
                place = f"joint_blocks.{number}.{BLOCK[inner]}.{kind}"
                found[place] = _swapped(tensor) if last else tensor
    for i in range(blocks):
        for side, names in JOINED.items():
            for kind in ("weight", "bias"):
                parts = [own[f"transformer_blocks.{i}.{names.format(x)}.{kind}"] for x in "qkv"]
                found[f"joint_blocks.{i}.{side}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _vae(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ups = 1 + max(int(k.split(".")[2]) for k in own if k.startswith("decoder.up_blocks."))
    found = {}
    for name, tensor in own.items():
        for i in range(ups):
            name = name.replace(f"up_blocks.{i}.", f"up.{ups - 1 - i}.")
            name = name.replace(f"down_blocks.{i}.", f"down.{i}.")
        for i in (0, 1):
            name = name.replace(f"mid_block.resnets.{i}", f"mid.block_{i + 1}")
        attention = "mid_block.attentions.0" in name
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = name.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
        name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        name = name.replace("conv_norm_out", "norm_out")
        if attention:
            name = name.replace("group_norm", "norm").replace("to_out.0", "proj_out")
            name = name.replace(".to_", ".")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[name] = tensor
    return found
