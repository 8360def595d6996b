"""The whole pocket world built in small: every stage runs, resumes, and what it writes loads."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.generation.checkpoint import load_model, own_suite
from nftbench.generation.sampling import generate
from nftbench.pocket import networks as policy
from nftbench.pocket.train import pretrain, reward_models
from nftbench.pocket.train.build import Sizes, build_all

TINY = Sizes(
    vae_steps=2,
    scenes=100,
    shard=50,
    policy_steps=2,
    detector_steps=2,
    clip_steps=2,
    pickscore_steps=2,
)
BATCHES = {
    pretrain: {"VAE_BATCH": 4, "VAE_MEASURED": 32, "POLICY_BATCH": 16},
    reward_models: {
        "DETECTOR_BATCH": 16,
        "CALIBRATION_BATCHES": 1,
        "CLIP_SCENES": 8,
        "CLIP_CROPS": 4,
        "CLIP_DAMAGED": 4,
        "PICKSCORE_PAIRS": 9,
    },
}
"""How much a step sees here: what is tested is that every stage runs."""


@pytest.fixture(scope="module", autouse=True)
def small_batches_and_threads_as_before():
    """A build sets torch's threads; another number of them moves the last bits of what later tests compare."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in BATCHES.items():
            for name, size in sizes.items():
                patch.setattr(module, name, size)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("out")
    told = []
    build_all(work, out, 1, lambda *report: told.append(report), sizes=TINY)
    return work, out, told


@pytest.mark.slow
def test_build_writes_a_checkpoint_that_generates(built):
    _, out, told = built
    assert {stage for stage, done, total in told if done == total} == {
        "vae",
        "latents",
        "policy",
        "detector",
        "clip",
        "pickscore",
    }
    loaded = load_model(str(out / "pocket"))
    assert own_suite(str(out / "pocket")) == "pocket"
    assert type(loaded.pipeline).__name__ == "StableDiffusion3Pipeline"
    benchmark = load_benchmark("geneval-pocket")
    protocol = benchmark.protocol(num_inference_steps=2).filled(loaded.own)
    images = generate(loaded.pipeline, samples(benchmark.load()[:2], 1), protocol)
    assert images.shape == (2, 64, 64, 3) and images.std() > 1


@pytest.mark.slow
def test_a_plain_script_loads_the_checkpoint_in_float32(built):
    _, out, _ = built
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        out / "pocket", text_encoder_3=None, tokenizer_3=None
    )
    parts = ("vae", "text_encoder", "text_encoder_2", "transformer")
    assert {getattr(pipeline, part).dtype for part in parts} == {torch.float32}
    stored = load_file(out / "pocket" / "text_encoder" / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16}


@pytest.mark.slow
def test_build_writes_judges_with_a_manifest(built):
    _, out, _ = built
    manifest = json.loads((out / "rewards" / "manifest.json").read_text("utf-8"))
    assert {"detector/detector.safetensors", "clip/model.safetensors"} <= set(manifest)


@pytest.mark.slow
def test_a_second_build_trains_nothing(built):
    work, out, _ = built
    before = (out / "pocket" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    told = []
    build_all(work, out, 1, lambda *report: told.append(report), sizes=TINY)
    assert {stage for stage, *_ in told} == {"latents"}, "finished networks take no further step"
    after = (out / "pocket" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert before == after


@pytest.mark.slow
def test_a_finished_policy_is_trained_further(built, tmp_path):
    _, out, _ = built
    told, further = [], Sizes(scenes=50, shard=50, policy_steps=1)
    build_all(
        tmp_path / "work",
        tmp_path / "out",
        1,
        lambda *report: told.append(report),
        sizes=further,
        start=out / "pocket",
    )
    assert {stage for stage, *_ in told} == {"latents", "policy"}
    assert not (tmp_path / "out" / "rewards").exists()
    before, after = (
        pretrain.shipped_weights(folder / "pocket", "vae", "transformer")
        for folder in (out, tmp_path / "out")
    )
    moved = {k.partition(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"transformer"}


def test_the_denoiser_is_conditioned_as_the_pipeline_does_it():
    tokenizer = policy.make_tokenizer()
    torch.manual_seed(0)
    denoiser = policy.Denoiser(tokenizer).eval()
    pipeline = pretrain.assemble(denoiser, policy.make_vae(), tokenizer)
    caption = "a photo of a red circle and a blue square"
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(
            caption, None, None, do_classifier_free_guidance=False, max_sequence_length=0
        )
        x_t, t = torch.randn(1, 16, 8, 8), torch.tensor([0.7])
        through_pipeline = pipeline.transformer(
            hidden_states=x_t,
            timestep=t * 1000,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
        ).sample
        trained = denoiser(x_t, t, pretrain.tokenize(tokenizer, [caption]))
    torch.testing.assert_close(trained, through_pipeline)


def test_flow_loss_is_zero_for_the_true_velocity():
    class Oracle(torch.nn.Module):
        """Knows x_0, so that v = (x_t - x_0) / t."""

        def forward(self, x_t, t, token_ids):
            return (x_t - x_0) / t[:, None, None, None]

    x_0 = torch.randn(8, 4, 2, 2, dtype=torch.float64)
    torch.manual_seed(0)
    assert policy.flow_loss(Oracle(), x_0, torch.zeros(8, 3)).item() < 1e-12
    x_0 = x_0 + 1
    assert policy.flow_loss(Oracle(), x_0 - 1, torch.zeros(8, 3)).item() > 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a photo of three stars", ["a</w>", "photo", "of", "three", "stars"]),
        (
            'a sign that says "KITE"',
            ["a</w>", "sign", "that", "says", '"</w>', "k", "i", "t", "e</w>", '"</w>'],
        ),
        (
            'a sign that says "STARED"',
            ["a</w>", "sign", "that", "says", '"</w>', *"stare", "d</w>", '"</w>'],
        ),
    ],
)
def test_tokenizer_keeps_words_whole_and_spells_signs(tmp_path, text, tokens):
    tokenizer = policy.make_tokenizer()
    assert tokenizer.tokenize(text) == tokens
    tokenizer.save_pretrained(tmp_path)
    assert type(tokenizer).from_pretrained(tmp_path).tokenize(text) == tokens


@pytest.mark.slow
def test_every_training_caption_fits_the_text_length():
    tokenizer, (_, drawn) = policy.make_tokenizer(), pretrain.draw(5, 2000)
    lengths = [len(tokenizer(s.caption).input_ids) for s in drawn]
    assert max(lengths) <= policy.TEXT_LENGTH
    assert np.mean(lengths) > 5
