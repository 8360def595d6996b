"""More tiny random pipelines, whole enough to draw pixels: `tiny`'s ten with an autoencoder, and further classes."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, LCMScheduler, VQModel
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaForCausalLM,
    LlamaModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.helpers import tiny
from tests.helpers.tiny import LETTERS, NOISE, WIDTH, clip, language_model, t5, tokenizer

FLUX_LIKE = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}


def vae(latents: int = 4, blocks: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        latent_channels=latents,
        shift_factor=0.1,
    ).eval()


def vq(blocks: int = 4, latents: int = 4, **more: Any) -> VQModel:
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        latent_channels=latents,
        vq_embed_dim=latents,
        **more,
    ).eval()


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4
    ).eval()


def dc_vae() -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
    ).eval()


def ended_tokenizer() -> Any:
    """As real ones, it puts an end behind a text, so that no text is empty."""
    made = tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return made


def deep_language_model() -> LlamaModel:
    """With as many layers as FLUX.2 and Krea 2 read."""
    config = tiny.language_model().config
    config.num_hidden_layers = 36
    return LlamaModel(config).eval()


def long_clip() -> CLIPTextModelWithProjection:
    """With the 248 positions of HiDream's."""
    config = clip(projected=True).config
    config.max_position_embeddings = 248
    return CLIPTextModelWithProjection(config).eval()


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


def krea2() -> Any:
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
        text_encoder=language_model(),
        tokenizer=tokenizer(),
        transformer=transformer,
        text_encoder_select_layers=(1, 2),
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


def hunyuan_dit() -> Any:
    bert = BertModel(
        BertConfig(
            vocab_size=len(LETTERS) + 3, hidden_size=WIDTH, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=WIDTH, max_position_embeddings=128,
        )
    )  # fmt: skip
    transformer = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, patch_size=2, sample_size=8,
        hidden_size=32, num_layers=2, cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16, text_len=77, text_len_t5=256,
    )  # fmt: skip
    return diffusers.HunyuanDiTPipeline(
        vae=vae(), text_encoder=bert.eval(), tokenizer=tokenizer(), transformer=transformer,
        scheduler=DDPMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, text_encoder_2=t5(), tokenizer_2=tokenizer(),
    )  # fmt: skip


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


def cogview3() -> Any:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=WIDTH, time_embed_dim=16, condition_dim=8, sample_size=8,
        pos_embed_max_size=8,
    )  # fmt: skip
    return diffusers.CogView3PlusPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer,
        scheduler=diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
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
        axes_dims_rope=(8, 8), max_resolution=(64, 64), llama_layers=[0, 1],
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


def deepfloyd_if() -> Any:
    unet = tiny.unet(
        cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH, in_channels=3, out_channels=6
    )
    return diffusers.IFPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), unet=unet,
        scheduler=DDPMScheduler(variance_type="learned_range"), safety_checker=None,
        feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


def lcm() -> Any:
    return diffusers.LatentConsistencyModelPipeline(
        vae=vae(), text_encoder=clip(projected=False), tokenizer=tokenizer(),
        unet=tiny.unet(cross_attention_dim=WIDTH, time_cond_proj_dim=8), scheduler=LCMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd2() -> Any:
    scheduler = DDIMScheduler(**NOISE, prediction_type="v_prediction", clip_sample=False)
    made = tiny.sd15(scheduler)
    made.register_modules(vae=vae())
    return made


def amused() -> Any:
    transformer = diffusers.UVit2DModel(
        hidden_size=32, cond_embed_dim=WIDTH, micro_cond_encode_dim=8, micro_cond_embed_dim=40,
        encoder_hidden_size=WIDTH, vocab_size=33, codebook_size=32, in_channels=16,
        block_out_channels=16, num_res_blocks=1, block_num_heads=2, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, sample_size=8,
    )  # fmt: skip
    return diffusers.AmusedPipeline(
        vqvae=vq(num_vq_embeddings=32, lookup_from_codebook=True, mid_block_add_attention=False),
        tokenizer=tokenizer(), text_encoder=clip(projected=True), transformer=transformer,
        scheduler=diffusers.AmusedScheduler(mask_token_id=32),
    )  # fmt: skip


def vision() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=WIDTH, projection_dim=WIDTH, num_hidden_layers=1,
            num_attention_heads=2, image_size=32, patch_size=16,
        )
    ).eval()  # fmt: skip


def prior() -> Any:
    return diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=WIDTH,
        num_embeddings=16,
    )  # fmt: skip


def kandinsky22() -> Any:
    from transformers import CLIPImageProcessor

    unet = tiny.unet(
        in_channels=4, out_channels=8, cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj", addition_embed_type="image",
    )  # fmt: skip
    return diffusers.KandinskyV22CombinedPipeline(
        unet=unet, scheduler=DDPMScheduler(variance_type="learned_range"), movq=vq(),
        prior_prior=prior(), prior_image_encoder=vision(), prior_text_encoder=clip(projected=True),
        prior_tokenizer=tokenizer(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample"
        ),
        prior_image_processor=CLIPImageProcessor(size=32, crop_size=32),
    )  # fmt: skip


def stable_unclip() -> Any:
    unet = tiny.unet(
        cross_attention_dim=WIDTH, class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * WIDTH,
    )  # fmt: skip
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=tokenizer(), prior_text_encoder=clip(projected=True), prior=prior(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample"
        ),
        image_normalizer=diffusers.pipelines.stable_diffusion.StableUnCLIPImageNormalizer(
            embedding_dim=WIDTH
        ),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer(), text_encoder=clip(projected=False), unet=unet,
        scheduler=DDIMScheduler(**NOISE, clip_sample=False), vae=vae(),
    )  # fmt: skip


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


BUILDERS: dict[str, Callable[[], Any]] = {
    **{name: (lambda name=name: with_vae(name)) for name in tiny.ARGUMENTS},
    "flux_schnell": flux_schnell,
    "flux2_klein": flux2_klein,
    "flux2_klein_base": lambda: flux2_klein(distilled=False),
    "krea2": krea2,
    "ernie": ernie,
    "hunyuan_dit": hunyuan_dit,
    "chroma": chroma,
    "cogview4": cogview4,
    "cogview3": cogview3,
    "lumina": lumina,
    "bria": bria,
    "ovis": ovis,
    "auraflow": auraflow,
    "hidream": hidream,
    "omnigen": omnigen,
    "deepfloyd_if": deepfloyd_if,
    "lcm": lcm,
    "sd2": sd2,
    "amused": amused,
    "kandinsky22": kandinsky22,
    "stable_unclip": stable_unclip,
    "sana_sprint": sana_sprint,
}


def build(name: str) -> Any:
    """A whole tiny pipeline; the weights are the same each time."""
    torch.manual_seed(0)
    pipeline = BUILDERS[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
