"""Pipelines of other habits, each a folder with its own class: drawn as the row says, or refused in one line."""

import inspect
import io
import json
import shutil
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import HF_MODULES_CACHE
from PIL import Image

from nftbench.generation.checkpoint import Allowed, load_model
from tests.helpers.commands import run_here
from tests.helpers.models import families

ASKED = ("--prompts", "p.txt", "--rewards", "jpeg", "--size", "64")
CODE = '''
import numpy as np
import torch
from diffusers import StableDiffusionPipeline


class Odd(StableDiffusionPipeline):
    @torch.no_grad()
    def __call__(
        self, prompt, height=None, width=None, num_inference_steps=4, guidance_scale=5.0, negative_prompt=None,
        generator=None, output_type="pil",
    ):
        draw, options = super().__call__, dict(height=height, width=width, generator=generator, output_type="np")
        options |= dict(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        count = 1 if isinstance(prompt, str) else len(prompt)
        if isinstance(negative_prompt, str) and not isinstance(prompt, str):
            negative_prompt = [negative_prompt] * count
'''  # fmt: skip
PLAIN = "return draw(prompt, negative_prompt=negative_prompt, **options)"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("odd")
    families.build("sd15").save_pretrained(made / "plain")
    (made / "p.txt").write_text("a red cat\ntwo blue dogs\na sign\n", "utf-8")
    return made


def odd(home: Path, name: str, body: str, *, instead: tuple[str, str] = ("", "")) -> str:
    """A copy of the plain checkpoint whose class calls `body`."""
    folder = shutil.copytree(home / "plain", home / name)
    code = CODE.replace(*instead) if instead[0] else CODE
    (folder / "pipeline.py").write_text(code + indent(body, " " * 8), "utf-8")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index["_class_name"] = ["pipeline", "Odd"]
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    return name


def evaluated(home: Path, checkpoint: str, *more: str, out: str = "run") -> tuple[int, str]:
    asked = (*ASKED, "--trust-remote-code", *more, "--out", f"{checkpoint}-{out}")
    code, said = run_here(home, "eval", checkpoint, *asked)
    return code, " ".join(said.split())


def protocol(home: Path, run: str) -> dict:
    manifest = json.loads((home / run / "manifest.json").read_text("utf-8"))
    return next(iter(manifest["protocols"].values()))


def images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*/images/*.png"))]


def test_whole_numbers_are_grey_levels(home):
    """Taken for numbers in [0, 1], all but black would be white."""
    body = "return ((draw(prompt, **options).images * 255).round().astype('uint8'),)"
    name = odd(home, "levels", body)
    for checkpoint in (name, "plain"):
        code, said = evaluated(home, checkpoint, "--steps", "1", "--guidance", "off")
        assert code == 0, said
    assert images(home / f"{name}-run") == images(home / "plain-run")


def test_pixels_of_another_range_are_refused(home):
    name = odd(home, "signed", "return (draw(prompt, **options).images * 2 - 1,)")
    code, said = evaluated(home, name, "--steps", "1", "--guidance", "off")
    assert code == 2 and "returned pixels from -1 to 1; expected numbers in [0, 1]" in said


def test_each_checkpoint_runs_its_own_code(home):
    """Diffusers keeps all of them under one name and at one place, which processes share."""
    loaded = []
    for level in (0.25, 0.75):
        body = "return (np.full_like(draw(prompt, **options).images, LEVEL),)"
        name = odd(
            home, f"at-{level}", body, instead=("class Odd", f"LEVEL = {level}\n\nclass Odd")
        )
        loaded.append(load_model(str(home / name), allowed=Allowed(remote_code=True)).pipeline)
    for pipeline, level in zip(loaded, (0.25, 0.75), strict=True):
        images = pipeline("a cat", height=64, width=64, num_inference_steps=1)[0]
        assert (images == np.float32(level)).all()
        code = Path(inspect.getfile(type(pipeline)))
        assert code.is_file() and not code.is_relative_to(HF_MODULES_CACHE)


OVERWRITTEN = """path = {path!r}
if num_inference_steps == 3:
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(data)
"""


def test_weights_that_are_written_over_while_they_draw_are_refused(home):
    """They are mapped, so the network would go on with the new ones under the digest of the old."""
    path = str(home / "over" / "unet" / "diffusion_pytorch_model.safetensors")
    name = odd(home, "over", OVERWRITTEN.replace("{path!r}", repr(path)) + PLAIN)
    code, said = evaluated(home, name, "--steps", "3", "--guidance", "off")
    assert code == 2 and "model.safetensors was written over while over was in use" in said, said
    assert not images(home / f"{name}-run")
    assert evaluated(home, name, "--steps", "1", "--guidance", "off", out="sound")[0] == 0


PICTURES = """from PIL import Image
levels = [(image * 255).round() for image in draw(prompt, **options).images]
return ([{made} for i, levels in enumerate(levels)],)"""


@pytest.mark.parametrize("kind", ["clear", "deep"])
def test_pictures_are_what_arrays_of_them_are(home, kind):
    """Transparent ones lie on white, as arrays do; 16 bits a channel would be clipped to white."""
    clear = "Image.fromarray(np.dstack([levels, 0 * levels[..., :1]]).astype('uint8'))"
    deep = "Image.fromarray((levels[..., 0] * 257).astype('uint16'))"
    name = odd(home, kind, PICTURES.replace("{made}", {"clear": clear, "deep": deep}[kind]))
    code, said = evaluated(home, name, "--steps", "1", "--guidance", "off")
    expected = "draws one image for" if kind == "clear" else "images of mode I;16; expected 8 bits"
    assert code == 2 and expected in said, said


def test_pictures_whose_size_follows_from_their_batch_are_drawn_one_by_one(home):
    wider = "Image.fromarray(np.pad(levels, ((0, 0), (0, i), (0, 0))).astype('uint8'))"
    name = odd(home, "wider", PICTURES.replace("{made}", wider))
    code, said = evaluated(home, name, "--steps", "1", "--guidance", "off")
    drawn = images(home / f"{name}-run")
    assert code == 0 and len(drawn) == 3, said
    assert {Image.open(io.BytesIO(data)).size for data in drawn} == {(64, 64)}


def test_a_negative_prompt_of_the_pipelines_own_is_in_the_row(home):
    name = odd(home, "negative", PLAIN, instead=("negative_prompt=None", "negative_prompt='ugly'"))
    code, said = evaluated(home, name, "--steps", "1")
    assert code == 0, said
    assert protocol(home, f"{name}-run")["negative_prompt"] == "ugly"


ONE_NOISE = f"options['generator'] = torch.Generator().manual_seed(7)\n{PLAIN}"


def test_a_pipeline_that_starts_from_one_noise_draws_no_copies(home):
    name = odd(home, "one_noise", ONE_NOISE)
    asked = ("--steps", "1", "--guidance", "off", "--images-per-prompt")
    code, said = evaluated(home, name, *asked, "2")
    assert code == 2 and "Odd draws one image from two seeds" in said
    assert not images(home / f"{name}-run")
    assert evaluated(home, name, *asked, "1")[0] == 0


FIRST_NOISE = """if isinstance(generator, list):
    noise = torch.randn(1, 4, height // 8, width // 8, generator=generator[0])
    options = dict(options, generator=None, latents=noise.repeat(count, 1, 1, 1))
"""


def test_a_batch_that_shares_its_first_images_noise_is_drawn_one_by_one(home):
    name = odd(home, "first_noise", FIRST_NOISE + PLAIN)
    asked = ("--steps", "1", "--guidance", "off", "--size", "64")
    for size in ("1", "3"):
        code, said = evaluated(home, name, *asked, "--batch-size", size, out=size)
        assert code == 0, said
    assert images(home / f"{name}-1") == images(home / f"{name}-3")


NO_NUMBERS = """drawn = draw(prompt, negative_prompt=negative_prompt, **options).images
texts = [prompt] if isinstance(prompt, str) else prompt
drawn[[i for i, text in enumerate(texts) if text in {texts!r}]] = np.nan
return (drawn,)"""


@pytest.mark.parametrize("size", ["1", "3"])
def test_an_image_without_numbers_failed_and_the_others_did_not(home, size):
    name = odd(home, f"some_{size}", NO_NUMBERS.replace("{texts!r}", "['a sign']"))
    asked = ("--steps", "1", "--guidance", "off", "--batch-size", size, "--json")
    code, said = evaluated(home, name, *asked)
    assert code == 4 and "pixels that are not finite numbers" in said
    (row,), _ = json.JSONDecoder().raw_decode(said[said.index("[ {") :])
    assert (row["n"], row["n_failed"]) == (2, 1)
    assert len(images(home / f"{name}-run")) == 2
    again, _ = evaluated(home, name, *asked, "--max-failed", "0.5")
    assert again == 0, "and it is drawn again, as what a reward failed on is scored again"


def test_a_model_without_any_numbers_is_refused(home):
    name = odd(home, "none", NO_NUMBERS.replace("in {texts!r}", ""))
    code, said = evaluated(home, name, "--steps", "1", "--guidance", "off", "--batch-size", "1")
    assert code == 2 and "(the first in 00000-00)" in said and "another --dtype" in said
    assert not images(home / f"{name}-run")


@pytest.mark.parametrize("change", ["np.concatenate([drawn, drawn])", "drawn[:1]"])
def test_another_number_of_images_is_refused_or_asked_for_one_by_one(home, change):
    body = f"drawn = draw(prompt, **options).images\nreturn ({change},)"
    code, said = evaluated(home, odd(home, change[:5], body), "--steps", "1", "--guidance", "off")
    if "drawn[:1]" in change:
        assert code == 0, said
        assert len(images(home / "drawn-run")) == 3
    else:
        assert code == 2 and "Odd drew 2 images for 1 prompts" in said


def test_steps_that_a_pipeline_caps_are_refused(home):
    body = f"options['num_inference_steps'] = min(3, num_inference_steps)\n{PLAIN}"
    name = odd(home, "capped", body)
    code, said = evaluated(home, name, "--steps", "5", "--guidance", "off")
    assert code == 2 and "Odd was asked for 5 steps and drew in 3; pass --steps 3" in said
    assert not images(home / f"{name}-run")


def test_steps_that_a_pipeline_cannot_be_told_are_counted(home):
    name = odd(home, "fixed", PLAIN, instead=("num_inference_steps=4, ", ""))
    path = home / name / "pipeline.py"
    path.write_text(path.read_text("utf-8").replace("=num_inference_steps", "=3"), "utf-8")
    code, said = evaluated(home, name, "--guidance", "off")
    assert code == 0, said
    assert protocol(home, f"{name}-run")["num_inference_steps"] == 3


@pytest.mark.parametrize(("few", "many"), [("1.0", "5.0"), ("5.0", "1.0")])
def test_guidance_that_a_few_steps_do_not_show_is_refused(home, few, many):
    """Else the row would say off, and the images be guided."""
    body = f"options['guidance_scale'] = {many} if num_inference_steps > 4 else {few}\n{PLAIN}"
    name = odd(home, f"late_{few[0]}", body)
    code, said = evaluated(home, name, "--steps", "5", "--batch-size", "1")
    first, last = ("with", "without")[few == "1.0"], ("with", "without")[many == "1.0"]
    assert code == 2 and f"{first} guidance in a few steps and {last} guidance in 5" in said, said
    assert not images(home / f"{name}-run")


def test_a_scale_that_a_pipeline_caps_is_refused(home):
    name = odd(home, "cap", f"options['guidance_scale'] = min(guidance_scale, 3.0)\n{PLAIN}")
    code, said = evaluated(home, name, "--steps", "1", "--guidance", "cfg:6")
    assert code == 2 and "Odd was asked for guidance 6 and drew with 3" in said, said


TWO = """
    def __init__(
        self, vae, text_encoder, tokenizer, unet, unet_2, scheduler, safety_checker, feature_extractor, image_encoder,
        requires_safety_checker=False,
    ):
        super().__init__(vae, text_encoder, tokenizer, unet, scheduler, None, None, None, False)
        self.register_modules(unet_2=unet_2)

    @torch.no_grad()
    def __call__("""
HALVES = """first, middle = self.unet, num_inference_steps // 2
def turn(_, step, time, values):
    self.unet = first if step + 1 < middle else self.unet_2
    return values
try:
    return draw(prompt, callback_on_step_end=turn, **options)
finally:
    self.unet = first
"""


def test_a_network_for_much_noise_and_one_for_little_are_both_counted(home):
    """In a probe of two steps each is called at one of them."""
    name = odd(home, "two", HALVES, instead=("\n    @torch.no_grad()\n    def __call__(", TWO))
    shutil.copytree(home / name / "unet", home / name / "unet_2")
    path = home / name / "model_index.json"
    index = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(index | {"unet_2": index["unet"]}), "utf-8")
    code, said = evaluated(home, name, "--steps", "4", "--guidance-scale", "4")
    assert code == 0, said
    drawn = protocol(home, f"{name}-run")
    assert (drawn["guidance"], drawn["guidance_scale"], drawn["network_calls"]) == ("cfg", 4, 2)


# --- random numbers beside the generators ---------------------------------------------------------


@pytest.mark.parametrize("source", ["solver", "pipeline"])
def test_an_image_is_its_own_whatever_the_process_drew_before(home, source):
    """A solver that adds noise which no generator gave, and a pipeline with noise of numpy's."""
    if source == "pipeline":
        noise = "torch.from_numpy(np.random.randn(count, 4, 8, 8)).float()"
        odd(home, source, f"return draw(prompt, latents={noise}, **options)")
    else:
        pipeline = families.build("sd3")
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        pipeline.save_pretrained(home / source)
    drawn = []
    for out, size in (("a", "1"), ("b", "3")):
        torch.rand(len(drawn) + 1)
        code, said = evaluated(
            home, source, "--steps", "3", "--guidance", "off", "--batch-size", size, out=out
        )
        assert code == 0 and "note: draws random numbers beside its generators" in said, said
        drawn.append(images(home / f"{source}-{out}"))
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3
