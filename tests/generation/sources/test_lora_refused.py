"""LoRAs that do not fit, are damaged, or are none: refused in one line."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nftbench.generation.checkpoint import Allowed, load_model
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.loras import LAYERS, OWN, RANK, in_peft_layout, tensors

pytestmark = pytest.mark.slow


def refusal(path: Path | str, **allowed: bool) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(f"pocket+lora={path}", allowed=Allowed(**allowed))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_partial_fit_is_refused_and_can_be_accepted(tmp_path):
    own = load_file(OWN)
    names = sorted({k.rpartition(".lora_")[0] for k in own})
    odd = {
        k.replace(names[0], "transformer.transformer_blocks.99.attn.to_q"): v
        for k, v in own.items()
    }
    wide = {
        k: v.repeat(1, 2) if k.startswith(names[0]) and "lora_A" in k else v for k, v in own.items()
    }
    for case, state in (("odd", odd), ("wide", wide)):
        save_file(state, tmp_path / f"{case}.safetensors")
        message = refusal(tmp_path / f"{case}.safetensors")
        assert f"{LAYERS - 1} of {LAYERS} layers" in message and "--lora-partial" in message
        taken = load_model(
            f"pocket+lora={tmp_path / case}.safetensors", allowed=Allowed(partial_lora=True)
        )
        assert (taken.loras[0].layers_fitted, taken.loras[0].layers_in_file) == (LAYERS - 1, LAYERS)
    half = {k: v for k, v in own.items() if not (k.startswith(names[3]) and "lora_B" in k)}
    save_file(half | {"transformer.norm.diff": torch.ones(3)}, tmp_path / "half.safetensors")
    assert f"{LAYERS - 1} of {LAYERS} layers, 1 other tensors" in refusal(
        tmp_path / "half.safetensors"
    )


def test_a_foreign_lora_is_refused_even_so(tmp_path):
    foreign = {f"unet.mid.attn.to_q.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    save_file(foreign, tmp_path / "foreign.safetensors")
    assert "none of its layers is in this model" in refusal(
        tmp_path / "foreign.safetensors", partial_lora=True
    )
    save_file({"transformer.proj_out.weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    assert "none of its layers" in refusal(tmp_path / "weights.safetensors", partial_lora=True)


def test_several_files_in_one_folder_are_refused_by_name(tmp_path):
    for name in ("a", "b"):
        shutil.copy(OWN, tmp_path / f"{name}.safetensors")
    assert "2 files of weights (a.safetensors, b.safetensors)" in refusal(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, number):
    own = load_file(OWN)
    name = sorted(own)[5]
    own[name][0, 0] = number
    save_file(own, tmp_path / "bad.safetensors")
    message = refusal(tmp_path / "bad.safetensors", partial_lora=True)
    assert name in message and "not finite" in message


@pytest.mark.parametrize("kind", ["lokr_w1", "hada_w1_a", "dora_scale"])
def test_other_kinds_of_adapters_are_named(tmp_path, kind):
    save_file(
        load_file(OWN) | {f"transformer.x.{kind}": torch.ones(2, 2)}, tmp_path / "o.safetensors"
    )
    assert f"an adapter of another kind ({kind.strip('_')[:4]}" in refusal(
        tmp_path / "o.safetensors"
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "LOHA"}', '{"peft_type": "IA3"}'])
def test_a_peft_configuration_that_is_none(tmp_path, text):
    folder = in_peft_layout(tmp_path / "lora")
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in refusal(folder)


def test_code_in_a_pickle_does_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"a": Bad()}, tmp_path / "adapter_model.bin")
    said = refusal(tmp_path)
    assert "is not a LoRA, or it is damaged" in said and "never run" in said
    assert "weights_only" not in said, "torch's advice is to run it"
    assert not (tmp_path / "touched").exists()


def test_several_adapters_in_one_file_are_refused_by_name(tmp_path):
    """One of them would be taken at random."""
    both = {
        k.replace("_A.", f"_A.{name}.").replace("_B.", f"_B.{name}."): v.clone()
        for k, v in tensors().items()
        for name in ("old", "new")
    }
    save_file(both, tmp_path / "both.safetensors")
    assert "holds several adapters (new, old)" in refusal(tmp_path / "both.safetensors")


def test_a_bias_between_the_factors_is_not_passed_over(tmp_path):
    """peft has no place for it, and says nothing."""
    name = next(n for n in tensors() if n.endswith("lora_A.weight"))
    more = {name.replace("weight", "bias"): torch.ones(RANK)}
    save_file(tensors() | more, tmp_path / "w.safetensors")
    code, said = run_here(tmp_path, "inspect", f"pocket+lora={tmp_path}")
    assert code == 2 and f"{LAYERS} of {LAYERS} layers, 1 other tensors" in said, said
