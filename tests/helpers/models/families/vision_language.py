"""Tiny pipelines whose text encoder is a vision-language model, and of other encoders that were published lately."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from transformers import (
    ByT5Tokenizer,
    GlmImageConfig,
    GlmImageForConditionalGeneration,
    GlmImageImageProcessor,
    GlmImageProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    Siglip2ImageProcessor,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaEncoderModel,
)

from tests.helpers.models import tiny
from tests.helpers.models.families.parts import (
    FLUX_LIKE,
    SEEN,
    VOCABULARY,
    flux2_vae,
    qwen_vae,
    vae,
    words,
)
from tests.helpers.models.tiny import CHAT, WIDTH, clip, t5, tokenizer

ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}
SEEING = {"depth": 1, "hidden_size": WIDTH, "num_heads": 2, "patch_size": 14}
READING = {
    "vocab_size": len(VOCABULARY), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "rope_parameters": ROPE | {"rope_theta": 10000.0}, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
MARKS = {
    f"{name}_token_id": VOCABULARY[token]
    for name, token in zip(("image", "video", "vision_start", "vision_end"), SEEN, strict=True)
}


def qwen2_5_vl() -> Qwen2_5_VLForConditionalGeneration:
    seeing = SEEING | {"out_hidden_size": WIDTH, "intermediate_size": WIDTH}
    config = Qwen2_5_VLConfig(text_config=dict(READING), vision_config=seeing, **MARKS)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl(kind: Any = Qwen3VLForConditionalGeneration, layers: int = 2) -> Any:
    seeing = SEEING | {"out_hidden_size": WIDTH, "intermediate_size": WIDTH, "patch_size": 16}
    seeing |= {"deepstack_visual_indexes": [0]}
    reading = READING | {"head_dim": 16, "num_hidden_layers": layers}
    config = Qwen3VLConfig(text_config=reading, vision_config=seeing, **MARKS)
    return kind(config).eval()


def qwen2_processor() -> Qwen2VLProcessor:
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=words(4096),
        video_processor=Qwen2VLVideoProcessor(), chat_template=CHAT,
    )  # fmt: skip


def qwen3_processor() -> Qwen3VLProcessor:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=words(4096),
        video_processor=Qwen3VLVideoProcessor(), chat_template=CHAT,
    )  # fmt: skip


def krea2(*, distilled: bool = False) -> Any:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=WIDTH,
        num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2,
        text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.Krea2Pipeline(
        scheduler=Euler(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(Qwen3VLModel),
        tokenizer=words(4096),
        transformer=transformer,
        text_encoder_select_layers=(1, 2),
        is_distilled=distilled,
    )


def hunyuan_image() -> Any:
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, text_embed_dim=WIDTH, text_embed_2_dim=WIDTH,
        rope_axes_dim=(8, 8),
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32, 32, 32),
        layers_per_block=1, spatial_compression_ratio=16, sample_size=64, scaling_factor=0.75,
    )  # fmt: skip
    bytes_read = T5EncoderModel(
        T5Config(vocab_size=384, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    )
    return diffusers.HunyuanImagePipeline(
        scheduler=Euler(), vae=autoencoder, text_encoder=qwen2_5_vl(), tokenizer=words(4096),
        text_encoder_2=bytes_read.eval(), tokenizer_2=ByT5Tokenizer(), transformer=transformer,
    )  # fmt: skip


def kandinsky5() -> Any:
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=WIDTH, time_dim=16, out_visual_dim=4,
        model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
    )  # fmt: skip
    return diffusers.Kandinsky5T2IPipeline(
        transformer=transformer, vae=vae(), text_encoder=qwen2_5_vl(), tokenizer=qwen2_processor(),
        text_encoder_2=clip(projected=False), tokenizer_2=words(77), scheduler=Euler(),
    )  # fmt: skip


def longcat() -> Any:
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH, **FLUX_LIKE,
    )  # fmt: skip
    return diffusers.LongCatImagePipeline(
        scheduler=Euler(use_dynamic_shifting=True), vae=vae(latents=16), text_encoder=qwen2_5_vl(),
        tokenizer=words(4096), text_processor=qwen2_processor(), transformer=transformer,
    )  # fmt: skip


def _gemma() -> T5GemmaEncoderModel:
    part = {
        "vocab_size": len(VOCABULARY), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    config = T5GemmaConfig(encoder=part, decoder=part, is_encoder_decoder=False)
    return T5GemmaEncoderModel(config).eval()


def _prx_transformer(channels: int) -> Any:
    return diffusers.PRXTransformer2DModel(
        in_channels=channels, context_in_dim=WIDTH, hidden_size=32, mlp_ratio=1.0, num_heads=2,
        depth=1, axes_dim=[8, 8],
    )  # fmt: skip


def prx() -> Any:
    return diffusers.PRXPipeline(
        transformer=_prx_transformer(4), scheduler=Euler(), text_encoder=_gemma(),
        tokenizer=words(256), vae=vae(), default_sample_size=64,
    )  # fmt: skip


def prx_pixel() -> Any:
    return diffusers.PRXPixelPipeline(
        transformer=_prx_transformer(3), scheduler=Euler(), text_encoder=qwen3_vl(Qwen3VLModel).language_model,
        tokenizer=words(256), default_sample_size=64,
    )  # fmt: skip


def nucleus() -> Any:
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), mlp_ratio=1.0, num_experts=2,
        moe_intermediate_dim=16, capacity_factors=[2.0, 2.0],
    )  # fmt: skip
    return diffusers.NucleusMoEImagePipeline(
        transformer=transformer, scheduler=Euler(use_dynamic_shifting=True), vae=qwen_vae(),
        text_encoder=qwen3_vl(layers=10), processor=qwen3_processor(),
    )  # fmt: skip


def dreamlite() -> Any:
    unet = diffusers.DreamLiteUNetModel(
        sample_size=8, block_out_channels=(32, 32, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=WIDTH, attention_head_dim=16,
    )  # fmt: skip
    return diffusers.DreamLitePipeline(
        text_encoder=qwen3_vl(), tokenizer=words(4096), processor=qwen3_processor(),
        vae=diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ),
        unet=unet, scheduler=Euler(use_dynamic_shifting=True),
    )  # fmt: skip


def z_image_omni() -> Any:
    siglip = Siglip2VisionModel(
        Siglip2VisionConfig(
            hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, num_patches=16,
        )
    )  # fmt: skip
    made = tiny.z_image(Euler(shift=3.0))
    config = {**made.transformer.config, "siglip_feat_dim": WIDTH, "axes_lens": [1024, 64, 64]}
    return diffusers.ZImageOmniPipeline(
        scheduler=made.scheduler, vae=vae(), text_encoder=made.text_encoder, tokenizer=words(),
        transformer=type(made.transformer).from_config(config), siglip=siglip.eval(),
        siglip_processor=Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
    )  # fmt: skip


CODES = 64
"""Image tokens that the tiny GLM-Image knows."""


def _glm_processor() -> GlmImageProcessor:
    names = ("image_token", "bos_token", "grid_bos_token", "grid_eos_token")
    reader = words(4096, "left", **dict(zip(names, SEEN, strict=True)))
    return GlmImageProcessor(
        image_processor=GlmImageImageProcessor(), tokenizer=reader, chat_template=CHAT
    )


def _image_token_writer() -> GlmImageForConditionalGeneration:
    """A language model that writes the image's tokens; it never ends them early, as a random one would."""
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    reading = READING | {"rope_parameters": rope, "vision_vocab_size": CODES, "eos_token_id": None}
    reading |= {"initializer_range": 0.5}  # else any prompt gives the same tokens
    seeing = SEEING | {"intermediate_size": WIDTH, "patch_size": 16, "image_size": 64}
    codes = {"embed_dim": 8, "num_embeddings": CODES, "latent_channels": WIDTH}
    config = GlmImageConfig(
        text_config=reading, vision_config=seeing, vq_config=codes,
        image_token_id=VOCABULARY[SEEN[0]], image_start_token_id=VOCABULARY[SEEN[1]],
        image_end_token_id=len(VOCABULARY),
    )  # fmt: skip
    return GlmImageForConditionalGeneration(config).eval()


def glm_image() -> Any:
    transformer = diffusers.GlmImageTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2, text_embed_dim=WIDTH,
        time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=CODES,
    )  # fmt: skip
    autoencoder = vae()
    autoencoder.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    return diffusers.GlmImagePipeline(
        tokenizer=tokenizer(), processor=_glm_processor(), text_encoder=t5(),
        vision_language_encoder=_image_token_writer(), vae=autoencoder, transformer=transformer,
        scheduler=Euler(use_dynamic_shifting=True),
    )  # fmt: skip


def ideogram4() -> Any:
    def network() -> Any:
        return diffusers.Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            intermediate_size=32, adaln_dim=16, llm_features_dim=13 * WIDTH, mrope_section=(4, 2, 2),
        )  # fmt: skip

    return diffusers.Ideogram4Pipeline(
        scheduler=Euler(), vae=flux2_vae(), text_encoder=qwen3_vl(Qwen3VLModel, layers=36),
        tokenizer=words(4096), transformer=network(), unconditional_transformer=network(),
    )  # fmt: skip
