"""Two processes train as one does: started by torchrun, they leave the same policy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nftbench.benchmark.places import ENVIRONMENT
from tests.helpers.eventually import eventually
from tests.helpers.launched import environments
from tests.helpers.runs.trainings import FEW, begin, settings_of, small

SETTINGS = (
    f'evaluation.benchmarks=["{FEW}"]',
    "evaluation.limit=4",
    "evaluation.num_inference_steps=1",
    "stages.iterations=2",
    "stages.timesteps_per_image=2",
    "optimizer.eps=1",
    "optimizer.lr=1",  # AdamW's steps are then about the gradients: of a sign, rounding would turn that of a zero
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few")]


def flags(*settings: str) -> list[str]:
    return [part for s in settings_of(*SETTINGS, *settings) for part in ("--set", s)]


@pytest.fixture(scope="module")
def launched(few, tmp_path_factory) -> tuple[Path, str]:
    """The command line as a user starts it: nothing but torchrun, and no folder named. Where, and what it printed."""
    where = tmp_path_factory.mktemp("launched")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, "-m", "nftbench", "train", "--recipe", "pocket", *flags()],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=where,
        env={
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            ENVIRONMENT: os.environ[ENVIRONMENT],
        },
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return where, run.stdout


def metrics(folder: Path) -> list[dict]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_plain_torchrun_trains_once_in_one_folder(launched):
    where, printed = launched
    assert "over 2 process(es)" in printed and printed.count("stage 1:") == 1
    assert printed.count("iteration 1/2 ") == 1
    (folder,) = (where / "runs").iterdir()
    lines = [(x["iteration"], x["images"]) for x in metrics(folder)]
    assert lines == [(0, 0), (1, 12), (2, 24)]


def test_two_processes_leave_the_policy_that_one_leaves(launched, tmp_path):
    begin(small(*SETTINGS), tmp_path / "run").run()
    folders = (tmp_path / "run", *(launched[0] / "runs").iterdir())
    one, two = (load_file(f / "lora" / "pytorch_lora_weights.safetensors") for f in folders)
    assert one.keys() == two.keys()
    moved = max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k)
    assert moved > 1e-4  # B begins at zero
    for name, value in one.items():  # sums in another order
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=moved * 1e-3)
    first, second = map(metrics, folders)
    assert [x["images"] for x in second] == [x["images"] for x in first] == [0, 12, 24]
    for a, b in zip(first, second, strict=True):
        for key in (k for k in a if k.startswith(("reward/", "held_out/"))):
            # kB of JPEG: another batch rounds another pixel the other way, which is some bytes of a picture
            assert b[key] == pytest.approx(a[key], rel=3e-3)


def test_more_processes_than_groups_are_refused(start, tmp_path):
    command = ["train", "--recipe", "pocket", *flags("stages.groups=1"), "--out", "few"]
    both = [start(*command, environment=e) for e in environments(2)]
    eventually(lambda: not all(one.process.is_alive() for one in both), seconds=200)
    ended = next(one for one in both if not one.process.is_alive())  # torchrun ends the others
    code, _, err = ended.finish()
    assert code == 2
    assert "1 groups an iteration cannot be shared by 2 processes" in err
    assert not (tmp_path / "few").exists()


MOODY = """
import os

from rewards import RewardInfo, Scores


class Moody:
    info = RewardInfo(name="moody", variant="", summary="mean of all pixels", low=0.0, high=1.0)

    def __init__(self, *, device="cpu"):
        self.calls = 0

    def check(self, prompts):
        pass

    def score(self, images, prompts):
        self.calls += 1
        if os.environ["RANK"] == "1" and self.calls > 2:
            raise ValueError("bad mood")
        return Scores.of([float(image.mean()) / 255 for image in images])
"""


def test_what_one_process_refuses_ends_all_and_the_state_is_there(start, tmp_path):
    (tmp_path / "moody.py").write_text(MOODY)
    own = flags("stages.groups=2", "stages.iterations=4", "evaluation.every=0")
    place = own.index("stages.rewards=jpeg") - 1
    own = own[:place] + own[place + 2 :]
    command = ["train", *own, "--rewards", "moody.py:Moody", "--out", "run"]
    ends = [one.finish() for one in [start(*command, environment=e) for e in environments(2)]]
    saved = (
        "the state is in run/checkpoints/000002; once that is mended, resume with: nftbench train"
    )
    for code, _, err in ends:
        assert code == 2 and "ValueError: bad mood" in err and saved in err, err
        assert "Traceback" not in err
    assert (tmp_path / "run/checkpoints/000002/sha256sums").is_file()


def test_processes_that_do_not_do_the_same_are_refused(start, tmp_path):
    command = ["train", "--recipe", "pocket", *flags("evaluation.every=0"), "--out", "run"]
    both = [
        start(*command, "--set", f"seed={i}", environment=e) for i, e in enumerate(environments(2))
    ]
    for code, _, err in [one.finish() for one in both]:
        assert code == 2 and "the processes do not do the same: seed is 1" in err, err
    assert not list(tmp_path.glob("run/*"))
