"""Tiny pipelines of further classes: perturbed attention, Kandinsky's older ones, Kolors, cascades, newest ones."""

import tempfile
from pathlib import Path
from typing import Any

import diffusers
import sentencepiece
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from transformers import CLIPImageProcessor, SmolLM3Config, SmolLM3ForCausalLM

from tests.helpers.models import tiny
from tests.helpers.models.families import flow, noise
from tests.helpers.models.families import vision_language as seeing
from tests.helpers.models.families.parts import (
    FLUX_LIKE,
    VOCABULARY,
    deep_language_model,
    flux2_vae,
    prior,
    vae,
    vision,
    vq,
    words,
)
from tests.helpers.models.tiny import NOISE, WIDTH, clip, t5, tokenizer

LEFT_OUT = ("safety_checker", "image_encoder", "feature_extractor")
BRIA_VOCABULARY = 128_001
"""Its pipeline puts token 128,000 in the place of an empty prompt."""


def with_perturbed_attention(family: str, kind: str) -> Any:
    made = noise.hunyuan_dit() if family == "hunyuan_dit" else flow.with_vae(family)
    if family == "pixart":  # a saved pipeline forgets its layers and takes the second
        config = {**made.transformer.config, "num_layers": 2}
        made.register_modules(transformer=type(made.transformer).from_config(config))
    parts = {k: v for k, v in made.components.items() if k not in LEFT_OUT}
    if family in ("sd15", "hunyuan_dit"):
        parts |= {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    layers = {
        "sd3": "blocks.1",
        "pixart": "blocks.1",
        "hunyuan_dit": "blocks.1",
        "sana": "transformer_blocks.0",
    }
    return getattr(diffusers, kind)(**parts, pag_applied_layers=layers.get(family, "mid"))


def pixart_alpha() -> Any:
    made = flow.with_vae("pixart")
    return diffusers.PixArtAlphaPipeline(**made.components)


def _pieces() -> Path:
    """A sentencepiece model of the words, made on the spot."""
    folder = Path(tempfile.mkdtemp(prefix="pieces-"))
    (folder / "words.txt").write_text("\n".join(VOCABULARY), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "words.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=96,
        pad_id=3, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return folder / "tokenizer.model"


def kolors() -> Any:
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2, padded_vocab_size=128, hidden_size=WIDTH, ffn_hidden_size=WIDTH,
            kv_channels=16, num_attention_heads=2, seq_length=256, multi_query_attention=True,
            multi_query_group_num=1, add_qkv_bias=True, original_rope=True,
        )
    )  # fmt: skip
    unet = tiny.unet(
        cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj",
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )  # fmt: skip
    return diffusers.KolorsPipeline(
        vae=vae(), text_encoder=encoder.float().eval(), tokenizer=ChatGLMTokenizer(str(_pieces())),
        unet=unet, scheduler=diffusers.EulerDiscreteScheduler(**NOISE),
    )  # fmt: skip


def kandinsky3() -> Any:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=16, groups=2, attention_head_dim=8, layers_per_block=3,
        block_out_channels=(32, 64), cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH,
    )  # fmt: skip
    return diffusers.Kandinsky3Pipeline(
        tokenizer=words(128), text_encoder=t5(), unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"), movq=vq(),
    )  # fmt: skip


def kandinsky21() -> Any:
    encoder = MultilingualCLIP(
        MCLIPConfig(
            transformerDimSize=WIDTH, imageDimSize=WIDTH, vocab_size=len(VOCABULARY), hidden_size=WIDTH,
            intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=512,
        )
    )  # fmt: skip
    unet = tiny.unet(
        in_channels=4, out_channels=8, cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_image_proj", addition_embed_type="text_image",
    )  # fmt: skip
    return diffusers.KandinskyCombinedPipeline(
        text_encoder=encoder.eval(), tokenizer=words(77), unet=unet, movq=vq(),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False), prior_prior=prior(),
        prior_image_encoder=vision(), prior_text_encoder=clip(projected=True),
        prior_tokenizer=tokenizer(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample"
        ),
        prior_image_processor=CLIPImageProcessor(size=32, crop_size=32),
    )  # fmt: skip


def qwen_image21() -> Any:
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        context_in_dim=WIDTH, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLQwenImage21(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return diffusers.QwenImage21Pipeline(
        scheduler=Euler(use_dynamic_shifting=True), vae=autoencoder, text_encoder=seeing.qwen3_vl(),
        processor=seeing.qwen3_processor(), transformer=transformer,
    )  # fmt: skip


def bria_fibo() -> Any:
    encoder = SmolLM3ForCausalLM(
        SmolLM3Config(
            vocab_size=BRIA_VOCABULARY, hidden_size=WIDTH, intermediate_size=WIDTH,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0,
            bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip
    transformer = diffusers.BriaFiboTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, joint_attention_dim=2 * WIDTH,
        text_encoder_dim=WIDTH, **FLUX_LIKE,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        in_channels=12, out_channels=12, patch_size=2,
    )  # fmt: skip
    return diffusers.BriaFiboPipeline(
        transformer=transformer, scheduler=Euler(use_dynamic_shifting=True), vae=autoencoder,
        text_encoder=encoder.eval(), tokenizer=words(4096),
    )  # fmt: skip


def flux_kontext() -> Any:
    made = flow.with_vae("flux")
    parts = {
        k: v for k, v in made.components.items() if k not in ("image_encoder", "feature_extractor")
    }
    return diffusers.FluxKontextPipeline(**parts)


def flux2_klein_kv() -> Any:
    made = flow.flux2_klein()
    parts = dict(made.components) | {"text_encoder": deep_language_model(), "vae": flux2_vae()}
    return diffusers.Flux2KleinKVPipeline(**parts, is_distilled=True)
