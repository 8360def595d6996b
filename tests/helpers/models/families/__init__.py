"""Tiny random pipelines of every family of the installed diffusers, whole enough to draw pixels and to be saved."""

from collections.abc import Callable
from typing import Any

import torch

from tests.helpers.models import tiny
from tests.helpers.models.families import flow, further, noise
from tests.helpers.models.families import vision_language as seeing
from tests.helpers.models.families.parts import enlarged

PERTURBED = {
    "sd3": "StableDiffusion3PAGPipeline",
    "sd15": "StableDiffusionPAGPipeline",
    "sdxl": "StableDiffusionXLPAGPipeline",
    "pixart": "PixArtSigmaPAGPipeline",
    "sana": "SanaPAGPipeline",
    "hunyuan_dit": "HunyuanDiTPAGPipeline",
}
BUILDERS: dict[str, Callable[[], Any]] = {
    **{name: (lambda name=name: flow.with_vae(name)) for name in tiny.ARGUMENTS},
    "flux_schnell": flow.flux_schnell,
    "flux2_klein": flow.flux2_klein,
    "flux2_klein_base": lambda: flow.flux2_klein(distilled=False),
    "krea2": seeing.krea2,
    "krea2_turbo": lambda: seeing.krea2(distilled=True),
    "hunyuan_image": seeing.hunyuan_image,
    "kandinsky5": seeing.kandinsky5,
    "longcat": seeing.longcat,
    "prx": seeing.prx,
    "prx_pixel": seeing.prx_pixel,
    "nucleus": seeing.nucleus,
    "dreamlite": seeing.dreamlite,
    "ideogram4": seeing.ideogram4,
    "ernie": flow.ernie,
    "hunyuan_dit": noise.hunyuan_dit,
    "chroma": flow.chroma,
    "cogview4": flow.cogview4,
    "cogview3": noise.cogview3,
    "lumina": flow.lumina,
    "bria": flow.bria,
    "ovis": flow.ovis,
    "auraflow": flow.auraflow,
    "hidream": flow.hidream,
    "omnigen": flow.omnigen,
    "deepfloyd_if": noise.deepfloyd_if,
    "lcm": noise.lcm,
    "sd2": noise.sd2,
    "amused": noise.amused,
    "kandinsky22": noise.kandinsky22,
    "stable_unclip": noise.stable_unclip,
    "sana_sprint": flow.sana_sprint,
    "pixart_alpha": further.pixart_alpha,
    "kolors": further.kolors,
    "kandinsky3": further.kandinsky3,
    "kandinsky21": further.kandinsky21,
    "qwen_image21": further.qwen_image21,
    "bria_fibo": further.bria_fibo,
    "flux_kontext": further.flux_kontext,
    "flux2_klein_kv": further.flux2_klein_kv,
    "z_image_omni": seeing.z_image_omni,
    "glm_image": seeing.glm_image,
    **{
        f"{family}_pag": (lambda f=family, k=kind: further.with_perturbed_attention(f, k))
        for family, kind in PERTURBED.items()
    },
}

SIZES = {"sana": "128", "sana_sprint": "128", "sana_pag": "128"}
"""Pixels that a family is surveyed at, where they are not 64."""
SIZES |= dict.fromkeys(("hunyuan_dit", "hunyuan_dit_pag", "hidream", "kandinsky5"), "1024")
"""These draw at no small size, whatever they are asked for."""
CONTROLLED = (
    "StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLControlNetUnionPipeline", "StableDiffusion3ControlNetPipeline",
    "StableDiffusionControlNetPAGPipeline", "StableDiffusionXLControlNetPAGPipeline",
    "FluxControlPipeline", "FluxControlNetPipeline", "CogView4ControlPipeline",
    "QwenImageControlNetPipeline", "ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline",
)  # fmt: skip
UNBUILT = {
    "StableCascadeCombinedPipeline": "the installed diffusers cannot load a saved one (PaellaVQModel)",
    "WuerstchenCombinedPipeline": "the installed diffusers cannot load a saved one (PaellaVQModel)",
    **dict.fromkeys(CONTROLLED, "begins with a control image: not from text alone"),
    **dict.fromkeys(("HeliosPipeline", "HeliosPyramidPipeline"), "draws videos"),
    "KolorsPAGPipeline": "as KolorsPipeline, whose tokenizer the installed transformers does not call as it expects",
}
"""Text-to-image classes without a builder, and why."""


@torch.no_grad()
def _fill_zeros(network: torch.nn.Module) -> None:
    """Numbers for weights that begin as zeros: an untrained network would answer every prompt alike."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def build(name: str) -> Any:
    """A whole tiny pipeline; the weights are the same each time."""
    torch.manual_seed(0)
    pipeline = enlarged(BUILDERS[name]())
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            _fill_zeros(part)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
