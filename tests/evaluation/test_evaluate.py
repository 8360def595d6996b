"""A run ends with the same bytes however often it was stopped."""

import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rewards
from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.commands import score_run
from nftbench.evaluation import evaluate
from nftbench.evaluation.evaluate import score
from nftbench.evaluation.images import image_origin
from nftbench.evaluation.planning import plan
from nftbench.pocket.world.drawing import render
from nftbench.pocket.world.scenes import Scene, random_scene
from nftbench.runs.io import temporary_path
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError
from tests.helpers.runs.small_evaluation import Stop, evaluated, files, quietly, table, work

# --- what a run holds -----------------------------------------------------------------------------


def test_one_row_an_image(whole):
    found, wanted = table(whole), samples(work().prompts, 4)
    assert found["key"].tolist() == [s.key for s in wanted] and len(found) == 12
    assert found["prompt"].tolist() == [s.prompt.text for s in wanted]
    assert (found["jpeg"] > 0.5).all() and (found["jpeg:reason"] == "").all()
    assert all((whole.folder / "geneval-pocket" / name).is_file() for name in found["image"])


def test_the_manifest_says_what_was_asked_of_what(whole, policy):
    manifest = whole.manifest
    assert manifest["checkpoint"] == {
        "name": "pocket",
        "digest": policy.digest,
        "pipeline": "StableDiffusion3Pipeline",
    }
    (drawn,) = evaluate.fitted([work()], policy)
    assert whole.protocols() == {"geneval-pocket": drawn.protocol}
    assert manifest["protocol_hashes"] == {"geneval-pocket": drawn.protocol.hash}
    assert (drawn.protocol.guidance, drawn.protocol.network_calls) == ("off", 1.0)
    assert list(manifest["rewards"]["geneval-pocket"]) == ["jpeg"]
    assert {"torch", "diffusers", "python", "nftbench"} <= set(manifest["versions"])


def test_rows_are_the_tables_mean(copy):
    (row,) = score(copy, [work()], quietly)
    assert row.value == pytest.approx(table(copy)["jpeg"].mean(), rel=1e-6)
    assert (row.n, row.n_failed, row.n_prompts, row.limited) == (12, 0, 3, True)
    assert row.protocol == work().protocol.hash


def test_garbage_is_looked_for_among_what_a_run_made_itself(tmp_path, policy):
    """What lay in memory before is out of the collector's way as long as the run goes on, also one that is stopped."""
    found = []

    def report(*_):
        old = {id(one) for one in gc.get_objects()}
        found.append((id(policy.pipeline.__dict__) in old, id(vars(policy.pipeline.vae)) in old))
        if len(found) == 2:
            raise Stop

    with pytest.raises(Stop):
        evaluate.evaluate(Run(tmp_path / "run"), [work()], policy, "geneval-pocket", report)
    assert found == [(False, False)] * 2
    assert gc.get_freeze_count() == 0


def test_what_a_program_set_aside_itself_stays_aside(tmp_path, policy):
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        evaluated(tmp_path / "run", policy)
        assert 0 < gc.get_freeze_count() <= before
    finally:
        gc.unfreeze()


# --- stopped and gone on --------------------------------------------------------------------------


def test_the_same_command_again_changes_nothing(whole, policy):
    before = files(whole.folder)
    evaluated(whole.folder, policy)
    assert files(whole.folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
def test_stopped_after_any_batch(whole, tmp_path, policy, moment):
    """Three batches of images, three of scores: every moment between two of them."""
    reports = []

    def report(*said):
        reports.append(said)
        if len(reports) == moment + 1:
            raise Stop

    run = Run(tmp_path / "run")
    with pytest.raises(Stop):
        evaluate.evaluate(run, [work()], policy, "geneval-pocket", report)
    assert not run.samples_path("geneval-pocket").exists()
    evaluated(run.folder, policy)
    assert files(run.folder) == files(whole.folder)


@pytest.mark.parametrize("lost", [["0000-02"], ["0040-00", "0081-03"]])
def test_a_lost_image_is_made_again_and_scored_again(whole, copy, policy, lost):
    for key in lost:
        copy.image_path("geneval-pocket", next(s for s in work().samples if s.key == key)).unlink()
    evaluated(copy.folder, policy)
    assert files(copy.folder) == files(whole.folder)


def test_scoring_too_early_does_not_stick(whole, copy, policy):
    """`score` on a run that still lacks images says so in NaN; finishing the run mends it."""
    for sample in work().samples[-7:]:
        copy.image_path("geneval-pocket", sample).unlink()
    shutil.rmtree(copy.folder / "geneval-pocket" / "scores")
    (row,) = score_run(copy.folder, None, quietly)
    assert (row.n, row.n_failed) == (5, 7)
    assert table(copy)["jpeg:reason"].str.startswith("unreadable image").sum() == 7
    evaluated(copy.folder, policy)
    assert files(copy.folder) == files(whole.folder)


def test_leftovers_of_a_killed_process_are_swept(whole, copy, policy):
    images = copy.folder / "geneval-pocket" / "images"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for path in (images / "0000-00.png", copy.folder / "manifest.json"):
        name = temporary_path(path).name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
        path.with_name(name).write_bytes(b"half")
    evaluated(copy.folder, policy)
    assert files(copy.folder) == files(whole.folder)


@pytest.mark.thorough
def test_killed_three_times_at_random_moments(start, tmp_path, policy):
    """SIGKILL in real processes; then finished, and equal to a run that nobody killed."""
    chance = random.Random(2509)
    command = ["eval", "pocket", "--suite", "geneval-pocket", "--limit", "12", "--steps", "2"]
    command += ["--rewards", "jpeg,jpeg@compressibility", "--batch-size", "5"]
    assert start(*command, "--out", "whole").finish()[0] == 0
    run, killed = tmp_path / "killed", 0
    for low, high in ((1, 20), (21, 45), (49, 66)):
        wanted = chance.randint(low, high)
        going = start(*command, "--out", "killed")
        killed += going.signal_when(
            lambda n=wanted: sum(1 for _ in run.rglob("*.p*")) >= n, signal.SIGKILL
        )
        going.process.join()
    assert killed == 3 and not (run / "geneval-pocket" / "samples.parquet").exists()
    assert start(*command, "--out", "killed").finish()[0] == 0
    assert files(run) == files(tmp_path / "whole")
    assert len(list(run.rglob("images/*.png"))) == 48
    assert len(list(run.rglob("scores/*/*.parquet"))) == 2 * 10


def overwrite(run: Run, place: int, content: bytes) -> Path:
    path = run.image_path("geneval-pocket", work().samples[place])
    path.write_bytes(content)
    return path


def test_an_image_that_was_changed_is_refused_by_name_and_made_again(whole, copy, policy):
    """A foreign or cut PNG in the place of an image is never scored as the checkpoint's."""
    other = copy.image_path("geneval-pocket", work().samples[1]).read_bytes()
    path = overwrite(copy, 6, other)
    before = files(copy.folder)
    for again in ("jpeg@compressibility", None):
        with pytest.raises(
            ConfigError, match=rf"1 images .* not those that this run made.*{path.name}"
        ):
            score_run(copy.folder, again, quietly)
    assert files(copy.folder) == before
    overwrite(copy, 2, other[:200])
    evaluated(copy.folder, policy)
    assert files(copy.folder) == files(whole.folder)


def test_when_every_image_is_gone_score_says_so(copy):
    shutil.rmtree(copy.folder / "geneval-pocket" / "images")
    with pytest.raises(ConfigError, match="no image of geneval-pocket is there; make them again"):
        score_run(copy.folder, None, quietly)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"{}"])
def test_a_broken_file_is_made_again(whole, copy, policy, damage):
    """A score, a digest, a sample table, rows: empty, cut or something else."""
    for name in ("scores/jpeg/00001.parquet", "digests/00002.json", "samples.parquet"):
        (copy.folder / "geneval-pocket" / name).write_bytes(damage)
    (copy.folder / "rows.csv").write_bytes(damage)
    evaluated(copy.folder, policy)
    assert files(copy.folder) == files(whole.folder)
    (copy.folder / "geneval-pocket" / "scores" / "jpeg" / "00000.parquet").write_bytes(damage)
    score_run(copy.folder, None, quietly)
    assert files(copy.folder) == files(whole.folder)


def test_scores_of_other_pixels_prompts_or_code_are_given_again(whole, copy):
    """Stored values that are lies, of everything but this: all of them are found out."""
    for number, (column, lie) in enumerate(
        [("sha256", "00" * 32), ("prompt", "a photo of a lie"), ("scorer", "00" * 8)]
    ):
        path = copy.scores_path("geneval-pocket", "jpeg", number)
        stored = pd.read_parquet(path)
        stored.assign(jpeg=np.float32(99), **{column: lie}).to_parquet(path, index=False)
    (row,) = score_run(copy.folder, None, quietly)
    assert row.value < 99 and files(copy.folder) == files(whole.folder)


# --- batches --------------------------------------------------------------------------------------


def drawn(run: Run, one, checkpoint: str) -> None:
    """Scenes and signs in the place of generated images: something to see for every judge."""
    chance = np.random.default_rng(0)
    for number, batch in one.batches():
        pixels = np.stack([scene(chance, s) for s in batch])
        origin = image_origin(checkpoint, one.protocol)
        run.save_images(one.name, number, batch, pixels, origin)


def scene(chance, sample) -> np.ndarray:
    told = re.search('"(.+)"', sample.prompt.text)
    one = random_scene(chance, sample.prompt.tag or "sign")
    if told and sample.index == 0:
        one = Scene("sign", sample.prompt.text, words=(told[1],), style=one.style)
    return render(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "judges"),
    [
        ("geneval-pocket", "clipscore@pocket,geneval@pocket-nft,jpeg,pickscore@pocket"),
        pytest.param("ocr-pocket", "ocr@rapidocr,pickscore@pocket", marks=pytest.mark.thorough),
    ],
)
def test_batch_size_moves_no_score(tmp_path, policy, benchmark, judges):
    """The same PNG files judged seven and sixteen at a time, by networks and by rules."""
    protocol = load_benchmark(benchmark).protocol(limit=12)
    loaded = {k: rewards.load_reward(k) for k in judges.split(",")}
    tables = []
    for size in (7, 16):
        run = Run(tmp_path / str(size))
        (one,) = evaluate.fitted(plan([protocol], loaded, size), policy)
        evaluate.begin(run, [one], policy, benchmark)
        drawn(run, one, policy.digest)
        evaluate.evaluate(run, [one], policy, benchmark, quietly)
        tables.append(pd.read_parquet(run.samples_path(benchmark)).select_dtypes("float32"))
    assert set(loaded) <= set(tables[0].columns) and len(tables[0]) == len(one.samples)
    assert tables[0][list(loaded)].nunique().min() > 1  # the judges saw differences
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-5, atol=1e-5)


# --- plan -----------------------------------------------------------------------------------------


def test_rewards_judge_only_the_benchmarks_they_can():
    protocols = [load_benchmark(n).protocol(limit=2) for n in ("geneval-pocket", "ocr-pocket")]
    judges = {k: rewards.load_reward(k) for k in ("jpeg", "ocr@rapidocr")}
    works = plan(protocols, judges, 4)
    assert [sorted(w.rewards) for w in works] == [["jpeg"], ["jpeg", "ocr@rapidocr"]]
    with pytest.raises(ConfigError, match="'ocr@rapidocr' can judge none of these benchmarks"):
        plan(protocols[:1], judges, 4)


def test_batches_are_all_images_in_order():
    one = work(5)
    batches = list(one.batches())
    assert [n for n, _ in batches] == [0, 1, 2] and [len(b) for _, b in batches] == [5, 5, 2]
    assert [s for _, b in batches for s in b] == one.samples
