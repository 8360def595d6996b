"""Parts of tiny pipelines: autoencoders, text encoders and a tokenizer of words, none of them downloaded."""

import json
import re
from typing import Any

import diffusers
from diffusers import AutoencoderKL, VQModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tests.helpers.models import tiny
from tests.helpers.models.tiny import CHAT, LETTERS, WIDTH, clip, tokenizer
from tests.helpers.paths import ROOT

FLUX_LIKE = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
SPECIAL = ("<pad>", "<eos>", "<unk>")
SEEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def _words() -> list[str]:
    """Single letters, and every word of the pocket world's prompts and of PROMPTS in the tests."""
    lines = (
        (ROOT / "benchmarks" / "prompts" / "geneval-pocket.jsonl").read_text("utf-8").splitlines()
    )
    texts = " ".join(json.loads(line)["prompt"] for line in lines)
    return [
        *LETTERS,
        *sorted(set(re.findall(r"\w\w+", texts.lower())) | {"cat", "cats", "dog", "two"}),
    ]


VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *_words(), *SEEN])}


def words(length: int = 512, padding: str = "right", **named: str) -> PreTrainedTokenizerFast:
    """One token a word, so that the long system messages of language models leave room for a prompt.

    Args:
        length: tokens at most.
        padding: the side of it.
        named: special tokens that a processor asks for by name, such as `bos_token`.
    """
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True)
    made.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens=list(SEEN), chat_template=CHAT, model_max_length=length, padding_side=padding,
        **named,
    )  # fmt: skip


def enlarged(pipeline: Any) -> Any:
    """The pipeline with the tokenizer of words, and its text encoders with as many words and the usual positions."""
    for name, part in dict(pipeline.components).items():
        if not re.fullmatch(r"(prior_)?text_encoder(_\d)?|pe", name) or part is None:
            continue
        config = part.config
        if not hasattr(config, "vocab_size"):
            continue
        config.vocab_size = max(len(VOCABULARY), config.vocab_size)
        length = 512
        if config.model_type == "clip_text_model":
            length = config.max_position_embeddings = max(77, config.max_position_embeddings)
        elif hasattr(config, "max_position_embeddings"):
            length = config.max_position_embeddings = max(512, config.max_position_embeddings)
        made = {name: type(part)(config).eval()}
        reader = {"pe": "pe_tokenizer"}.get(name, name.replace("text_encoder", "tokenizer"))
        if isinstance(getattr(pipeline, reader, None), PreTrainedTokenizerBase):
            made[reader] = words(length)
        pipeline.register_modules(**made)
    if hasattr(pipeline, "prior_pipe"):  # pipelines within it hold the parts of before
        return type(pipeline)(**pipeline.components)
    return pipeline


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
        num_embeddings=77,
    )  # fmt: skip
