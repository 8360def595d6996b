"""What is no text-to-image checkpoint, or a broken one, by the real command: exit 2 and one line that says which."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from tests.helpers.commands import run_here
from tests.helpers.models import families, tiny
from tests.helpers.models.families.parts import words
from tests.helpers.paths import ROOT

PLAIN = ("--suite", "geneval-pocket", "--limit", "2", "--rewards", "jpeg", "--steps", "2")
PLAIN += ("--size", "64")
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def video() -> diffusers.WanPipeline:
    encoder = UMT5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return diffusers.WanPipeline(
        tokenizer=words(64),
        text_encoder=UMT5EncoderModel(encoder),
        transformer=diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=32, freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=64,
        ),
        vae=diffusers.AutoencoderKLWan(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        scheduler=diffusers.UniPCMultistepScheduler(**flow),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("checkpoints")
    sound = families.build("sd15")
    sound.save_pretrained(made / "sound")
    for name in ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"):
        kind = getattr(diffusers, name)
        kind(**sound.components, requires_safety_checker=False).save_pretrained(made / name)
    tiny.language_model().save_pretrained(made / "llm")
    return made


def refused(folder: Path, *arguments: str) -> str:
    code, said = run_here(folder, *arguments)
    assert code == 2 and "Traceback" not in said, said
    assert said.count("nftbench: ") == 1 and not (folder / "runs").exists()
    return " ".join(said.split())


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_a_pipeline_that_changes_images(folder, name):
    assert "begins with an image or a video" in refused(folder, "eval", name, *PLAIN)


@pytest.mark.slow
def test_a_video_pipeline(folder):
    video().save_pretrained(folder / "video")
    said = refused(folder, "eval", "video", *PLAIN)
    assert "WanPipeline returned a video" in said or "begins with an image" in said


def test_a_language_model(folder):
    said = refused(folder, "inspect", "llm")
    assert "holds no model_index.json but a LlamaModel, which is one network alone" in said


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff" * 99 + b[99:]])
def test_damaged_weights(folder, damage):
    path = folder / "sound" / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        said = refused(folder, "eval", "sound", *PLAIN)
    finally:
        path.write_bytes(whole)
    assert WEIGHTS.name in said and "fetch or save it again" in said


def test_a_lora_of_another_family(folder):
    lora = ROOT / "nftbench" / "pocket" / "weights" / "pocket-nft" / "lora"
    said = refused(folder, "eval", f"sound+lora={lora}", *PLAIN)
    assert "is not a LoRA for StableDiffusionPipeline: none of its layers" in said


@pytest.mark.parametrize(("name", "coding"), [("u16.txt", "utf-16"), ("latin.txt", "latin-1")])
def test_prompts_in_another_encoding(folder, name, coding):
    (folder / name).write_text("ein Bär\n", coding)
    said = refused(folder, "eval", "sound", "--prompts", name, "--rewards", "jpeg")
    assert f"{name}: not UTF-8 text" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('benchmarks = ["geneval-poket"]', "did you mean 'geneval-pocket'"),
        ('benchmark = ["geneval-pocket"]', "did you mean 'benchmarks'?"),
        ('benchmarks = ["geneval-pocket"', "mine.toml: "),
    ],
)
def test_a_suite_with_a_typo(folder, text, said):
    (folder / "mine.toml").write_text(f'name = "mine"\ntitle = "mine"\n{text}\n', "utf-8")
    assert said in refused(folder, "eval", "sound", "--suite", "mine.toml")


@pytest.mark.parametrize(
    ("checkpoint", "more", "expected"),
    [
        ("alien.safetensors", ("--config", "sound"), "does not load as a diffusers pipeline"),
        ("alien.safetensors", ("--config", "pocket"), "diffusers pipeline: IndexError"),
        ("alien.safetensors", ("--config", "sound"), "one network alone goes behind +unet= or"),
        ("alien.safetensors", ("--config", "nowhere"), "no such folder, and not owner/name"),
        ("alien.safetensors", ("--config", "empty"), "empty holds no model_index.json"),
        ("alien.safetensors", (), "cannot tell what"),
        ("sound", ("--config", "sound"), "has a configuration of its own; leave out --config"),
        ("pocket", ("--config", "sound"), "has a configuration of its own"),
        ("owner/name@main:../up", (), "unknown checkpoint 'owner/name@main:../up'"),
        ("owner/name@..", (), "unknown checkpoint"),
        ("owner/name:a/../../b", (), "unknown checkpoint"),
        ("api:nonsense#m", (), "or an image service, api:URL#MODEL"),
        ("api:http://127.0.0.1:9/v1", (), "expected api:URL#MODEL"),
    ],
)
def test_a_place_or_a_configuration_that_does_not_fit(folder, checkpoint, more, expected):
    (folder / "empty").mkdir(exist_ok=True)
    save_file({"a.weight": torch.zeros(2, 2)}, folder / "alien.safetensors")
    assert expected in refused(folder, "eval", checkpoint, *more, *PLAIN)
