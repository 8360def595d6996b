"""Two processes train as one does: started by torchrun, they leave the same policy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.record import save_recipe

SETTINGS = (
    "policy.rank=4",
    "policy.precision=no",
    "rollout.batch_size=4",
    "loggers=[]",
    "stages.rewards=jpeg",
    'stages.prompts=["geneval-pocket"]',
    'evaluation.benchmarks=["geneval-pocket"]',
    "evaluation.limit=12",
    "evaluation.num_inference_steps=2",
    "stages.iterations=2",
    "stages.groups=3",
    "stages.group_size=4",
    "stages.num_inference_steps=3",
    "stages.timesteps_per_image=2",
    "stages.updates=2",
)
SCRIPT = """
import sys
from pathlib import Path
import torch
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import stored_recipe
from nftbench.training.run import train

torch.set_num_threads(1)
folder = Path(sys.argv[1])
train(stored_recipe(folder), folder / "run", resume=False, progress=lambda *a: None, say=print)
"""

pytestmark = pytest.mark.slow


def launch(folder: Path, processes: int, *settings: str) -> subprocess.CompletedProcess:
    """A run in processes of its own."""
    folder.mkdir()
    save_recipe(folder, load_recipe("pocket", [*SETTINGS, *settings]))
    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*torchrun, f"--nproc_per_node={processes}", str(folder / "script.py"), str(folder)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )


def test_two_processes_leave_the_policy_that_one_leaves(tmp_path):
    runs = {n: launch(tmp_path / str(n), n) for n in (1, 2)}
    assert all(r.returncode == 0 for r in runs.values()), runs[2].stderr[-2000:]
    assert "over 2 process(es)" in runs[2].stdout and runs[2].stdout.count("stage 1:") == 1
    one, two = (
        load_file(tmp_path / n / "run" / "lora" / "pytorch_lora_weights.safetensors") for n in "12"
    )
    assert one.keys() == two.keys()
    moved = max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k)
    assert moved > 1e-4  # B begins at zero
    for name, value in one.items():  # sums in another order
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=moved * 1e-3)
    first, second = (
        [json.loads(x) for x in (tmp_path / n / "run" / "metrics.jsonl").read_text().splitlines()]
        for n in "12"
    )
    assert [x["images"] for x in second] == [x["images"] for x in first] == [0, 12, 24]
    for a, b in zip(first, second, strict=True):
        for key in (k for k in a if k.startswith(("reward/", "held_out/"))):
            # kB of JPEG: another batch rounds another pixel the other way, which is some bytes of a picture
            assert b[key] == pytest.approx(a[key], rel=3e-3)


def test_more_processes_than_groups_are_refused(tmp_path):
    run = launch(tmp_path / "few", 2, "stages.groups=1")
    assert run.returncode != 0
    assert "1 groups an iteration cannot be shared by 2 processes" in run.stderr
    assert not (tmp_path / "few" / "run").exists()


def test_plain_torchrun_trains_once_in_one_folder(tmp_path):
    """The command line as a user starts it: nothing but torchrun, and no folder named."""
    settings = [part for s in SETTINGS for part in ("--set", s)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, "-m", "nftbench", "train", "--recipe", "pocket", *settings],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "over 2 process(es)" in run.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(x["iteration"], x["images"]) for x in lines] == [(0, 0), (1, 12), (2, 24)]
    assert run.stdout.count("iteration 1/2 ") == 1
