"""Files that hold more than the network takes, or say of it what its configuration does not: never drawn in silence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from nftbench.generation.sources.packaged import packaged
from tests.helpers.commands import run_here
from tests.helpers.models import families, original_layout

POCKET = packaged()["pocket"]
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
BRIEFLY = ["--prompts", "p.txt", "--rewards", "jpeg", "--size", "64", "--steps", "2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("home")
    families.build("sd15").save_pretrained(made / "sd15")
    original_layout.write(POCKET, made / "pocket.safetensors")
    (made / "p.txt").write_text("a cat\n", "utf-8")
    return made


def evaluated(home: Path, checkpoint: str, *more: str) -> tuple[int, str]:
    shutil.rmtree(home / "run", ignore_errors=True)
    code, said = run_here(home, "eval", checkpoint, *BRIEFLY, "--out", "run", *more)
    assert "Traceback" not in said, said
    return code, " ".join(said.split())


def pixels(home: Path) -> list[bytes]:
    found = [p.read_bytes() for p in sorted((home / "run").rglob("*.png"))]
    assert found
    return found


def copied(home: Path, name: str) -> Path:
    shutil.rmtree(home / name, ignore_errors=True)
    return Path(shutil.copytree(home / "sd15", home / name))


# --- 8 bits ---------------------------------------------------------------------------------------


def in_8_bits(tensors: dict[str, torch.Tensor], of: str, scale: str) -> dict[str, torch.Tensor]:
    """Weights of some layers as float8 over a scale of their own, as image programs save them."""
    made = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(of):
            largest = (tensor.abs().max() / 448).reshape(1)
            made[name] = (tensor / largest).to(torch.float8_e4m3fn)
            made[name.removesuffix("weight") + scale] = largest
    return made


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", "weight.absmax"])
def test_scales_of_8_bit_weights_are_not_left_out(home, scale):
    whole = in_8_bits(load_file(home / "pocket.safetensors"), "attn.proj.weight", scale)
    save_file(whole, home / "scaled.safetensors")
    prefix = "model.diffusion_model."
    network = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
    save_file(network, home / "network.safetensors")
    folder = copied(home, "folder")
    save_file(in_8_bits(load_file(folder / UNET), "to_q.weight", scale), folder / UNET)
    for checkpoint in (
        f"scaled.safetensors+config={POCKET}", "pocket+transformer=network.safetensors", "folder", "sd15+unet=folder",
    ):  # fmt: skip
        code, said = evaluated(home, checkpoint)
        assert code == 2 and scale in said and "16 or 32 bits" in said, said
        assert not (home / "run").exists()


def test_8_bit_weights_without_scales_are_drawn(home):
    plain = load_file(home / "sd15" / UNET)
    small = {k: v.to(torch.float8_e4m3fn) if v.ndim > 1 else v for k, v in plain.items()}
    save_file(small, home / "small.safetensors")
    code, said = evaluated(home, "sd15+unet=small.safetensors")
    assert code == 0, said


# --- weights without a place ----------------------------------------------------------------------


def test_layers_that_a_configuration_cuts_off_are_said(home):
    folder = copied(home, "short")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    for checkpoint in ("short", "sd15+text_encoder=short"):
        code, said = evaluated(home, checkpoint)
        assert code == 0 and "holds 16 weights that its CLIPTextModel" in said, said
        assert "encoder.layers.1." in said and "drawn without them" in said
    assert "drawn without" not in evaluated(home, "sd15")[1]


def test_weights_of_one_file_without_a_place_are_said(home):
    whole = load_file(home / "pocket.safetensors")
    block = "model.diffusion_model.joint_blocks.0.x_block.attn"
    second = {
        k.replace(".attn.", ".attn2."): v.clone()
        for k, v in whole.items()
        if k.startswith(f"{block}.")
    }
    save_file(whole | second, home / "dual.safetensors")
    code, said = evaluated(home, f"dual.safetensors+config={POCKET}")
    assert code == 0 and "attn2" in said and "drawn without them" in said, said
    assert "drawn without" not in evaluated(home, f"pocket.safetensors+config={POCKET}")[1]


# --- what a network predicts ----------------------------------------------------------------------


def test_a_file_that_says_v_is_drawn_by_v(home):
    tensors = load_file(home / "sd15" / UNET)
    save_file(tensors, home / "v.safetensors", {"modelspec.prediction_type": "v"})
    code, said = evaluated(home, "sd15+unet=v.safetensors")
    assert code == 0 and "v.safetensors says that its network predicts v" in said, said
    drawn = pixels(home)
    path = copied(home, "own_v") / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    evaluated(home, "own_v")
    assert drawn == pixels(home)


def test_a_solver_that_was_asked_for_stays_as_it_is(home):
    tensors = load_file(home / "sd15" / UNET)
    save_file(tensors, home / "v.safetensors", {"modelspec.prediction_type": "v"})
    save_file(tensors, home / "noise.safetensors", {"modelspec.prediction_type": "epsilon"})
    seen = []
    for checkpoint in ("sd15+unet=v.safetensors+scheduler=sd15", "sd15+unet=noise.safetensors"):
        code, said = evaluated(home, checkpoint)
        assert code == 0 and "predicts v" not in said, said
        seen.append(pixels(home))
    assert seen[0] == seen[1]


def test_a_solver_for_another_prediction_is_said(home):
    DDIMScheduler().save_pretrained(home / "ddim")
    FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(home / "flow")
    code, said = evaluated(home, "pocket+scheduler=ddim")
    assert code == 0, said
    assert "+scheduler=ddim takes what the network predicts for epsilon" in said
    assert "the checkpoint's own solver for flow_prediction" in said
    for checkpoint in ("pocket+scheduler=flow", "sd15+scheduler=ddim"):
        code, said = evaluated(home, checkpoint)
        assert code == 0 and "takes what the network" not in said, said
