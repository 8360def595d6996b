"""Which solver draws: the reference's own numbers, a protocol that changes with it, and refusals in one line."""

import json

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import Sample
from nftbench.generation.sampling import generate
from nftbench.generation.settings.described import as_drawn
from nftbench.generation.settings.effective import learn_settings
from nftbench.generation.settings.probe import described_encoders, described_precision
from nftbench.generation.settings.solvers import Dpm2Scheduler, build_solver, configuration_digest
from rewards.base import ConfigError, Prompt
from tests.helpers.commands import run_here
from tests.helpers.models import families
from tests.helpers.paths import GOLDEN

CASES = json.loads((GOLDEN / "solvers_dpm2.json").read_text("utf-8"))
PARAMETERS = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance": "off"}
ENCODERS = (
    "text_encoder, text_encoder_2; without text_encoder_3",
    "text_encoder_2; without text_encoder, text_encoder_3",
)
BATCH = [Sample(Prompt(id="a", text="red"), 0)]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda c: c["id"])
def test_dpm2_gives_the_references_numbers(case):
    arrays = np.load(GOLDEN / "solvers_dpm2.npz")
    M, b, x = (torch.from_numpy(arrays[case[name]]).float() for name in ("M", "b", "z"))
    scheduler = Dpm2Scheduler(shift=CASES["shift"])
    for _ in range(2):  # a second call begins anew
        latents = [x]
        scheduler.set_timesteps(case["steps"])
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            now = latents[-1]
            v = torch.einsum("cd,bdhw->bchw", M, now)
            v = v + b[:, None, None] * torch.sin(3 * now + 2 * sigma)
            latents.append(scheduler.step(v, t, now, return_dict=False)[0])
        ours = torch.stack([latents[i] for i in case["latents_stored_at"]]).numpy()
        theirs = arrays[f"{case['id']}/latents"]
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.fixture(scope="module")
def pipeline():
    return families.build("sd3")


def drawn(pipeline, **changes):
    """The protocol of a checkpoint, and how it is drawn."""
    requested = load_benchmark("geneval-pocket").protocol(**PARAMETERS | changes)
    settings = learn_settings(pipeline, requested)
    return as_drawn(requested, settings), settings


@pytest.mark.slow
def test_every_solver_has_its_hash_and_its_images(pipeline):
    own = pipeline.scheduler
    found = {name: drawn(pipeline, solver=name) for name in (None, "euler", "dpm2", "dpm++2")}
    hashes = {name: protocol.hash for name, (protocol, _) in found.items()}
    assert hashes[None] == hashes["euler"] and len(set(hashes.values())) == 3
    images = {name: generate(pipeline, BATCH, s).tobytes() for name, (_, s) in found.items()}
    assert images[None] == images["euler"] and len(set(images.values())) == 3
    assert pipeline.scheduler is own
    assert [p.solver_name for p, _ in found.values()] == ["euler", "euler", "dpm2", "dpm++2"]
    again = found["dpm2"][0]  # as a manifest has it
    assert drawn(pipeline, solver=again.solver)[0].hash == again.hash


def test_a_changed_scheduler_config_has_another_hash(pipeline):
    before, _ = drawn(pipeline)
    other = families.build("sd3")
    assert drawn(other)[0].hash == before.hash
    config = {**other.scheduler.config, "shift": other.scheduler.config.shift + 1}
    other = families.build("sd3")
    other.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    after, _ = drawn(other)
    assert after.hash != before.hash and before.difference(after).startswith("solver: ")
    with pytest.raises(ConfigError, match="the checkpoint has changed"):
        drawn(other, solver=drawn(pipeline, solver="dpm2")[0].solver)


def test_what_does_not_draw_does_not_count():
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    noted = FlowMatchEulerDiscreteScheduler.from_config({**own.config, "_diffusers_version": "9"})
    strange = FlowMatchEulerDiscreteScheduler.from_config({**own.config, "nobody_reads": 1})
    digests = {configuration_digest(s) for s in (own, noted, strange)}
    assert len(digests) == 1
    own.set_shift(2.0)
    assert configuration_digest(own) not in digests


@pytest.mark.parametrize(
    ("own", "name", "said"),
    [
        (FlowMatchEulerDiscreteScheduler(), "heun3", "expected one of euler, dpm2"),
        (FlowMatchEulerDiscreteScheduler(), "ddim", "choose euler or dpm2 or dpm"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "unipc", "choose euler or dp"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "dpm2", "cannot take the place"),
        (EulerDiscreteScheduler(), "dpm2", "choose euler or ddim"),
    ],
)
def test_a_solver_that_does_not_fit_is_one_line(own, name, said):
    with pytest.raises(ConfigError) as caught:
        build_solver(own, name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm++2", "unipc"])
def test_other_solvers_keep_the_checkpoints_noise_levels(name):
    own = PNDMScheduler(beta_start=0.001, beta_end=0.013, beta_schedule="scaled_linear")
    built = build_solver(own, name)
    assert torch.equal(built.alphas_cumprod, own.alphas_cumprod)


def test_text_encoders_and_precision_are_said():
    pipeline = families.build("sd3")
    assert described_precision(pipeline) == "float32"
    assert described_encoders(pipeline) == ENCODERS[0]
    pipeline.text_encoder_2.half()
    pipeline.register_modules(text_encoder=None)
    assert "text_encoder_2=float16 transformer=float32" in str(described_precision(pipeline))
    assert described_encoders(pipeline) == ENCODERS[1]


def test_a_solver_that_cannot_draw_in_two_steps_draws_in_those_that_are_asked(tmp_path):
    """PNDM with its own beginning; what watches it for a moment asked for two steps."""
    pipeline = families.build("sd15")
    pipeline.scheduler = PNDMScheduler(skip_prk_steps=False)
    pipeline.save_pretrained(tmp_path / "model")
    command = ("eval", "model", "--suite", "ocr-pocket", "--limit", "2", "--size", "64")
    command += ("--guidance", "off", "--rewards", "jpeg")
    code, said = run_here(tmp_path, *command, "--steps", "6", "--out", "run")
    assert code == 0 and "6 steps, guidance off (1 network call(s) a step)" in said, said
    code, said = run_here(tmp_path, *command, "--steps", "3", "--out", "few")
    assert code == 2 and not (tmp_path / "few").exists(), said


@pytest.mark.parametrize("name", ["use_beta_sigmas", "shift_terminal"])
def test_noise_levels_that_another_solver_cannot_have_are_said(tmp_path, name):
    pipeline = families.build("sd3")
    given = {"shift": 3.0, name: 0.1 if name == "shift_terminal" else True}
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(**given)
    pipeline.save_pretrained(tmp_path / "own")
    (tmp_path / "p.txt").write_text("a cat\n", "utf-8")
    briefly = ["--prompts", "p.txt", "--rewards", "jpeg", "--size", "64", "--steps", "3"]
    for solver, said_so in (("unipc", True), ("dpm2", False), ("euler", False)):
        code, said = run_here(
            tmp_path, "eval", "own", *briefly, "--solver", solver, "--out", solver
        )
        assert code == 0, said
        line = f"solver {solver} does not take over {name} of the checkpoint's"
        assert (line in " ".join(said.split())) == said_so, said
