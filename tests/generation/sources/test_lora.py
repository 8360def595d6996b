"""LoRAs in the layouts that people publish and in ours, on the real networks: what is in them is loaded."""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nftbench.generation.checkpoint import load_model, packaged
from nftbench.generation.sampling import generate
from nftbench.generation.sources.lora import merge_loras
from nftbench.generation.sources.lora_files import layers_of, read_lora
from nftbench.generation.sources.reference import parse
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.loras import (
    ALPHA,
    LAYERS,
    OWN,
    PROTOCOL,
    RANK,
    WANTED,
    drawn,
    in_kohya_layout,
    in_peft_layout,
    tensors,
)
from tests.helpers.models import families

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> np.ndarray:
    """Pixels of pocket-nft, which loads its LoRA in diffusers' layout."""
    return drawn("pocket-nft")


# --- layouts --------------------------------------------------------------------------------------


def test_pocket_nft_in_every_layout_is_pocket_nft_byte_for_byte(tmp_path, trained):
    in_peft_layout(tmp_path / "checkpoint-60" / "lora")
    in_kohya_layout(tmp_path / "kohya.safetensors", alpha=float(ALPHA))
    in_kohya_layout(tmp_path / "lycoris.safetensors", "lycoris_", alpha=float(ALPHA))
    for name in ("checkpoint-60", "checkpoint-60/lora", "kohya.safetensors", "lycoris.safetensors"):
        np.testing.assert_array_equal(drawn(f"pocket+lora={tmp_path / name}"), trained)
    np.testing.assert_array_equal(drawn(f"pocket+lora={OWN}"), trained)
    np.testing.assert_array_equal(drawn(f"pocket+lora={packaged()['pocket-nft']}"), trained)


def test_pickled_weights_load_and_count_in_the_digest(tmp_path, trained):
    folders = [in_peft_layout(tmp_path / name) for name in "ab"]
    for folder, factor in zip(folders, (1.0, 1.5), strict=True):
        safe = folder / "adapter_model.safetensors"
        torch.save(
            {k: v * factor for k, v in load_file(safe).items()}, folder / "adapter_model.bin"
        )
        safe.unlink()
    a, b = (load_model(f"pocket+lora={folder}") for folder in folders)
    assert a.digest != b.digest
    np.testing.assert_array_equal(generate(a.pipeline, WANTED, PROTOCOL), trained)


def test_the_peft_configuration_is_part_of_the_digest(tmp_path):
    digests = {
        load_model(f"pocket+lora={in_peft_layout(tmp_path / str(alpha), lora_alpha=alpha)}").digest
        for alpha in (32, 64)
    }
    assert len(digests) == 2


def test_rslora_has_its_own_scale(tmp_path):
    """alpha / sqrt(rank): with alpha = 32 / sqrt(16) it is what alpha = 32 is without."""
    plain = in_peft_layout(tmp_path / "plain")
    other = in_peft_layout(tmp_path / "rs", use_rslora=True, lora_alpha=ALPHA / RANK**0.5)
    norms = [load_model(f"pocket+lora={f}").loras[0].norm for f in (plain, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


# --- reports --------------------------------------------------------------------------------------


def test_a_report_says_what_was_loaded(tmp_path):
    report = load_model("pocket-nft").loras[0]
    assert (report.layers_fitted, report.layers_in_file) == (LAYERS, LAYERS)
    assert (report.ranks, report.alphas, report.scale) == ((RANK,), (ALPHA,), 1.0)
    assert report.parts == {"transformer": LAYERS}
    change = 0.0
    for name, down in tensors().items():
        if ".lora_A." in name:
            up = tensors()[name.replace(".lora_A.", ".lora_B.")]
            change += float((ALPHA / RANK * up.double() @ down.double()).square().sum())
    assert report.norm == pytest.approx(change**0.5, rel=1e-9)
    assert f"{LAYERS} of {LAYERS} layers fitted" in str(report) and "alpha 32" in str(report)


def test_a_lora_without_alpha_is_said_and_taken_at_alpha_equal_to_rank(tmp_path, trained):
    bare = in_kohya_layout(tmp_path / "bare.safetensors")
    model = load_model(f"pocket+lora={bare}")
    assert model.loras[0].alphas == () and "no alpha in the file" in model.said[0]
    np.testing.assert_array_equal(drawn(f"pocket+lora={bare}@2"), trained)  # 32 / 16


@pytest.mark.parametrize("rslora", [False, True])
def test_a_configuration_without_alpha_is_taken_as_peft_takes_it(tmp_path, rslora):
    """Layer by layer the same change as plain peft's, of a LoRA that peft saved; and it is said."""
    network = load_model("pocket").pipeline.transformer
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["to_q"], use_rslora=rslora)
    config.init_lora_weights = False
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "lora")
    written = tmp_path / "lora" / "adapter_config.json"
    fields = json.loads(written.read_text())
    del fields["lora_alpha"]
    written.write_text(json.dumps(fields))
    model = load_model(f"pocket+lora={tmp_path / 'lora'}")
    base = load_model("pocket").pipeline.transformer
    plain = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora")).base_model.model
    deltas = [
        {n: m.get_delta_weight(*m.active_adapters) for n, m in net.named_modules() if is_tuned(m)}
        for net in (model.pipeline.transformer, plain)
    ]
    assert deltas[0].keys() == deltas[1].keys() and deltas[0]
    assert all(torch.equal(deltas[0][name], change) for name, change in deltas[1].items())
    assert "no lora_alpha in its configuration (peft's 8 taken)" in model.said[-1]


def is_tuned(module: torch.nn.Module) -> bool:
    return isinstance(module, peft.tuners.lora.LoraLayer)


def test_the_command_line_says_that_peft_s_alpha_is_taken(tmp_path):
    folder = in_peft_layout(tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "p.txt").write_text("a photo of a red circle\n")
    briefly = ["--prompts", "p.txt", "--rewards", "jpeg", "--steps", "1"]
    code, said = run_here(tmp_path, "eval", f"pocket+lora={folder}", *briefly)
    assert code == 0 and "(peft's 8 taken)" in " ".join(said.split())


def test_a_run_drawn_at_another_strength_is_not_gone_on_with(tmp_path):
    """As one of before peft's alpha was taken; the LoRA's files, and so the digest, are the same."""
    (tmp_path / "p.txt").write_text("a photo of a red circle\n")
    asked = ["eval", f"pocket+lora={OWN}", "--prompts", "p.txt", "--rewards", "jpeg"]
    asked += ["--steps", "1"]
    for _ in range(2):
        code, said = run_here(tmp_path, *asked, "--out", "run")
        assert code == 0, said
    run = Run(tmp_path / "run")
    manifest = run.manifest
    manifest["loras"][0]["norm"] *= 2
    run.save_manifest(manifest)
    code, said = run_here(tmp_path, *asked, "--out", "run")
    assert code == 2 and "taken at another strength; choose another --out" in said


def test_scales_add_up(tmp_path, trained):
    """Half and half is the whole, up to float32's rounding in the order of sums."""
    halves = drawn(f"pocket+lora={OWN}@0.5+lora={packaged()['pocket-nft']}@0.5")
    assert np.abs(halves.astype(int) - trained.astype(int)).max() <= 1
    model = load_model(f"pocket+lora={OWN}@0.5+lora={OWN}@-0.25")
    assert [r.scale for r in model.loras] == [0.5, -0.25]
    assert model.loras[0].norm == pytest.approx(2 * model.loras[1].norm)
    assert model.digest.count("@") == 2
    np.testing.assert_array_equal(drawn(f"pocket+lora={OWN}@0"), drawn("pocket"))


def test_a_lora_that_is_in_the_checkpoint_already_is_refused(tmp_path):
    """By its weights, wherever they lie; its strength is a scale beside the base."""
    shutil.copy(OWN, tmp_path / "mine.safetensors")
    for again in ("pocket-nft", "mine.safetensors@0.5"):
        code, said = run_here(tmp_path, "eval", f"pocket-nft+lora={again}", "--out", "run")
        assert code == 2 and "pocket-nft has the LoRA" in said and "in it already" in said
        assert "name the base: pocket+lora=" in said
        assert not (tmp_path / "run").exists()


def test_a_packaged_lora_is_meant_by_its_name_as_it_is_alone(tmp_path, monkeypatch):
    """From any folder, with a scale as anyone writes numbers; what is packaged and no LoRA is none."""
    monkeypatch.chdir(tmp_path)
    one, two = (load_model(f"pocket+lora={n}") for n in ("pocket-nft", packaged()["pocket-nft"]))
    assert one.loras[0].digest == two.loras[0].digest
    assert load_model("pocket+lora=pocket-nft@5e-1").loras[0].scale == 0.5
    with pytest.raises(ConfigError, match=r"did you mean 'pocket-nft'\?"):
        load_model("pocket+lora=pocket-nf")
    with pytest.raises(ConfigError, match="is not a LoRA"):
        load_model("pocket+lora=pocket-nft-attributes")


def test_text_encoder_parts_are_kept(tmp_path):
    encoder = load_model("pocket").pipeline.text_encoder
    name = next(n for n, m in encoder.named_modules() if n.endswith("q_proj"))
    width = encoder.get_submodule(name).in_features
    torch.manual_seed(0)
    both = {f"transformer.{k}": v for k, v in tensors().items()}
    for raw in (name, f"text_model.{name.removeprefix('text_model.')}"):
        both |= {
            f"text_encoder.{raw}.lora_A.weight": torch.randn(4, width),
            f"text_encoder.{raw}.lora_B.weight": torch.randn(width, 4),
        }
        save_file(both, tmp_path / "both.safetensors")
        model = load_model(f"pocket+lora={tmp_path / 'both.safetensors'}")
        assert model.loras[0].parts == {"transformer": LAYERS, "text_encoder": 1}
        assert model.loras[0].ranks == (4, RANK)
        both = {k: v for k, v in both.items() if not k.startswith("text_encoder")}
    alone = drawn(f"pocket+lora={OWN}@0.5")
    assert (generate(model.pipeline, WANTED, PROTOCOL) != alone).any()


def test_merged_loras_draw_the_same(trained):
    model = load_model("pocket-nft")
    assert merge_loras(model.pipeline) and not merge_loras(model.pipeline)
    merged = generate(model.pipeline, WANTED, PROTOCOL)
    assert np.abs(merged.astype(int) - trained.astype(int)).max() <= 1
    assert not any("lora" in name for name in model.pipeline.transformer.state_dict())


@pytest.mark.parametrize("more", ["lora_B.bias", "lora_magnitude_vector"])
@pytest.mark.parametrize("factors", [0.0, 1.0])
def test_the_norm_counts_biases_and_magnitudes(tmp_path, more, factors):
    """It is that of the weights that are drawn with, so one with biases alone changes something."""
    few = {k: factors * v for k, v in tensors().items() if k.startswith("transformer_blocks.0.")}
    torch.manual_seed(0)
    for name in [name for name in few if name.endswith("lora_B.weight")]:
        few[name.replace("lora_B.weight", more)] = torch.rand(len(few[name])) + 0.5
    save_file(few, tmp_path / "w.safetensors")
    model, own = (load_model(f"pocket{x}") for x in (f"+lora={tmp_path}@0.5", ""))
    merge_loras(model.pipeline)
    before, now = (m.pipeline.transformer.state_dict() for m in (own, model))
    changes = [(now[k] - before[k]).double().square().sum() for k in before]
    report = model.loras[0]
    assert report.norm == pytest.approx(float(sum(changes)) ** 0.5, rel=1e-5)
    assert "it changes nothing" not in str(report)


# --- saved by us ----------------------------------------------------------------------------------


def test_what_training_saves_in_pefts_layout_is_pefts(tmp_path):
    """A pipeline that cannot save LoRAs: the file goes back into plain peft and into us."""
    from nftbench.training.config.recipe import PolicyConfig
    from nftbench.training.policy.trained import TrainedPolicy

    class Unable(StableDiffusion3Pipeline):
        save_lora_weights = None

    parts = load_model("pocket").pipeline
    policy = TrainedPolicy(Unable(**parts.components), PolicyConfig(rank=4, alpha=8), seed=0)
    with torch.no_grad():
        for parameter in policy.weights.parameters.values():
            parameter.add_(0.02)
    policy.save(tmp_path, base="pocket", base_digest=load_model("pocket").digest, which="theta")
    assert {p.name for p in (tmp_path / "lora").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    own = generate(load_model(str(tmp_path)).pipeline, WANTED, PROTOCOL)
    plain = load_model("pocket").pipeline
    plain.transformer = peft.PeftModel.from_pretrained(plain.transformer, tmp_path / "lora")
    plain.transformer = plain.transformer.base_model.model
    np.testing.assert_array_equal(generate(plain, WANTED, PROTOCOL), own)
    with safe_open(tmp_path / "lora" / "adapter_model.safetensors", "pt") as file:
        assert all(k.startswith("base_model.model.") for k in file.keys())  # noqa: SIM118


# --- names and strengths ----------------------------------------------------------------------------


def test_names_that_compiling_and_several_gpus_wrote_are_the_networks_own(tmp_path):
    few = {k: v for k, v in tensors().items() if k.startswith("transformer_blocks.0.")}
    inner = {
        k.replace("blocks.0.", "blocks.0._orig_mod.").replace("_A.", "_A.learner."): v
        for k, v in few.items()
    }
    inner = {k.replace("_B.", "_B.learner."): v for k, v in inner.items()}
    save_file(few, tmp_path / "plain.safetensors")
    norm = load_model(f"pocket+lora={tmp_path / 'plain.safetensors'}").loras[0].norm
    for before in ("module.", "transformer.base_model.model.", "base_model.model._orig_mod."):
        save_file({f"{before}{k}": v for k, v in inner.items()}, tmp_path / "wrapped.safetensors")
        report = load_model(f"pocket+lora={tmp_path / 'wrapped.safetensors'}").loras[0]
        assert (report.layers_fitted, report.norm) == (len(few) // 2, norm), before


def test_what_a_conversion_passes_over_is_not_fitted(tmp_path):
    """diffusers drops the biases of this layout without a word that anyone sees."""
    place, pipeline = "lora_unet_double_blocks_0_img_attn_proj", families.build("flux")
    width = pipeline.transformer.transformer_blocks[0].attn.to_out[0].weight.shape[0]
    factors = {f"{place}.lora_{x}.weight": torch.ones(width, 2) for x in ("down", "up")}
    factors[f"{place}.lora_down.weight"] = torch.ones(2, width)
    for more, strange in ({}, 0), ({f"{place}.diff_b": torch.ones(width)}, 1):
        save_file(factors | more, tmp_path / "flux.safetensors")
        fit, misfit, other = layers_of(read_lora(str(tmp_path / "flux.safetensors")), pipeline)
        assert (len(fit), len(misfit), other) == (1, 0, strange)


def test_a_scale_is_told_from_its_neighbour(tmp_path):
    few = {k: v for k, v in tensors().items() if k.startswith("transformer_blocks.0.")}
    save_file(few, tmp_path / "w.safetensors")
    near = [load_model(f"pocket+lora={tmp_path}@{s}") for s in ("1.234567", "1.2345671234")]
    assert near[0].digest != near[1].digest and near[1].digest.endswith("@1.2345671234")
    assert str(parse(f"pocket+lora={tmp_path}@0.3333333")).endswith("@0.3333333")


def test_alpha_is_reported_as_the_configuration_has_it(tmp_path):
    other = in_peft_layout(tmp_path / "rs", use_rslora=True, lora_alpha=8)
    report = load_model(f"pocket+lora={other}").loras[0]
    assert report.alphas == (8,) and "the rank's square root" in str(report)
