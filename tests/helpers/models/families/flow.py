"""Tiny pipelines of flow models: transformers with an autoencoder of their own kind."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from transformers import LlamaForCausalLM, UMT5Config, UMT5EncoderModel

from tests.helpers.models import tiny
from tests.helpers.models.families.parts import (
    FLUX_LIKE,
    dc_vae,
    deep_language_model,
    ended_tokenizer,
    flux2_vae,
    long_clip,
    qwen_vae,
    vae,
)
from tests.helpers.models.tiny import LETTERS, WIDTH, language_model, t5, tokenizer


def with_vae(family: str) -> Any:
    pipeline = tiny.build(family)
    make = {"qwen_image": qwen_vae, "flux2": flux2_vae, "sana": dc_vae}.get(family, vae)
    pipeline.register_modules(vae=make())
    if family == "flux2":
        pipeline.system_message = "a"
        pipeline.register_modules(text_encoder=deep_language_model())
    if family == "qwen_image":
        pipeline.register_modules(tokenizer=ended_tokenizer())
    if family == "lumina2":
        config = {**pipeline.transformer.config, "axes_lens": (400, 64, 64)}
        pipeline.register_modules(transformer=type(pipeline.transformer).from_config(config))
    return pipeline


def flux_schnell() -> Any:
    made = with_vae("flux")
    made.register_modules(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH, guidance_embeds=False, **FLUX_LIKE,
        )
    )  # fmt: skip
    return made


def flux2_klein(*, distilled: bool = True) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=3 * WIDTH, timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return diffusers.Flux2KleinPipeline(
        scheduler=Euler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=deep_language_model(),
        tokenizer=tokenizer(),
        transformer=transformer,
        is_distilled=distilled,
    )


def ernie() -> Any:
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16,
        out_channels=16, text_in_dim=WIDTH, rope_axes_dim=(4, 4, 8),
    )  # fmt: skip
    return diffusers.ErnieImagePipeline(
        transformer=transformer,
        vae=flux2_vae(),
        text_encoder=language_model(),
        tokenizer=tokenizer(),
        scheduler=Euler(),
        pe=LlamaForCausalLM(language_model().config).eval(),
        pe_tokenizer=tokenizer(),
    )


def chroma() -> Any:
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH,
        approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1, **FLUX_LIKE,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        scheduler=Euler(), vae=vae(), text_encoder=t5(), tokenizer=tokenizer(),
        transformer=transformer,
    )  # fmt: skip


def cogview4() -> Any:
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=16, condition_dim=8, sample_size=8,
        rope_axes_dim=(8, 8),
    )  # fmt: skip
    return diffusers.CogView4Pipeline(
        tokenizer=ended_tokenizer(), text_encoder=language_model(), vae=vae(),
        transformer=transformer, scheduler=Euler(),
    )  # fmt: skip


def lumina() -> Any:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=1, num_attention_heads=2,
        num_kv_heads=2, multiple_of=8, cross_attention_dim=WIDTH,
    )  # fmt: skip
    return diffusers.LuminaPipeline(
        transformer=transformer, scheduler=Euler(), vae=vae(), text_encoder=language_model(),
        tokenizer=tokenizer(),
    )  # fmt: skip


def bria() -> Any:
    transformer = diffusers.BriaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH, **FLUX_LIKE
    )
    return diffusers.BriaPipeline(
        transformer=transformer, scheduler=Euler(), vae=vae(), text_encoder=t5(),
        tokenizer=tokenizer(),
    )  # fmt: skip


def ovis() -> Any:
    transformer = diffusers.OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=1, num_single_layers=1,
        joint_attention_dim=WIDTH, **FLUX_LIKE,
    )  # fmt: skip
    return diffusers.OvisImagePipeline(
        scheduler=Euler(use_dynamic_shifting=True), vae=vae(), text_encoder=language_model(),
        tokenizer=tokenizer(), transformer=transformer,
    )  # fmt: skip


def auraflow() -> Any:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pos_embed_max_size=64,
    )  # fmt: skip
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(LETTERS) + 3, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1,
            num_heads=2,
        )
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer(), text_encoder=encoder.eval(), vae=vae(), transformer=transformer,
        scheduler=Euler(),
    )  # fmt: skip


def hidream() -> Any:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH, num_routed_experts=2, num_activated_experts=1,
        axes_dims_rope=(8, 4, 4), max_resolution=(64, 64), llama_layers=[0, 1],
        force_inference_output=True,
    )  # fmt: skip
    return diffusers.HiDreamImagePipeline(
        scheduler=Euler(), vae=vae(), text_encoder=long_clip(), tokenizer=tokenizer(),
        text_encoder_2=long_clip(), tokenizer_2=tokenizer(), text_encoder_3=t5(),
        tokenizer_3=tokenizer(), text_encoder_4=LlamaForCausalLM(language_model().config).eval(),
        tokenizer_4=tokenizer(), transformer=transformer,
    )  # fmt: skip


def omnigen() -> Any:
    transformer = diffusers.OmniGenTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32,
        num_layers=1, pad_token_id=0, vocab_size=len(LETTERS) + 3, pos_embed_max_size=64,
        time_step_dim=16, rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    )  # fmt: skip
    return diffusers.OmniGenPipeline(
        transformer=transformer, scheduler=Euler(), vae=vae(), tokenizer=tokenizer()
    )


def sana_sprint() -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=WIDTH, sample_size=8, guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    return diffusers.SanaSprintPipeline(
        tokenizer=tokenizer(), text_encoder=language_model(), vae=dc_vae(),
        transformer=transformer, scheduler=diffusers.SCMScheduler(),
    )  # fmt: skip
