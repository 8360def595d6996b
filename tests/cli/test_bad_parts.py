"""A checkpoint or LoRA of which a part is lost, broken or of another kind: exit 2 and one line that names the file."""

import json
import logging
import shutil
from pathlib import Path

import peft
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from nftbench.generation.checkpoint import load_model, packaged
from nftbench.generation.settings.solvers import configuration_digest
from tests.helpers.commands import run_here
from tests.helpers.models import families

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("home")
    pipeline = families.build("sd15")
    pipeline.save_pretrained(made / "sound", max_shard_size="200KB")
    name, layer = next((n, m) for n, m in pipeline.unet.named_modules() if n.endswith("to_q"))
    factors = {
        f"base_model.model.{name}.lora_A.weight": torch.ones(2, layer.in_features),
        f"base_model.model.{name}.lora_B.weight": torch.ones(layer.out_features, 2),
    }
    (made / "lora").mkdir()
    save_file(factors, made / "lora" / "adapter_model.safetensors")
    (made / "lora" / "adapter_config.json").write_text(json.dumps(CONFIG), "utf-8")
    return made


@pytest.fixture
def copied(home, tmp_path):
    """A sound checkpoint and a sound LoRA, to be broken."""
    return Path(shutil.copytree(home, tmp_path / "home"))


def refused(folder: Path, checkpoint: str) -> str:
    code, said = run_here(folder, "inspect", checkpoint)
    assert code == 2 and "Traceback" not in said, said
    assert said.count("nftbench: ") == 1
    return " ".join(said.split())


def drawn(folder: Path, checkpoint: str) -> str:
    """What is said of an image by a checkpoint: quicker than `inspect`, which counts the memory of a training too."""
    (folder / "p.txt").write_text("a cat\n", "utf-8")
    briefly = ["--prompts", "p.txt", "--rewards", "jpeg", "--size", "64", "--steps", "1"]
    shutil.rmtree(folder / "drawn", ignore_errors=True)
    code, said = run_here(folder, "eval", checkpoint, *briefly, "--out", "drawn")
    assert code == 0, said
    return " ".join(said.split())


def changed_index(folder: Path, **entries: object) -> None:
    path = folder / "sound" / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), "utf-8")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "is not a pipeline of the installed diffusers"),
        ({"_class_name": "FooPipeline"}, "'FooPipeline', which is not a pipeline"),
        ({"_class_name": "logging"}, "is not a pipeline of the installed diffusers"),
        ({"_class_name": None}, "expected a text _class_name, got None"),
        ({"vae": "AutoencoderKL"}, "vae is 'AutoencoderKL'; expected [library, class]"),
        ({"vae": ["diffusers"]}, "expected [library, class]"),
        ({"vae": ["diffusers", "UNet2DConditionModel"]}, "holds other weights than a UNet2D"),
    ],
)
def test_an_index_that_names_what_is_not_there(copied, entries, expected):
    changed_index(copied, **entries)
    assert expected in refused(copied, "sound")


@pytest.mark.parametrize("part", ["vae", "tokenizer", "text_encoder"])
def test_a_part_that_is_null_in_the_index_is_named(copied, part):
    changed_index(copied, **{part: [None, None]})
    assert f"; the checkpoint was saved without {part} (see" in refused(copied, "sound")


@pytest.mark.parametrize("part", ["vae", "tokenizer", "scheduler"])
def test_a_part_without_files(copied, part):
    shutil.rmtree(copied / "sound" / part)
    assert f"holds no files of the part {part!r}" in refused(copied, "sound")


def test_shards_that_are_not_there(copied):
    folder = copied / "sound" / "unet"
    lost = sorted(folder.glob("*-of-*.safetensors"))[-1]
    lost.unlink()
    assert f"lacks {lost.name}" in refused(copied, "sound")


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_what_a_loader_raises_of_its_own_kind_is_one_line(copied, part):
    """A bare `Exception` of tokenizers written in Rust, and `struct.error` of an old pickle's reader."""
    if part == "tokenizer":
        path = copied / "sound" / part / "tokenizer.json"
        known = json.loads(path.read_text("utf-8")) | {"model": {"type": "Foo"}}
        path.write_text(json.dumps(known), "utf-8")
    else:
        for path in (copied / "sound" / part).glob("model*"):
            path.unlink()
        (copied / "sound" / part / "pytorch_model.bin").write_bytes(b"\x80\x02none")
    said = refused(copied, "sound")
    assert (
        "sound does not load as a diffusers pipeline: " in said and "fetch or save it again" in said
    )


def test_what_a_pipeline_raises_of_its_own_kind_is_one_line(copied):
    changed_index(copied, _class_name="StableDiffusionLDM3DPipeline")
    assert "StableDiffusionLDM3DPipeline returned LDM3DPipelineOutput; expected RGB" in refused(
        copied, "sound"
    )


NAME = "final_layer_norm.weight"
"""A weight of the text encoder; its file may have a beginning before it."""


def damaged(folder: Path, part: str, how: str) -> Path:
    """A part whose weights are prefixed, as a wrapper saves them, or of which one is dropped or renamed."""
    for path in sorted((folder / "sound" / part).glob("*.safetensors")):
        state = load_file(path)
        if how == "prefixed":
            state = {f"module.{k}": v for k, v in state.items()}
        for name in [k for k in state if k.endswith((NAME, "conv_in.weight"))]:
            if how == "prefixed":
                continue
            lost = state.pop(name)
            other = {"renamed": f"{name}x", "packed": name.replace("weight", "qweight")}.get(how)
            if other:
                state[other] = lost
        save_file(state, path, {"format": "pt"})
    return folder / "sound" / part


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("how", ["prefixed", "dropped", "renamed"])
def test_a_text_encoder_without_all_its_weights(home, copied, how, elsewhere):
    """Else transformers fills the gap with random numbers: two runs, one digest, other images."""
    part = damaged(copied, "text_encoder", how)
    said = refused(copied, f"{home / 'sound'}+text_encoder={part}" if elsewhere else "sound")
    assert f"nftbench: {part if elsewhere else 'sound/text_encoder'} " in said
    name = "embeddings.position_embedding.weight" if how == "prefixed" else NAME
    instead = {"prefixed": f"such as module.{name}", "renamed": f"{NAME}x;"}
    assert name in said and instead.get(how, "lacks 1 of the CLIPTextModel's") in said


class PackingConfig(QuantizationConfigMixin):
    """Of `Packing`."""

    def __init__(self, **_: object) -> None:
        self.quant_method = "packing"  # pyright: ignore[reportAttributeAccessIssue]


class Packing(HfQuantizer):
    """Takes weights as they lie there, as of a method whose packed weights need no other layers."""

    requires_calibration = True

    def is_serializable(self):
        return True

    @property
    def is_trainable(self):
        return False


@pytest.mark.parametrize("how", ["dropped", "packed"])
def test_a_quantised_text_encoder_without_all_its_weights(copied, how, monkeypatch):
    """Its packed weights have other names than the layer's own; what has none at all is not there."""
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "packing", Packing)
    monkeypatch.setitem(AUTO_QUANTIZATION_CONFIG_MAPPING, "packing", PackingConfig)
    config = copied / "sound" / "text_encoder" / "config.json"
    record = json.loads(config.read_text("utf-8"))
    record["quantization_config"] = {"quant_method": "packing"}
    config.write_text(json.dumps(record), "utf-8")
    damaged(copied, "text_encoder", how)
    if how == "dropped":
        assert f"lacks 1 of the CLIPTextModel's weights, such as {NAME}" in refused(copied, "sound")
    else:
        load_model(str(copied / "sound"))


def test_a_network_put_in_without_all_its_weights_is_named_itself(home, copied):
    part = damaged(copied, "unet", "dropped")
    said = refused(copied, f"{home / 'sound'}+unet={part}")
    assert (
        f"nftbench: {part} lacks weights of the" in said
        and "UNet2DConditionModel, such as conv_in.weight" in said
    )


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_tokenizer_without_its_vocabulary(tmp_path, elsewhere):
    """It read every word as the unknown one: all prompts of as many words were drawn alike, and scored."""
    lost = Path(shutil.copytree(packaged()["pocket"], tmp_path / "lost"))
    (lost / "tokenizer" / "tokenizer.json").unlink()
    said = refused(tmp_path, "pocket+tokenizer=./lost/tokenizer" if elsewhere else "./lost")
    assert "lost/tokenizer lacks the CLIPTokenizer's vocabulary (vocab.json, merges.txt" in said
    assert "save or fetch it again" in said


def test_an_encoder_whose_weights_are_pickled_or_in_shards_is_whole(home, copied):
    folder = copied / "sound" / "text_encoder"
    encoder = CLIPTextModel.from_pretrained(folder)
    for path in folder.glob("model*"):
        path.unlink()
    encoder.save_pretrained(folder, max_shard_size="20KB")
    assert len([*folder.glob("*-of-*.safetensors")]) > 1
    assert drawn(copied, "sound")
    for path in folder.glob("model*"):
        path.unlink()
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    assert drawn(copied, "sound")
    short = {k: v for k, v in encoder.state_dict().items() if not k.endswith(NAME)}
    torch.save(short, folder / "pytorch_model.bin")
    assert "lacks 1 of the CLIPTextModel's weights, such as" in refused(copied, "sound")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("unet/diffusion_pytorch_model.safetensors.index.json", "{}", "expected a weight_map"),
        ("unet/diffusion_pytorch_model.safetensors.index.json", "{", "is not valid"),
        ("unet/config.json", "[1]", "a list, not an object"),
        ("scheduler/scheduler_config.json", "nope", "is not valid"),
    ],
)
def test_a_broken_configuration_is_named(copied, file, text, expected):
    (copied / "sound" / file).write_text(text, "utf-8")
    said = refused(copied, "sound")
    assert file in said and expected in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lora_alpha": "eight"}, "lora_alpha is 'eight'; expected a finite number"),
        ({"lora_alpha": True}, "lora_alpha is 'True'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is 'nan'"),
        ({"alpha_pattern": [1]}, "alpha_pattern is a list"),
        ({"alpha_pattern": {"to_q": "x"}}, "alpha_pattern['to_q'] is 'x'"),
        ({"alpha_pattern": {"(to_q": 2}}, "'(to_q' is not a regular expression"),
        ({"init_lora_weights": "pissa"}, "also changes the base (init_lora_weights='pissa'); save"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changes the base"),
        ({"init_lora_weights": "OLoRA"}, "also changes the base"),
        ({"init_lora_weights": "corda"}, "also changes the base"),
        ({"init_lora_weights": "loftq"}, "also changes the base"),
        ({"init_lora_weights": "lora_ga"}, "path_initial_model_for_weight_conversion"),
        ({"use_dora": True}, "says use_dora, but it holds no lora_magnitude_vector"),
        ({"lora_bias": True}, "says lora_bias, but it holds no lora_B.bias"),
        ({"modules_to_save": ["conv_in"]}, "says modules_to_save, but it holds no conv_in"),
        ({"use_rslora": "false"}, "use_rslora is 'false'; expected true or false"),
        ({"lora_alpha": 1e308}, "lora_alpha is '1e+308'; expected a finite number"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config makes it another adapter than a LoRA"),
    ],
)
def test_a_lora_whose_strength_cannot_be_read(copied, change, expected):
    (copied / "lora" / "adapter_config.json").write_text(json.dumps(CONFIG | change), "utf-8")
    assert expected in refused(copied, "sound+lora=lora")


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_a_lora_whose_beginning_left_the_base_alone(copied, init):
    config = CONFIG | {"init_lora_weights": init}
    (copied / "lora" / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    assert load_model(f"{copied / 'sound'}+lora={copied / 'lora'}").loras[0].layers_fitted == 1


def test_a_lora_with_its_configuration_in_the_header_that_changes_the_base(copied):
    header = {"unet.r": 2, "unet.lora_alpha": 4, "unet.init_lora_weights": "olora"}
    factors = load_file(copied / "lora" / "adapter_model.safetensors")
    said = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(header)}
    named = {k.replace("base_model.model", "unet"): v for k, v in factors.items()}
    save_file(named, copied / "h.safetensors", said)
    assert "init_lora_weights='olora'" in refused(copied, "sound+lora=h.safetensors")


def test_a_dora_of_which_one_layer_lost_its_magnitudes(copied):
    unet = families.build("sd15").unet
    config = peft.LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    peft.get_peft_model(unet, config).save_pretrained(copied / "dora")
    path = copied / "dora" / "adapter_model.safetensors"
    factors = load_file(path)
    factors.pop(next(name for name in factors if "magnitude" in name))
    save_file(factors, path)
    assert "dora lacks the lora_magnitude_vector of " in refused(copied, "sound+lora=dora")


def test_a_lora_of_whole_numbers_and_a_scale_that_is_none(copied):
    assert "its scale 'half' is not a number" in refused(copied, "sound+lora=./lora@half")
    save_file(
        {"unet.a.lora_A.weight": torch.ones(2, 2, dtype=torch.int32)}, copied / "i.safetensors"
    )
    assert "numbers of type int32; expected floats" in refused(copied, "sound+lora=i.safetensors")


def test_a_lora_that_is_nowhere(copied):
    said = refused(copied, "sound+lora=no/such.safetensors")
    assert "no LoRA at no/such.safetensors: no such file or folder, and the hub" in said


# --- parts of other families ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdxl(home) -> Path:
    families.build("sdxl").save_pretrained(home / "sdxl")
    return home / "sdxl"


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_part_of_another_family_is_refused_by_what_it_differs_in(home, sdxl, tmp_path, part):
    source = sdxl / {"unet": "unet", "text_encoder": "text_encoder_2"}[part]
    if part == "text_encoder":  # of another class there; a wide one of this pipeline's class
        source = tmp_path / "wide"
        wide = CLIPTextModel(
            CLIPTextConfig(hidden_size=48, num_attention_heads=2, num_hidden_layers=1)
        )
        wide.save_pretrained(source)
    said = refused(home, f"sound+{part}={source}")
    assert f"+{part}={source} is configured otherwise than the pipeline's own part: " in said
    named = {
        "unet": "addition_embed_type 'text_time' (own None), ",
        "text_encoder": "hidden_size 48",
    }
    assert named[part] in said and "expected a part of this pipeline's family" in said


def test_a_solver_that_is_put_in_is_of_the_class_that_it_was_saved_by(home, copied):
    """Not of the pipeline's own, which would take of its settings what it knows and draw otherwise."""
    settled = {"steps_offset": 1, "clip_sample": False}  # as Stable Diffusion's pipeline sets them
    solver = DDIMScheduler(prediction_type="v_prediction", **settled)
    solver.save_pretrained(copied / "sound" / "scheduler")
    expected = f"DDIMScheduler:{configuration_digest(solver)}"
    for source in ("sound", "sound/scheduler"):
        assert expected in drawn(copied, f"{home / 'sound'}+scheduler={source}")
    said = refused(copied, f"{home / 'sound'}+scheduler=sound/unet")
    assert "holds a UNet2DConditionModel; expected a EulerDiscreteScheduler" in said


def test_a_part_of_another_depth_is_drawn_with(home, tmp_path):
    unet = families.build("sd15").unet
    config = {**unet.config, "layers_per_block": unet.config["layers_per_block"] + 1}
    type(unet).from_config(config).save_pretrained(tmp_path / "deep")
    assert drawn(tmp_path, f"{home / 'sound'}+unet=deep")


def test_memory_that_does_not_do_for_loading_is_one_line(monkeypatch, tmp_path):
    """What CUDA says when a network does not fit; there is no batch to halve then."""

    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    code, said = run_here(
        tmp_path, "eval", "pocket", "--suite", "geneval-pocket", "--limit", "2",
        "--rewards", "pickscore@pocket",
    )  # fmt: skip
    assert code == 2 and "Traceback" not in said
    assert "nftbench: out of memory: CUDA out of memory; take fewer --rewards" in said


def test_a_lora_file_with_two_adapters_is_refused(copied):
    file = copied / "lora" / "adapter_model.safetensors"
    factors = load_file(file)
    second = {name.removeprefix("base_model.model."): 2 * t for name, t in factors.items()}
    save_file(factors | second, file)
    assert "in part only: 1 of 2 layers" in refused(copied, "sound+lora=lora")


def test_a_part_that_is_put_in_is_not_said_to_be_quantised(copied):
    said = refused(copied, "sound+unet=sound/unet+quantize=nf4")
    assert "quantises the pipeline's own unet, not +unet=sound/unet" in said


def test_nothing_stands_before_the_line_about_missing_weights(copied, monkeypatch):
    """Not transformers' own report of them, a table of several lines."""
    printed: list[str] = []
    reporter = logging.getLogger("transformers.modeling_utils")
    monkeypatch.setattr(
        reporter, "callHandlers", lambda record: printed.append(record.getMessage())
    )
    file = copied / "sound" / "text_encoder" / "model.safetensors"
    names = dict(sorted(load_file(file).items())[1:])
    save_file(names, file, metadata={"format": "pt"})
    assert "lacks 1 of the CLIPTextModel's weights" in refused(copied, "sound")
    assert printed == []
