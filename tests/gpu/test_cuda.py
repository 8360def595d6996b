"""What is otherwise where a GPU draws, by the commands a user types; skipped where there is none.

The suite hides a GPU from itself, so that its numbers are the same anywhere; these tests want to see one:
`CUDA_VISIBLE_DEVICES=0 python -m pytest tests/gpu`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nftbench.evaluation import evaluate, images
from tests.families.survey import PLAIN, SHORT, TRAINING
from tests.families.table import TABLE, findings_of
from tests.helpers.commands import run_here
from tests.helpers.models import families
from tests.helpers.runs.trainings import short

SUITE = "geneval-pocket"
EVAL = ("--suite", SUITE, "--limit", "6", "--images-per-prompt", "2", "--batch-size", "4")
FLOAT32 = ("--dtype", "float32")
"""Pocket is stored in float16, which a GPU takes unasked: there another order of sums moves a pixel by much more."""
ALIKE_IN_BFLOAT16 = ("auraflow",)
"""Random networks of this size whose images of two prompts differ by less than bfloat16 tells: refused, rightly."""
ROUNDING = 3
"""Grey levels of 255 that another order of sums may move a pixel by."""
pytestmark = pytest.mark.slow
if not torch.cuda.is_available():
    pytest.skip("needs a GPU with CUDA; the head of the file shows one", allow_module_level=True)


def evaluated(folder: Path, name: str, *flags: str, rewards: str = "pickscore@pocket,jpeg") -> str:
    """`nftbench eval pocket` into a run of this name: what it said."""
    code, said = run_here(
        folder, "eval", "pocket", *EVAL, *FLOAT32, "--rewards", rewards, "--out", name, *flags
    )
    assert code == 0, said
    return said


def manifest(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text("utf-8"))


def drawn(run: Path) -> np.ndarray:
    found = sorted((run / SUITE / "images").glob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in found]).astype(int)


def scores(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes() for p in sorted((run / SUITE).rglob("*.parquet"))
    }


def test_the_gpu_is_used_and_named_and_draws_twice_the_same(tmp_path):
    evaluated(tmp_path, "one")
    evaluated(tmp_path, "two")
    hardware = manifest(tmp_path / "one")["hardware"]
    assert hardware["device"].startswith("cuda")
    assert hardware["device_name"] == torch.cuda.get_device_name()
    assert np.array_equal(drawn(tmp_path / "one"), drawn(tmp_path / "two"))


def test_images_and_scores_are_the_cpus_but_for_rounding(tmp_path):
    evaluated(tmp_path, "gpu")
    evaluated(tmp_path, "cpu", "--device", "cpu", "--reward-device", "cpu")
    assert np.abs(drawn(tmp_path / "gpu") - drawn(tmp_path / "cpu")).max() <= ROUNDING


@pytest.mark.parametrize(
    "flags",
    [
        ("--offload", "model"),
        ("--offload", "sequential"),
        ("--vae-slicing",),
        ("--compile",),
        ("--reward-device", "cpu"),
    ],
    ids=" ".join,
)
def test_what_saves_memory_or_time_draws_the_same_but_for_rounding(flags, tmp_path):
    evaluated(tmp_path, "plain")
    evaluated(tmp_path, "other", *flags)
    assert np.abs(drawn(tmp_path / "plain") - drawn(tmp_path / "other")).max() <= ROUNDING


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_and_is_recorded(dtype, tmp_path):
    evaluated(tmp_path, "half", "--dtype", dtype)
    assert drawn(tmp_path / "half").std() > 10, "the images are of one colour"
    assert manifest(tmp_path / "half")["protocols"][SUITE]["dtype"] == dtype


def test_scores_given_early_are_byte_for_byte_those_given_afterwards(tmp_path, monkeypatch):
    rewards = "geneval@pocket,clipscore@pocket,pickscore@pocket,jpeg"
    evaluated(tmp_path, "early", rewards=rewards)
    monkeypatch.setattr(evaluate, "draws_elsewhere", lambda policy: False)
    evaluated(tmp_path, "late", rewards=rewards)
    assert scores(tmp_path / "early") == scores(tmp_path / "late")
    assert scores(tmp_path / "early")


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, caplog):
    """Drawing may take half of what 48 images took, then a quarter, until they do not fit any more.

    What they took is no bound: convolutions take more memory where there is more.
    """
    at_once, taken, room, draw = [], [], [], images.generate_each

    def watched(pipeline, batch, settings):
        at_once.append(len(batch))
        torch.cuda.empty_cache()
        for bytes_left in room:
            allowed = torch.cuda.memory_reserved() + bytes_left
            torch.cuda.set_per_process_memory_fraction(allowed / total)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        drawn_now = draw(pipeline, batch, settings)
        taken.append(torch.cuda.max_memory_allocated() - before)
        return drawn_now

    def all_at_once(name: str) -> None:
        evaluated(tmp_path, name, "--batch-size", "48", "--limit", "24", rewards="jpeg")

    total = torch.cuda.get_device_properties(0).total_memory
    monkeypatch.setattr(images, "generate_each", watched)
    all_at_once("roomy")
    assert at_once == [48]
    tight = ""
    try:
        while not caplog.text and len(at_once) < 6:
            room[:] = [taken[0] >> len(at_once)]
            tight = f"tight-{room[0]}"
            all_at_once(tight)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: continuing with" in caplog.text, (taken, at_once)
    assert min(at_once) < 48
    assert np.abs(drawn(tmp_path / "roomy") - drawn(tmp_path / tight)).max() <= ROUNDING


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("policy.precision=bf16",),
        ("policy.precision=fp16",),
        ("policy.dtype=auto", "policy.gradient_checkpointing=auto"),
        ("policy.dtype=bfloat16", "policy.precision=bf16", "policy.gradient_checkpointing=true"),
        ("policy.method=full",),
        ("algorithm=flow-grpo",),
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_pocket_is_trained_resumed_and_evaluated(settings, tmp_path):
    given = [part for s in short(*settings) for part in ("--set", s)]
    more = ("--set", "stages.iterations=2", "--set", "checkpoints.every=1")
    code, said = run_here(tmp_path, "train", "pocket", *given, *more, "--out", "run")
    assert code == 0, said
    code, said = run_here(
        tmp_path, "train", "--resume", "run", "--set", "stages.iterations=3"
    )  # fmt: skip
    assert code == 0, said
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 4
    assert np.isfinite([json.loads(line)["loss"] for line in lines[1:]]).all()
    code, said = run_here(tmp_path, "eval", "run", *EVAL, "--rewards", "jpeg", "--out", "after")
    assert code == 0, said


def outcome(code: int, said: str) -> str:
    if "Traceback" in said:
        return said[-2000:]
    return "works" if code == 0 else f"exit {code}: {said[-300:]}"


@pytest.mark.parametrize("family", families.BUILDERS)
def test_every_family_on_the_gpu_is_what_it_is_on_the_cpu(family, tmp_path):
    """Evaluated, in float32 and in bfloat16, and trained, where a CPU does; no traceback."""
    expected = findings_of(TABLE.read_text("utf-8"))[family].split(" | ")
    families.build(family).save_pretrained(tmp_path / "checkpoint")
    size = families.SIZES.get(family, "64")
    ends = {}
    for kind in ("float32", "bfloat16"):
        ends[kind] = outcome(
            *run_here(
                tmp_path, "eval", "checkpoint", *PLAIN, *SHORT, "--size", size, "--dtype", kind,
                "--out", kind,
            )
        )  # fmt: skip
    height, _, width = size.partition("x")
    sides = (f"rollout.height={height}", f"rollout.width={width or height}")
    settings = [part for s in (*TRAINING, *sides) for part in ("--set", s)]
    ends["train"] = outcome(
        *run_here(tmp_path, "train", "checkpoint", *settings, "--out", "trained")
    )
    works = expected[2] == "works"
    assert (ends["float32"] == "works") == works, ends
    alike = family in ALIKE_IN_BFLOAT16 and "draws one image for" in ends["bfloat16"]
    assert alike or (ends["bfloat16"] == "works") == works, ends
    if "LoRA" in expected[7]:
        assert ends["train"] == "works", ends
    elif "not tried" not in expected[7]:
        assert ends["train"].startswith("exit 2: "), ends
