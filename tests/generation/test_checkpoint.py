"""Any diffusers checkpoint: packaged, folders with parts left out, LoRA, the hub's cache, and what is none."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.generation.checkpoint import load_model, note_of, own_settings, own_suite, packaged
from nftbench.generation.sampling import generate
from nftbench.generation.sources.digest import folder_digest
from nftbench.pocket import networks as parts
from rewards.base import Prompt
from tests.helpers.commands import run_here
from tests.helpers.refused import refusal

PROTOCOL = (
    load_benchmark("geneval-pocket")
    .protocol(num_inference_steps=2, guidance_scale=2.0)
    .filled(own_settings("pocket"))
)
WANTED = samples([Prompt(id="0", text="a photo of a red circle")], 1)
PLAIN = {"height": 64, "width": 64}


# --- pocket ---------------------------------------------------------------------------------------


def test_a_fully_trained_policy_may_leave_out_what_is_its_bases(tmp_path):
    """Its base is a trained policy itself: the parts are those of the checkpoint at the start."""
    transformer, root = Path("pipeline") / "transformer", packaged()["pocket"]
    other = packaged()["pocket-nft-iterated"] / transformer
    shutil.copytree(root, tmp_path / "whole" / "pipeline")
    shutil.copytree(other, tmp_path / "whole" / transformer, dirs_exist_ok=True)
    shutil.copytree(other, tmp_path / "brief" / transformer)
    for name in ("whole", "brief"):
        note = note_of(tmp_path / name, base="pocket-nft-both", base_digest="", method="full")
        (tmp_path / name / "policy.json").write_bytes(note)
    whole, brief = (load_model(str(tmp_path / name)) for name in ("whole", "brief"))
    np.testing.assert_array_equal(*(generate(m.pipeline, WANTED, PROTOCOL) for m in (whole, brief)))
    assert brief.digest == load_model(f"pocket+transformer={other}").digest
    (tmp_path / "brief" / transformer / "config.json").write_text("{}", "utf-8")
    said = refusal(str(tmp_path / "brief"))
    assert "does not hold the weights that the training left" in said


def test_pocket_is_packaged(policy):
    assert isinstance(policy.pipeline, StableDiffusion3Pipeline)
    assert (policy.name, policy.digest) == ("pocket", folder_digest(packaged()["pocket"]))
    assert policy.pipeline.text_encoder_3 is None and own_suite("pocket") == "pocket"
    image = generate(policy.pipeline, WANTED, PROTOCOL)
    assert image.shape == (1, 64, 64, 3) and image.std() > 5


def test_a_copy_is_the_same_checkpoint_under_another_name(policy, copied):
    other = load_model(str(copied))
    assert (other.name, other.digest) == (str(copied), policy.digest)
    assert own_suite(str(copied)) == "pocket"
    made = [generate(p.pipeline, WANTED, PROTOCOL) for p in (policy, other)]
    np.testing.assert_array_equal(*made)


def test_one_byte_changes_the_digest(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    weights = tmp_path / "vae" / "model.safetensors"
    seen = set()
    for content in (b"1234", b"1235", b"12345"):
        weights.write_bytes(content)
        seen.add(folder_digest(tmp_path))
    weights.rename(tmp_path / "vae" / "other.safetensors")
    seen.add(folder_digest(tmp_path))
    before = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("words do not count")
    assert folder_digest(tmp_path) == before and len(seen) == 4 and len(before) == 16


@pytest.mark.slow
def test_what_a_system_drops_into_a_folder_makes_no_other_checkpoint(tmp_path):
    """A run goes on after its checkpoint's folder was looked at in a file manager."""
    shutil.copytree(packaged()["pocket"], tmp_path / "mine")
    command = ("eval", "./mine", "--suite", "ocr-pocket", "--rewards", "jpeg", "--limit", "1")
    for dropped in ((), ("Thumbs.db", "vae/desktop.ini", "vae/.DS_Store", "README", "logo.svg")):
        for name in dropped:
            (tmp_path / "mine" / name).write_text("anything")
        code, said = run_here(tmp_path, *command, "--steps", "1", "--out", "run")
        assert code == 0, said
    (tmp_path / "mine" / "vae" / "readme.model").write_text("may be read")
    code, said = run_here(tmp_path, *command, "--steps", "1", "--out", "run")
    assert code == 2, said


# --- any pipeline ---------------------------------------------------------------------------------


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """SD3 without T5."""
    tokenizer = parts.make_tokenizer()
    encoders = [parts.make_text_encoder(tokenizer, w, 1) for w in parts.TEXT_WIDTHS]
    vae = parts.make_vae()
    vae.register_to_config(shift_factor=0.1)
    return StableDiffusion3Pipeline(
        transformer=parts.make_transformer(),
        scheduler=parts.make_scheduler(),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def small_vae(latents: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=latents,
        shift_factor=0.1,
    )


def clip_encoder(tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=parts.TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def stable_diffusion_1() -> StableDiffusionPipeline:
    """SD 1.5 without the safety checker."""
    tokenizer = parts.make_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
    )
    return StableDiffusionPipeline(
        vae=small_vae(4),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def flux() -> FluxPipeline:
    """FLUX.1 with a guidance embedding, in small; without its image encoder."""
    tokenizer = parts.make_tokenizer()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -1.0)]
    pieces += [(c, -2.0) for c in "abcdefghijklmnopqrstuvwxyz"]
    t5_config = T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return FluxPipeline(
        scheduler=parts.make_scheduler(),
        vae=small_vae(4),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5_config),
        tokenizer_2=T5Tokenizer(vocab=pieces),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
    )


@pytest.mark.parametrize(
    ("build", "absent", "length"),
    [
        (stable_diffusion_3, {"text_encoder_3", "tokenizer_3", "image_encoder"}, 0),
        (stable_diffusion_1, {"safety_checker", "feature_extractor", "image_encoder"}, None),
        (flux, {"image_encoder", "feature_extractor"}, 16),
    ],
    ids=["sd3", "sd1", "flux"],
)
def test_a_pipeline_with_parts_left_out_loads_and_draws(tmp_path, build, absent, length):
    torch.manual_seed(0)
    made = build()
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    made.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text("utf-8"))
    assert {k for k, v in index.items() if v == [None, None]} >= absent
    loaded = load_model(str(tmp_path))
    assert type(loaded.pipeline) is type(made) and own_suite(str(tmp_path)) is None
    protocol = PROTOCOL.model_copy(update={"max_sequence_length": length})
    made.set_progress_bar_config(disable=True)
    images = [generate(p, WANTED, protocol) for p in (made, loaded.pipeline)]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (1, 64, 64, 3)


def test_a_pipeline_that_takes_no_text_is_refused(tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet=unet, scheduler=DDIMScheduler()).save_pretrained(tmp_path)
    assert "holds a DDPMPipeline, which takes no prompt" in refusal(str(tmp_path))


# --- LoRA -----------------------------------------------------------------------------------------


def write_lora(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    transformer = load_model("pocket").pipeline.transformer
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"])
    transformer.add_adapter(config)
    StableDiffusion3Pipeline.save_lora_weights(
        folder, transformer_lora_layers=get_peft_model_state_dict(transformer)
    )
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.slow
def test_a_lora_changes_image_and_digest(tmp_path, policy):
    files = [write_lora(tmp_path / name, seed) for seed, name in enumerate("ab")]
    policies = [policy, *(load_model(f"pocket+lora={f}") for f in (*files, files[0].parent))]
    images = [generate(p.pipeline, WANTED, PROTOCOL).astype(int) for p in policies]
    plain, a, b, folder = (p.digest for p in policies)
    assert len({plain, a, b}) == 3 and a.startswith(f"{plain}+") and folder.startswith(f"{plain}+")
    assert np.abs(images[0] - images[1]).mean() > 0.1 and np.abs(images[1] - images[2]).mean() > 0.1
    np.testing.assert_array_equal(images[1], images[3])
    assert own_suite(f"pocket+lora={files[0]}") == "pocket"
    (files[0].parent / "notes.json").write_text("{}")  # a neighbour is no part of a LoRA file
    assert load_model(f"pocket+lora={files[0]}").digest == a


def test_broken_loras_are_refused(tmp_path):
    whole = write_lora(tmp_path / "whole", 0).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "words": b"no weights"}.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        assert f"{name}.safetensors is not a LoRA" in refusal(
            f"pocket+lora={tmp_path}/{name}.safetensors"
        )
    foreign = {
        "unet.conv.lora_A.weight": torch.ones(2, 8),
        "unet.conv.lora_B.weight": torch.ones(8, 2),
    }
    save_file(foreign, tmp_path / "foreign.safetensors")
    assert "is not a LoRA for StableDiffusion3Pipeline" in refusal(
        f"pocket+lora={tmp_path}/foreign.safetensors"
    )
    (tmp_path / "empty").mkdir()
    assert "is not a LoRA" in refusal(f"pocket+lora={tmp_path / 'empty'}")
    assert "no LoRA at" in refusal(f"pocket+lora={tmp_path / 'none'}")
    assert "+lora=" in refusal("pocket+lora=")


# --- what is no checkpoint ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/such-model", "pokcet", "./none", "a/b/c", "ä ö"])
def test_an_unknown_name_without_the_hub(name):
    message = refusal(name)
    assert f"unknown checkpoint {name!r}" in message and "pocket" in message


def test_an_empty_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "checkpoint" in refusal("")


def test_folders_that_are_none(tmp_path, copied):
    assert "holds no model_index.json" in refusal(str(tmp_path))
    for text, wrong in (("{", "is not valid JSON"), ("[1]", "model_index.json")):
        (tmp_path / "model_index.json").write_text(text)
        assert wrong in refusal(str(tmp_path))
    file = copied / "model_index.json"
    assert str(file) in refusal(str(file))  # a file is no folder either


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign", "shape"])
def test_a_damaged_folder_is_refused(copied, damage):
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    if damage == "gone":
        weights.unlink()
    if damage == "foreign":
        index = copied / "model_index.json"
        index.write_text(index.read_text().replace("SD3Transformer2DModel", "NoSuchModel"))
    if damage == "shape":
        config = copied / "transformer" / "config.json"
        config.write_text(
            config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 2')
        )
    assert f"{copied} does not load as a diffusers pipeline" in refusal(str(copied))


# --- the hub's cache ------------------------------------------------------------------------------


def test_a_cached_model_loads_without_the_hub(tmp_path, monkeypatch, policy):
    commit = "c0ffee" + 34 * "0"
    model = tmp_path / "models--some--pocket"
    shutil.copytree(packaged()["pocket"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load_model("some/pocket")
    assert (loaded.name, loaded.digest) == ("some/pocket", commit)
    made = [generate(p.pipeline, WANTED, PROTOCOL) for p in (policy, loaded)]
    np.testing.assert_array_equal(*made)
