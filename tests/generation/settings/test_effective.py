"""Drawn as asked, or refused: guidance, size and text length as the network saw them, counted by hooks of our own."""

import json
import sys

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.sampling import call_arguments, generate
from nftbench.generation.settings.effective import Effective, learn_settings
from nftbench.generation.settings.preflight import check_prompt_seen
from nftbench.generation.settings.probe import observe
from rewards.base import ConfigError, Prompt
from tests.helpers.commands import run_here
from tests.helpers.models import families

SIZE = {"height": 64, "width": 64}
PROMPTS = [Prompt(id="a", text="red"), Prompt(id="b", text="two blue cats")]


def slow(*values: object) -> object:
    """A case that is left out of the quick suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


def learned(family: str, **parameters) -> tuple[object, Effective]:
    pipeline = families.build(family)
    return pipeline, learn_settings(pipeline, SamplingParameters(**SIZE | parameters))


def rows_a_step(pipeline, settings: Effective, steps: int = 3) -> float:
    """Rows of the denoiser a step, counted from its outputs."""
    network = getattr(pipeline, "transformer", None) or pipeline.unet
    rows: list[int] = []

    def count(module, args, output) -> None:
        found = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        rows.append(len(found))

    handle = network.register_forward_hook(count)
    batch = [Sample(PROMPTS[0], 0)]
    given = call_arguments(pipeline, batch, settings.at(num_inference_steps=steps))
    with torch.no_grad():
        pipeline(**given, output_type="np")
    handle.remove()
    return sum(rows) / steps


@pytest.mark.parametrize(
    ("family", "parameters", "kind", "scale", "calls"),
    [
        ("sd3", {}, "cfg", 7.0, 2),
        slow("sd3", {"guidance_scale": 1.0}, "off", 1.0, 1),
        ("sd3", {"guidance_scale": 4.5}, "cfg", 4.5, 2),
        slow("z_image", {"guidance_scale": 1.0}, "off", 1.0, 1),
        ("z_image", {"guidance_scale": 4.5}, "cfg", 4.5, 2),
        ("flux", {"guidance_scale": 4.5}, "embedded", 4.5, 1),
        slow("flux_schnell", {}, "off", 1.0, 1),
        slow("qwen_image", {}, "off", 1.0, 1),
        slow("qwen_image", {"guidance_scale": 4.5}, "cfg", 4.5, 2),
        slow("auraflow", {}, "cfg", 3.5, 2),
        slow("cogview4", {"guidance": "cfg", "guidance_scale": 3.0}, "cfg", 3.0, 2),
        slow("omnigen", {"guidance": "cfg", "guidance_scale": 3.0}, "cfg", 3.0, 2),
        slow("lcm", {}, "embedded", 8.5, 1),
        slow("z_image_omni", {"negative_prompt": "blur"}, "cfg", 6.0, 2),
    ],
)
def test_guidance_is_what_the_network_saw(family, parameters, kind, scale, calls):
    pipeline, settings = learned(family, **parameters)
    assert (settings.guidance, settings.guidance_scale) == (kind, scale)
    assert settings.network_calls == calls == rows_a_step(pipeline, settings)
    assert (settings.height, settings.width) == (64, 64)


def test_a_scale_that_is_added_to_the_guided_answer_is_one_more():
    _, settings = learned("z_image", guidance_scale=4.5)
    assert settings.arguments["guidance_scale"] == 3.5


@pytest.mark.parametrize(
    ("family", "parameters", "said"),
    [
        ("flux_schnell", {"guidance_scale": 4.5}, "ignores guidance_scale"),
        ("flux2_klein", {"guidance_scale": 4.5}, "this model takes --guidance off"),
        ("flux", {"guidance": "off"}, "this model takes --guidance embedded:S"),
        ("lcm", {"guidance": "cfg", "guidance_scale": 3.0}, "takes --guidance embedded:S"),
        ("sd3", {"guidance": "embedded", "guidance_scale": 3.0}, "takes --guidance off or cfg:S"),
        ("sd3", {"guidance": "off", "negative_prompt": "blur"}, "--negative-prompt has no effect"),
        (
            "flux",
            {"negative_prompt": "blur"},
            "no effect on FluxPipeline where guidance is embedded",
        ),
        ("flux_schnell", {"negative_prompt": "blur"}, "where guidance is off; leave it out"),
        ("qwen_image21", {"negative_prompt": "blur"}, "where guidance is off; leave it out"),
        (
            "flux2_klein",
            {"negative_prompt": "a"},
            "negative_prompt, which the recipe sets; leave it out",
        ),
        ("sd15", {"max_sequence_length": 8}, "has no argument max_sequence_length"),
        ("sd3", {"height": 60}, "cannot draw with height=60"),
    ],
)
def test_what_a_model_cannot_do_is_one_line(family, parameters, said):
    with pytest.raises(ConfigError) as caught:
        learned(family, **parameters)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_negative_prompt_that_is_not_drawn_with_stands_in_no_row(tmp_path):
    families.build("flux").save_pretrained(tmp_path / "flux")
    asked = ("eval", "flux", "--suite", "geneval-pocket", "--limit", "1", "--rewards", "jpeg")
    asked += ("--size", "64", "--steps", "1", "--out", "run", "--negative-prompt", "blur")
    code, said = run_here(tmp_path, *asked)
    assert (
        code == 2 and "--negative-prompt has no effect" in said and not (tmp_path / "run").exists()
    )
    code, said = run_here(tmp_path, *asked, "--guidance", "cfg:2")
    assert code == 0, said


@pytest.mark.slow
def test_both_stages_of_a_prior_and_a_decoder_are_switched_off():
    _, settings = learned("kandinsky22", guidance="off")
    assert settings.arguments["prior_guidance_scale"] == settings.arguments["guidance_scale"] == 1.0
    assert settings.network_calls == 2  # one a stage


def test_a_language_model_that_rewrites_prompts_is_switched_off():
    _, settings = learned("ernie")
    assert settings.further == {"use_pe": False} and settings.arguments["use_pe"] is False


@pytest.mark.parametrize("installed", [True, False])
def test_prompts_are_not_rewritten_where_the_packages_for_it_are(tmp_path, monkeypatch, installed):
    """PixArt, IF and Lumina clean prompts where ftfy and bs4 are: one checkpoint, two texts, by machine."""
    made = families.build("pixart")
    module = sys.modules[type(made).__module__]
    for package in ("bs4", "ftfy"):
        monkeypatch.setattr(module, f"is_{package}_available", lambda: installed)

    def rewrite(self, caption):
        raise AssertionError(f"{caption} was rewritten")

    monkeypatch.setattr(type(made), "_clean_caption", rewrite)
    made.save_pretrained(tmp_path / "pixart")
    (tmp_path / "p.txt").write_text("a cat #1 &amp; a dog\n")
    asked = ["--prompts", "p.txt", "--rewards", "jpeg", "--steps", "1", "--size", "64"]
    code, said = run_here(tmp_path, "eval", "pixart", *asked, "--out", "run")
    assert code == 0, said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    ((protocol,),) = [manifest["protocols"].values()]
    assert protocol["further"] == "clean_caption=False use_resolution_binning=False"


@pytest.mark.slow
def test_a_pipeline_without_a_list_of_generators_draws_one_by_one():
    _, settings = learned("amused")
    assert settings.one_by_one


def test_a_model_that_does_not_see_its_prompt_is_refused():
    pipeline, settings = learned("sd3", guidance="off")
    assert check_prompt_seen(pipeline, settings, PROMPTS) == settings
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        for parameter in encoder.parameters():
            parameter.data.zero_()
    with pytest.raises(ConfigError, match="does not see the prompt"):
        check_prompt_seen(pipeline, settings, PROMPTS)


@pytest.mark.parametrize("sound", [True, False])
def test_prompts_that_differ_behind_what_the_tokenizer_keeps(tmp_path, sound):
    """Its network sees the prompt all the same; a network that does not is named without what it lacks."""
    pipeline = families.build("sd15")
    for parameter in () if sound else pipeline.text_encoder.parameters():
        parameter.data.zero_()
    pipeline.save_pretrained(tmp_path / "sd15")
    start = "a red circle left of a blue square " * 14
    (tmp_path / "p.txt").write_text(f"{start}at dawn\n{start}at dusk\n")
    asked = ["--prompts", "p.txt", "--rewards", "jpeg", "--steps", "1", "--size", "64"]
    code, said = run_here(tmp_path, "eval", "sd15", *asked, "--out", "run")
    if sound:
        assert code == 0, said
        assert "2 prompts are cut by every text encoder" in " ".join(said.split())
        return
    said = " ".join(said.split())
    assert code == 2 and "its network does not see the prompt; nothing was drawn" in said
    assert f"for {start[:80]!r}... and {start[:80]!r}... from one noise" in said


@pytest.mark.slow
def test_steps_that_a_pipeline_does_not_take_are_one_line_while_drawing():
    """Sana Sprint takes two alone, unless it is told of no time between them."""
    parameters = SamplingParameters(height=128, width=128, num_inference_steps=20)
    pipeline = families.build("sana_sprint")
    settings = learn_settings(pipeline, parameters)
    with pytest.raises(ConfigError, match="cannot draw 1 images in 20 steps: ValueError") as caught:
        generate(pipeline, [Sample(PROMPTS[0], 0)], settings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_pipeline_without_a_guidance_of_its_own_at_these_steps_asks_for_one():
    with pytest.raises(ConfigError, match=r"pass --guidance, such as cfg:4\.5"):
        learned("ideogram4")


@pytest.mark.slow
def test_a_pipeline_that_takes_an_area_draws_at_the_size_that_is_asked():
    _, settings = learned("flux_kontext")
    assert settings.further == {"max_area": 64 * 64}


def test_a_call_that_fails_leaves_no_other_attention_behind():
    """Unguided, this pipeline fails half-way, and keeps the attention that it had put in for the call."""
    pipeline = families.build("hunyuan_dit_pag")
    before = dict(pipeline.transformer.attn_processors)
    arguments = {"prompt": ["red"], "guidance_scale": 1.0, "num_inference_steps": 2}
    with pytest.raises(ConfigError, match="cannot draw with guidance_scale=1"):
        observe(pipeline, arguments)
    assert pipeline.transformer.attn_processors == before


def guided_by_words(folder, **scales: float) -> None:
    """HunyuanImage as it is published: one guider for all prompts, and one for those that quote a word."""
    pipeline = families.build("hunyuan_image")
    guiders = {k: AdaptiveProjectedMixGuidance(guidance_scale=s) for k, s in scales.items()}
    type(pipeline)(**{**pipeline.components, **guiders}).save_pretrained(folder)


@pytest.mark.thorough
@pytest.mark.slow
def test_guidance_that_depends_on_the_prompt_is_refused(tmp_path):
    """Signs were drawn with the one's scale, under a row that said the other's."""
    guided_by_words(tmp_path / "two", guider=3.5, ocr_guider=7.0)
    (tmp_path / "p.txt").write_text('a sign\na sign that says "HELLO"\n', "utf-8")
    asked = ["--prompts", "p.txt", "--rewards", "jpeg", "--steps", "2", "--size", "64"]
    code, said = run_here(tmp_path, "eval", "two", *asked, "--out", "run")
    assert code == 2 and "with guidance 7 and other prompts with 3.5" in " ".join(said.split())
    assert not (tmp_path / "run").exists()
    guided_by_words(tmp_path / "one", guider=3.5, ocr_guider=3.5)
    code, said = run_here(tmp_path, "eval", "one", *asked, "--out", "run")
    assert code == 0 and "guidance cfg 3.5" in " ".join(said.split())
    code, said = run_here(tmp_path, "eval", "one", *asked, "--guidance", "cfg:3", "--out", "no")
    assert code == 2 and "this model takes --guidance native" in " ".join(said.split())


@pytest.mark.thorough
@pytest.mark.slow
def test_a_scale_that_is_refused_alone_is_found_beside_the_others_off(tmp_path):
    """HunyuanDiT with perturbed attention draws unguided only where that is off as well; asked for by the command."""
    families.build("hunyuan_dit_pag").save_pretrained(tmp_path / "hunyuan")
    (tmp_path / "p.txt").write_text("red\n")
    asked = ["--prompts", "p.txt", "--rewards", "jpeg", "--steps", "1", "--guidance", "off"]
    code, said = run_here(tmp_path, "eval", "hunyuan", *asked, "--size", "1024", "--out", "run")
    assert code == 0, said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    ((protocol,),) = [manifest["protocols"].values()]
    assert (protocol["guidance"], protocol["guidance_scale"]) == ("off", 1.0)
    assert protocol["network_calls"] == 1
