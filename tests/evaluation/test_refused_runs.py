"""What a run refuses to become: another one, or one that somebody else is writing."""

import os
from dataclasses import replace
from typing import ClassVar

import pytest

import rewards
from nftbench.benchmark.registry import load_benchmark
from nftbench.commands import score_run
from nftbench.evaluation.planning import plan
from nftbench.generation.sources.packaged import packaged
from nftbench.runs.lock import hold
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs.small_evaluation import STEPS, evaluated, files, quietly, work


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 7}, "batch_size 5, not 7"),
        ({"guidance_scale": 2.5}, "guidance_scale: 2.5 here, 1.0 there"),
        ({"num_inference_steps": 3}, "num_inference_steps: 3 here, 2 there"),
        ({"limit": 4}, "limit: 4 here, 3 there"),
        ({"seed": 9}, "seed: 9 here, 0 there"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(whole, policy, changed, said):
    before = files(whole.folder)
    with pytest.raises(ConfigError) as caught:
        evaluated(whole.folder, policy, work(**changed))
    assert said in str(caught.value) and "--out" in str(caught.value)
    assert files(whole.folder) == before


@pytest.mark.slow
def test_another_benchmark_or_checkpoint_is_refused(whole, policy):
    protocol = load_benchmark("ocr-pocket").protocol(num_inference_steps=STEPS, limit=3)
    (other,) = plan([protocol], {"jpeg": rewards.load_reward("jpeg")}, 5)
    with pytest.raises(ConfigError, match="a run of geneval-pocket, not ocr-pocket"):
        evaluated(whole.folder, policy, other)
    stranger = type(policy)(name="pocket", digest="0" * 16, pipeline=policy.pipeline)
    with pytest.raises(ConfigError, match=f"'digest': '{policy.digest}'.*not .*'digest': '0000"):
        evaluated(whole.folder, stranger)


def test_a_judge_that_changed_is_refused(copy, policy):
    """Scores of old weights never stand under the name of the new ones."""
    manifest = copy.manifest
    manifest["rewards"]["geneval-pocket"]["jpeg"]["weights"] = ["old sha256:00"]
    copy.save_manifest(manifest)
    for again in (
        lambda: evaluated(copy.folder, policy),
        lambda: score_run(copy.folder, None, quietly),
    ):
        with pytest.raises(ConfigError, match=r"scores of another jpeg \(other weights\)"):
            again()


def test_a_pipeline_that_cannot_be_told_leaves_no_folder(tmp_path, policy):
    class Deaf:
        components: ClassVar = {}

        def __call__(self, prompt, generator, height, width, num_inference_steps, output_type):
            raise AssertionError("never called")

    deaf = type(policy)(name="deaf", digest="0" * 16, pipeline=Deaf(), own=policy.own)
    with pytest.raises(ConfigError, match="Deaf has no argument max_sequence_length"):
        evaluated(tmp_path / "run", deaf)
    assert not (tmp_path / "run").exists()


def test_a_broken_manifest_of_another_version_is_refused(copy, policy):
    manifest = copy.manifest
    manifest["protocols"]["geneval-pocket"]["sampler"] = "old"
    copy.save_manifest(manifest)
    with pytest.raises(ConfigError, match=r"unknown key '[^']*sampler'"):
        evaluated(copy.folder, policy)


def test_old_images_are_never_relabelled(copy, policy):
    """`rm manifest.json; eval OTHER --out x`: what lies there is not the other checkpoint's."""
    (copy.folder / "manifest.json").unlink()
    before = files(copy.folder)
    other = replace(policy, name="other", digest="0" * 16)
    with pytest.raises(
        ConfigError, match=r"not a new folder: it holds other files \(geneval-pocket"
    ):
        evaluated(copy.folder, other)
    assert files(copy.folder) == before


def test_images_of_a_manifest_that_was_changed_are_not_taken(copy, policy):
    manifest = copy.manifest
    manifest["checkpoint"] |= {"name": "other", "digest": "0" * 16}
    copy.save_manifest(manifest)
    with pytest.raises(ConfigError, match=r"12 images .* not those that this run made"):
        score_run(copy.folder, None, quietly)


@pytest.mark.parametrize("name", ["recipe.json", "metrics.jsonl", "notes.txt"])
def test_a_folder_of_something_else_is_refused(tmp_path, policy, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="is not a new folder: it holds"):
        evaluated(tmp_path, policy)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_run_in_use_is_refused_by_eval_and_score(copy, policy):
    with hold(copy.folder):
        for again in (
            lambda: evaluated(copy.folder, policy),
            lambda: score_run(copy.folder, "jpeg@compressibility", quietly),
        ):
            with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
                again()
    with hold(copy.folder, part="jpeg"):
        score_run(copy.folder, "jpeg@compressibility", quietly)  # another reward may work beside it
        with pytest.raises(ConfigError, match="in use by process"):
            evaluated(copy.folder, policy)


def test_other_weights_behind_a_link_are_another_checkpoint(tmp_path):
    """A checkpoint put together of links: its images are not reused once a link leads elsewhere."""
    (tmp_path / "mine").mkdir()
    for part in packaged()["pocket"].iterdir():
        (tmp_path / "mine" / part.name).symlink_to(part)
    (tmp_path / "mine" / "round").symlink_to(tmp_path / "mine", target_is_directory=True)
    command = (
        "eval", "mine", "--suite", "ocr-pocket", "--limit", "1", "--images-per-prompt", "1", "--steps", "1",
        "--rewards", "jpeg", "--out", "run",
    )  # fmt: skip
    code, out = run_here(tmp_path, *command)
    assert code == 0, out
    (tmp_path / "mine" / "transformer").unlink()
    other = packaged()["pocket-nft-iterated"] / "pipeline" / "transformer"
    (tmp_path / "mine" / "transformer").symlink_to(other)
    code, out = run_here(tmp_path, *command)
    assert code == 2 and "holds a run with checkpoint" in out, out
