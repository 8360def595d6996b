"""Tiny random pipelines of many families: real networks, solvers and pipelines; small encoders; no download."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WIDTH = 32
"""Of every encoder."""
CHAT = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; longer prompts have more tokens."""
    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", "<unk>", *LETTERS])}
    letters = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT,
        model_max_length=16,
        padding_side="right",
    )


def clip(*, projected: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(LETTERS) + 3,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(LETTERS) + 3, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval()


def language_model() -> LlamaModel:
    """Stands for Mistral, Qwen and Gemma: what the network sees of them is hidden states."""
    config = LlamaConfig(
        vocab_size=len(LETTERS) + 3,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=2048,
    )
    return LlamaModel(config).eval()


def with_encoder(kind: Any, transformer: Any, scheduler: Any, text_encoder: Any) -> Any:
    return kind(
        transformer=transformer,
        scheduler=scheduler,
        vae=None,
        text_encoder=text_encoder,
        tokenizer=tokenizer(),
    )


def sd3(scheduler: Any) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=None,
        text_encoder=clip(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(scheduler: Any) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=None,
        text_encoder=clip(projected=False),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
    )


def flux2(scheduler: Any) -> Flux2Pipeline:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    pipeline = with_encoder(Flux2Pipeline, transformer, scheduler, language_model())
    pipeline.system_message = ""  # else 16 letters of it are all the network sees
    return pipeline


def qwen_image(scheduler: Any) -> QwenImagePipeline:
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = with_encoder(QwenImagePipeline, transformer, scheduler, language_model())
    pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx = "{}", 0
    return pipeline


def z_image(scheduler: Any) -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 32, 32],
    )
    return with_encoder(ZImagePipeline, transformer, scheduler, language_model())


def sana(scheduler: Any) -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
    )
    return with_encoder(SanaPipeline, transformer, scheduler, language_model())


def lumina2(scheduler: Any) -> Lumina2Pipeline:
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=8,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(64, 32, 32),
        cap_feat_dim=WIDTH,
    )
    return with_encoder(Lumina2Pipeline, transformer, scheduler, language_model())


def unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **more,
    )


def sd15(scheduler: Any) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=unet(cross_attention_dim=WIDTH),
        scheduler=scheduler,
        vae=None,
        text_encoder=clip(projected=False),
        tokenizer=tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(scheduler: Any) -> StableDiffusionXLPipeline:
    network = unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        unet=network,
        scheduler=scheduler,
        vae=None,
        text_encoder=clip(projected=False),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(),
        add_watermarker=False,
    )


def pixart(scheduler: Any) -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    return with_encoder(PixArtSigmaPipeline, transformer, scheduler, t5())


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NOISE |= {"steps_offset": 1}


def flow_solvers(*, dynamic: bool) -> dict[str, Any]:
    """Solvers of flow models; `dynamic` ones are told their shift by the pipeline."""
    shift = {"use_dynamic_shifting": True} if dynamic else {"shift": 3.0}
    flow = {**FLOW, **({"use_dynamic_shifting": True} if dynamic else {"flow_shift": 3.0})}
    return {
        "Euler": FlowMatchEulerDiscreteScheduler(**shift),
        "Heun": FlowMatchHeunDiscreteScheduler(shift=3.0),
        "DPM++": DPMSolverMultistepScheduler(**flow),
        "UniPC": UniPCMultistepScheduler(**flow),
    }


def noise_solvers(prediction: str = "epsilon") -> dict[str, Any]:
    """Solvers of models that predict the noise."""
    noise = {**NOISE, "prediction_type": prediction}
    return {
        "DDIM": DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=False),
        "Euler": EulerDiscreteScheduler(**noise),
        "DPM++": DPMSolverMultistepScheduler(**noise),
        "UniPC": UniPCMultistepScheduler(**noise),
    }


SIDE = {"height": 32, "width": 32}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "sd3": {**SIDE, "guidance_scale": 1.0, "max_sequence_length": 0},
    "flux": {**SIDE, "guidance_scale": 3.5, "max_sequence_length": 16},
    "flux2": {
        **SIDE,
        "guidance_scale": 4.0,
        "max_sequence_length": 16,
        "text_encoder_out_layers": (1, 2, 3),
    },
    "qwen_image": {**SIDE},
    "z_image": {**SIDE, "guidance_scale": 0.0, "max_sequence_length": 16},
    "sana": {
        "height": 128,
        "width": 128,
        "guidance_scale": 1.0,
        "max_sequence_length": 16,
        "use_resolution_binning": False,
        "complex_human_instruction": None,
    },
    "lumina2": {**SIDE, "guidance_scale": 1.0, "max_sequence_length": 32, "system_prompt": "a"},
    "sd15": {**SIDE, "guidance_scale": 1.0},
    "sdxl": {**SIDE, "guidance_scale": 1.0},
    "pixart": {
        **SIDE,
        "guidance_scale": 1.0,
        "max_sequence_length": 16,
        "use_resolution_binning": False,
    },
}
"""Sampling arguments that switch guidance off, by family."""
NOISE_FAMILIES = ("sd15", "sdxl", "pixart")
DYNAMIC_FAMILIES = ("flux", "flux2", "qwen_image")


def build(family: str, solver: str = "Euler") -> DiffusionPipeline:
    """A pipeline with a solver; the weights are the same each time."""
    if family in NOISE_FAMILIES:
        scheduler = noise_solvers()[solver]
    else:
        scheduler = flow_solvers(dynamic=family in DYNAMIC_FAMILIES)[solver]
    torch.manual_seed(0)
    pipeline = globals()[family](scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: DiffusionPipeline, family: str, prompts: list[str], steps: int = 2, **more: Any
) -> torch.Tensor:
    """Latents of one image a prompt (or more), each from its own generator."""
    count = len(prompts) * more.get("num_images_per_prompt", 1)
    return pipeline(
        prompt=list(prompts),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(i) for i in range(count)],
        output_type="latent",
        **{**ARGUMENTS[family], **more},
    ).images
