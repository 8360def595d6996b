"""Tiny pipelines of noise-predicting models and of those with several stages."""

from typing import Any

import diffusers
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from transformers import BertConfig, BertModel

from tests.helpers.models import tiny
from tests.helpers.models.families.parts import prior, vae, vision, vq
from tests.helpers.models.tiny import LETTERS, NOISE, WIDTH, clip, t5, tokenizer


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
