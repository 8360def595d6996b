"""The parts of the pocket policy: an SD3 pipeline in small, and the training of its VAE and its transformer."""

import string

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AddedToken, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from nftbench.pocket.world import scenes

TEXT_LENGTH = 18
"""Tokens of the longest caption ('a sign that says "PIANO TOWER"') with begin and end."""
TEXT_WIDTHS = (96, 96)
"""Hidden sizes of the two text encoders; side by side they are the transformer's text features."""
LATENT_CHANNELS = 16
WIDTH, HEADS, LAYERS = 128, 4, 6


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over the world: its words are one token each, anything else is spelt letter by letter."""
    letters = string.ascii_lowercase + string.digits + '"'
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=TEXT_LENGTH
    )
    world = [
        *[
            "an",
            "photo",
            "of",
            "and",
            "sign",
            "that",
            "says",
            "left",
            "right",
            "above",
            "below",
            "two",
            "three",
            "four",
            "white",
        ]
    ]
    world += [*scenes.COLORS, *scenes.SHAPES, *map(scenes.plural, scenes.SHAPES)]
    # Whole words only: as merges they would also fire inside the words of signs.
    tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=True) for w in world])
    return tokenizer


def make_text_encoder(
    tokenizer: CLIPTokenizer, width: int, layers: int
) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder with random weights."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
            eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )


def make_vae() -> AutoencoderKL:
    """f8, 16 channels, SD3's layout in small, random weights."""
    channels = (16, 32, 64, 64)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=scenes.SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def make_transformer() -> SD3Transformer2DModel:
    """SD3.5's transformer (RMS-normalised queries and keys) in small, random weights."""
    return SD3Transformer2DModel(
        sample_size=scenes.SIZE // 8,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=sum(TEXT_WIDTHS),
        caption_projection_dim=WIDTH,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=scenes.SIZE // 16,
        qk_norm="rms_norm",
    )


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3.5's scheduler."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def to_input(images: Tensor) -> Tensor:
    """uint8 pixels (B, H, W, 3) to the VAE's input (B, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Reconstruction (absolute error of pixels and of their differences) plus a light KL, scalar.

    Args:
        vae: the autoencoder.
        images: (B, 3, H, W) in [-1, 1].
    """
    posterior = vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    output = vae.decode(posterior.sample()).sample  # pyright: ignore[reportAttributeAccessIssue]
    edges = sum(F.l1_loss(output.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return F.l1_loss(output, images) + F.mse_loss(output, images) + edges + 2e-3 * kl


class Denoiser(nn.Module):
    """Text encoders and transformer together, conditioned the way the SD3 pipeline does it without T5."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder(tokenizer, TEXT_WIDTHS[0], layers=3)
        self.text_encoder_2 = make_text_encoder(tokenizer, TEXT_WIDTHS[1], layers=2)
        self.transformer = make_transformer()

    def forward(self, x_t: Tensor, t: Tensor, token_ids: Tensor) -> Tensor:
        """Velocity (B, C, H, W) at x_t (B, C, H, W), t (B,) in (0, 1], 1 = noise, token_ids (B, L)."""
        outputs = [
            e(token_ids, output_hidden_states=True)
            for e in (self.text_encoder, self.text_encoder_2)
        ]
        return self.transformer(
            hidden_states=x_t,
            timestep=t * 1000,
            encoder_hidden_states=torch.cat([o.hidden_states[-2] for o in outputs], -1),
            pooled_projections=torch.cat([o.text_embeds for o in outputs], -1),
        ).sample


def flow_loss(denoiser: Denoiser, x_0: Tensor, token_ids: Tensor, *, shift: float = 2.0) -> Tensor:
    """Rectified-flow loss with logit-normal times, moved towards noise by `shift`; scalar.

    Args:
        denoiser: the network.
        x_0: clean latents (B, C, H, W) of unit variance.
        token_ids: captions (B, L), emptied where the caption was dropped.
        shift: times are drawn as shift*u / (1 + (shift-1)*u), u logit-normal.

    Source: arXiv:2403.03206 Sec. 3.1 (logit-normal), 5.3.2 (shift).
    """
    u = torch.sigmoid(torch.randn(len(x_0), device=x_0.device))
    t = shift * u / (1 + (shift - 1) * u)
    eps = torch.randn_like(x_0)
    s = t[:, None, None, None]
    v = denoiser((1 - s) * x_0 + s * eps, t, token_ids)
    return F.mse_loss(v.float(), eps - x_0)
