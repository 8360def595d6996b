"""How checkpoints travel: variants, shards, parts saved alone, one file, code of their own, quantised."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.generation.checkpoint import Allowed, load_model, packaged
from nftbench.generation.sampling import generate
from rewards.base import MissingExtra, Prompt
from tests.helpers.models import original_layout
from tests.helpers.refused import refusal

PROTOCOL = load_benchmark("geneval-pocket").protocol(num_inference_steps=2, guidance_scale=2.0)
WANTED = samples([Prompt(id="0", text="a photo of a red circle")], 1)
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def pixels(policy):
    return generate(policy.pipeline, WANTED, PROTOCOL)


def drawn(checkpoint: str) -> np.ndarray:
    return generate(load_model(checkpoint).pipeline, WANTED, PROTOCOL)


# --- variants and shards --------------------------------------------------------------------------


def as_variant(folder: Path, variant: str, *, keep: bool = False) -> None:
    """The weights of every part under a variant's name."""
    for path in [*folder.glob("*/*.safetensors")]:
        other = path.with_name(f"{path.stem}.{variant}.safetensors")
        shutil.copy(path, other) if keep else path.rename(other)


def test_a_folder_with_one_variant_alone_loads_and_says_so(copied, pixels):
    as_variant(copied, "fp16")
    model = load_model(str(copied))
    assert model.said == ["weights of variant fp16"]
    np.testing.assert_array_equal(generate(model.pipeline, WANTED, PROTOCOL), pixels)


def test_of_several_variants_the_user_chooses(copied):
    as_variant(copied, "fp16", keep=True)
    assert load_model(str(copied)).notes == ()  # plain weights are there
    assert load_model(f"{copied}+variant=fp16").notes == ("weights of variant fp16",)
    assert "there are fp16" in refusal(f"{copied}+variant=bf16")
    for path in [*copied.glob("*/*.fp16.safetensors")]:
        path.with_name(path.name.replace(".fp16", "")).rename(
            path.with_name(path.name.replace("fp16", "bf16"))
        )
    assert "bf16, fp16" in refusal(str(copied)) and "+variant=" in refusal(str(copied))


def test_shards_load(copied, pixels):
    folder = copied / "transformer"
    SD3Transformer2DModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="200KB")
    (folder / f"{WEIGHTS}.safetensors").unlink()
    assert len([*folder.glob("*-of-*.safetensors")]) > 1
    np.testing.assert_array_equal(drawn(str(copied)), pixels)


# --- parts and files ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_transformer_saved_alone(copied, pixels, tmp_path):
    weights = copied / "transformer" / f"{WEIGHTS}.safetensors"
    other = {k: v * 1.05 for k, v in load_file(weights).items()}
    save_file(other, weights)
    for place in (copied, copied / "transformer"):
        model = load_model(f"pocket+transformer={place}")
        assert (generate(model.pipeline, WANTED, PROTOCOL) != pixels).any()
    whole = generate(load_model(str(copied)).pipeline, WANTED, PROTOCOL)
    np.testing.assert_array_equal(generate(model.pipeline, WANTED, PROTOCOL), whole)
    assert model.digest.startswith("1aa2f57cb70071b8+transformer:")
    assert "no part 'unet'" in refusal(f"pocket+unet={copied}")
    assert "no part 'lroa'" in refusal(f"pocket+lroa={copied}")
    assert "expected a SD3Transformer2DModel" in refusal(f"pocket+transformer={copied / 'vae'}")
    assert "no such file or folder" in refusal("pocket+transformer=./none")
    weights.rename(weights.with_name(f"{WEIGHTS}.fp16.safetensors"))  # the only set there is
    half = load_model(f"pocket+transformer={copied / 'transformer'}")
    np.testing.assert_array_equal(generate(half.pipeline, WANTED, PROTOCOL), whole)


def test_one_file_in_the_original_layout_is_pocket(pixels, tmp_path):
    file = tmp_path / "pocket.safetensors"
    original_layout.write(packaged()["pocket"], file)
    model = load_model(f"{file}+config={packaged()['pocket']}")
    np.testing.assert_array_equal(generate(model.pipeline, WANTED, PROTOCOL), pixels)
    assert "--config" in refusal(str(file))
    (tmp_path / "words.safetensors").write_text("no weights")
    assert "words.safetensors" in refusal(f"{tmp_path}/words.safetensors+config=pocket")


# --- code, quantised ------------------------------------------------------------------------------


def test_code_of_a_checkpoint_does_not_run_unasked(copied):
    (copied / "evil.py").write_text("raise SystemExit('it ran')")
    index = copied / "model_index.json"
    custom = json.loads(index.read_text()) | {"_class_name": ["evil", "Evil"]}
    index.write_text(json.dumps(custom))
    message = refusal(str(copied))
    assert "--trust-remote-code" in message and "evil.py" in message
    with pytest.raises(SystemExit, match="it ran"):
        load_model(str(copied), allowed=Allowed(remote_code=True))


def test_code_named_by_a_part_does_not_run_unasked(copied):
    config = copied / "text_encoder" / "config.json"
    mapped = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}
    config.write_text(json.dumps(mapped))
    assert "text_encoder/config.json" in refusal(str(copied))


def test_quantisation_is_there_or_one_line(monkeypatch):
    assert "expected nf4 or int8" in refusal("pocket+quantize=int3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for scheme, package in (("nf4", "bitsandbytes"), ("int8", "torchao")):
        with pytest.raises(MissingExtra, match=rf"pip install 'nftbench\[{package}\]'"):
            load_model(f"pocket+quantize={scheme}")


def test_a_folder_quantised_by_a_missing_package_is_one_line(copied):
    config = copied / "transformer" / "config.json"
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": how}))
    if torch.cuda.is_available():
        pytest.skip("may load on a GPU")
    assert str(copied) in refusal(str(copied))


def test_pickled_weights_load_and_count(copied, pixels):
    folder = copied / "transformer"
    safe = folder / f"{WEIGHTS}.safetensors"
    torch.save(load_file(safe), folder / f"{WEIGHTS}.bin")
    before = load_model(str(copied)).digest
    safe.unlink()
    model = load_model(str(copied))
    np.testing.assert_array_equal(generate(model.pipeline, WANTED, PROTOCOL), pixels)
    assert model.digest != before


def test_weights_that_are_not_all_there_are_refused(copied):
    """Else a library fills the gap with random numbers."""
    weights = copied / "transformer" / f"{WEIGHTS}.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if k != "proj_out.weight"}, weights)
    assert "proj_out.weight" in refusal(str(copied))
