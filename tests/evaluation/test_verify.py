"""A run is added with what it says of itself, and looked at again."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import rewards
from nftbench.benchmark.registry import load_benchmark
from nftbench.cli.results.leaderboard import app
from nftbench.commands import score_run
from nftbench.evaluation.images import image_origin
from nftbench.evaluation.planning import plan
from nftbench.evaluation.verify import verify
from nftbench.generation.checkpoint import own_settings
from nftbench.reporting.leaderboard.board import (
    add,
    read,
)
from nftbench.runs.row_files import Entry, encode, entry, read_rows, stated
from nftbench.runs.run_folder import Run
from nftbench.runs.versions import versions
from rewards.base import ConfigError

PROTOCOL = load_benchmark("ocr-pocket").protocol().filled(own_settings("pocket"))


def quietly(stage: str, done: int, total: int) -> None:
    """A report nobody reads."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run of all signs, noise for images, judged by the size of their JPEG."""
    run = Run(tmp_path_factory.mktemp("run") / "run")
    protocol = PROTOCOL
    run.save_manifest(
        {
            "checkpoint": {"name": "noise", "digest": "0123", "pipeline": "None"},
            "suite": "ocr-pocket",
            "batch_size": 16,
            "protocols": {"ocr-pocket": protocol.model_dump(mode="json")},
            "rewards": {"ocr-pocket": {}},
            "versions": versions(),
        }
    )
    generator = np.random.default_rng(0)
    (work,) = plan([protocol], {"jpeg": rewards.load_reward("jpeg")}, 16)
    for number, batch in work.batches():
        pixels = generator.integers(0, 256, (len(batch), 32, 32, 3), dtype=np.uint8)
        run.save_images("ocr-pocket", number, batch, pixels, image_origin("0123", protocol))
    score_run(run.folder, "jpeg", quietly)
    return run


@pytest.fixture
def copy(whole, tmp_path) -> Run:
    return Run(shutil.copytree(whole.folder, tmp_path / "copy"))


def forge(run: Run, **changes) -> None:
    """Rows changed by somebody who also knows how their digests are made."""
    path = run.folder / "rows.csv"
    forged = [entry(e.row.model_copy(update=changes)) for _, e in read_rows(path)]
    path.write_bytes(encode(forged))


def test_a_run_is_added_with_its_settings(whole, tmp_path):
    (path,) = add(whole, tmp_path)
    (found,) = read(path)
    assert (found.row.model, found.row.metric, found.row.n) == ("noise", "jpeg", 144)
    assert found.row.protocol == PROTOCOL.hash
    assert stated(found.row.settings) == {
        "height": "64",
        "width": "64",
        "num_inference_steps": "20",
        "guidance_scale": "1.0",
        "max_sequence_length": "0",
        "seed": "0",
        "images_per_prompt": "2",
        "dtype": "float32",
    }


def test_a_limited_run_is_refused_though_its_table_denies_it(copy, tmp_path):
    manifest = copy.manifest
    protocol = load_benchmark("ocr-pocket").protocol(limit=72)
    manifest["protocols"]["ocr-pocket"] = protocol.model_dump(mode="json")
    copy.save_manifest(manifest)
    assert "True" not in (copy.folder / "rows.csv").read_text("utf-8")
    forge(copy, protocol=protocol.hash)
    with pytest.raises(ConfigError, match="--limit"):
        add(copy, tmp_path / "boards")
    assert not (tmp_path / "boards").exists()


def test_rows_of_another_protocol_are_refused(copy, tmp_path):
    forge(copy, protocol="0" * 12)
    with pytest.raises(ConfigError, match=r"rows\.csv, line 2: not of this run's protocols"):
        add(copy, tmp_path / "boards")


def test_a_run_without_rows_is_refused(copy):
    (copy.folder / "rows.csv").unlink()
    with pytest.raises(ConfigError, match="has no rows yet; run: nftbench score"):
        add(copy)


def test_a_true_run_is_verified(whole):
    found = verify(whole, 0.1, 0, quietly)
    (check,) = found.checks
    assert found.ok and found.images == 144 and found.problems == ()
    assert (check.n, check.agree, check.largest) == (15, 15, 0.0)


@pytest.mark.parametrize(("fraction", "n"), [(1.0, 144), (0.001, 1), (0.25, 36)])
def test_so_many_are_scored_again(whole, fraction, n):
    (check,) = verify(whole, fraction, 3, quietly).checks
    assert (check.n, check.agree) == (n, n)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, math.nan])
def test_a_fraction_out_of_range_is_refused(whole, fraction):
    with pytest.raises(ConfigError, match="expected a fraction above 0 and up to 1"):
        verify(whole, fraction, 0, quietly)


def forged(path) -> pd.DataFrame:
    """A table as somebody would write it again who leaves out what it notes of its content."""
    table = pd.read_parquet(path)
    table.attrs.clear()
    return table


def test_scores_that_were_raised_are_found(copy):
    path = copy.samples_path("ocr-pocket")
    table = forged(path)
    true = table["jpeg"].to_numpy()
    table["jpeg"] = table["jpeg"] + np.where(np.arange(len(table)) == 5, 2.0, 0.0).astype("float32")
    table.to_parquet(path)
    found = verify(copy, 1.0, 0, quietly)
    (check,) = found.checks
    assert not found.ok and (check.agree, check.worst) == (143, table["key"][5])
    assert check.largest == pytest.approx(2.0, rel=1e-5)
    problem, another = found.problems  # rows.csv has the true mean, which the table does not give
    assert f"is {true.mean(dtype=float):.6g} ±" in problem
    assert another == "ocr-pocket: samples.parquet is not the table that this run wrote"


def test_a_table_that_was_written_again_is_not_the_runs_own(copy):
    """Whatever it holds: a byte that changes no number which is looked at may change one that is not."""
    path = copy.samples_path("ocr-pocket")
    forged(path).assign(seed=7).to_parquet(path)
    assert verify(copy, 0.001, 0, quietly).problems == (
        "ocr-pocket: samples.parquet is not the table that this run wrote",
    )


def test_rows_that_were_raised_are_found(copy):
    (row,) = [e.row for _, e in read_rows(copy.folder / "rows.csv")]
    forge(copy, value=row.value + 0.5, low=row.low + 0.5, high=row.high + 0.5)
    found = verify(copy, 0.1, 0, quietly)
    assert not found.ok and found.checks[0].agree == found.checks[0].n
    assert "jpeg (image_mean) is" in found.problems[0] and "its images give" in found.problems[0]


def test_a_row_changed_by_hand_is_refused(copy, tmp_path):
    path = copy.folder / "rows.csv"
    (row,) = [e.row for _, e in read_rows(path)]
    path.write_text(path.read_text("utf-8").replace(str(row.value), "0.99"), "utf-8")
    for act in (lambda: add(copy, tmp_path), lambda: verify(copy, 1.0, 0, quietly)):
        with pytest.raises(
            ConfigError, match=r"rows\.csv, line 2: .*expected low <= value <= high"
        ):
            act()
    path.write_bytes(encode([Entry(row, (*entry(row).cells[:-1], "0" * 16))]))
    with pytest.raises(ConfigError, match="changed by hand"):
        add(copy, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "better"}, "expected noise on ocr-pocket, got better"),
        ({"certificate": "agrees"}, "without certificate"),
        ({"source": "published", "citation": "x", "confidence": "A"}, "writes measured rows"),
        ({"benchmark": "geneval-pocket"}, "expected noise on ocr-pocket"),
        ({"checkpoint": "4567"}, "not of this run's protocols and checkpoint"),
    ],
)
def test_a_forged_row_is_refused(copy, tmp_path, changes, said):
    forge(copy, **changes)
    for act in (lambda: add(copy, tmp_path), lambda: verify(copy, 0.1, 0, quietly)):
        with pytest.raises(ConfigError, match=said):
            act()


def test_rows_twice_or_dropped_are_found(copy, tmp_path):
    path = copy.folder / "rows.csv"
    entries = [e for _, e in read_rows(path)]
    path.write_bytes(encode(entries * 2))
    with pytest.raises(ConfigError, match="line 3: the same row as one before"):
        add(copy, tmp_path)
    score_run(copy.folder, "jpeg@compressibility", quietly)
    path.write_bytes(encode(entries))
    found = verify(copy, 0.01, 0, quietly)
    assert found.problems == (
        "ocr-pocket: rows.csv lacks 1 rows that its images give, the first jpeg@compressibility (image_mean)",
    )


def test_changed_images_are_all_scored_again_and_the_unseen_never_called_verified(copy):
    images = sorted((copy.folder / "ocr-pocket" / "images").glob("*.png"))
    for path in images[10:14]:
        shutil.copy(images[0], path)
    found = verify(copy, 0.001, 0, quietly)
    (check,) = found.checks
    assert not found.ok and found.seen in (4, 5) and check.n - check.agree == 4
    said = CliRunner().invoke(app, ["verify", str(copy.folder), "--fraction", "0.001"]).output
    assert f"NOT VERIFIED: {found.seen} of 144 images scored again" in " ".join(said.split())


def test_an_image_put_in_the_place_of_another_after_scoring_is_found(copy):
    """Even by somebody who also mends the sample table's digest."""
    images = sorted((copy.folder / "ocr-pocket" / "images").glob("*.png"))
    shutil.copy(images[3], images[2])
    path = copy.samples_path("ocr-pocket")
    table = forged(path)
    table.loc[2, "sha256"] = table["sha256"][3]
    table.to_parquet(path)
    found = verify(copy, 0.001, 0, quietly)
    assert "1 images that this run did not make, the first" in found.problems[0]


def test_an_image_that_is_gone_changed_or_too_many_is_found(copy):
    images = sorted((copy.folder / "ocr-pocket" / "images").glob("*.png"))
    images[0].unlink()
    shutil.copy(images[3], images[2])
    shutil.copy(images[3], images[3].with_name("more.png"))
    found = verify(copy, 0.01, 0, quietly)
    assert not found.ok and found.problems == (
        f"ocr-pocket: 1 of 144 images are missing, the first {images[0].name}",
        "ocr-pocket: 1 images that nobody asked for, the first more.png",
        f"ocr-pocket: 1 images changed since they were scored, the first {images[2].name}",
    )
    (check,) = verify(copy, 1.0, 0, quietly).checks
    assert check.agree < 144 and check.largest == math.inf and check.worst == images[0].stem


def test_the_commands_say_it_in_words_and_by_their_exit_code(copy, tmp_path):
    run, boards = str(copy.folder), tmp_path / "boards"
    call = CliRunner().invoke
    assert "published: " in call(app, ["add", run, "--leaderboards", str(boards)]).output
    built = call(app, ["build", "--out", str(tmp_path / "s"), "--leaderboards", str(boards)])
    assert built.exit_code == 0 and "1 files changed" in built.output
    good = call(app, ["verify", run])
    assert good.exit_code == 0 and "jpeg: 15 of 15 agree, largest difference 0 at" in good.output
    next((copy.folder / "ocr-pocket" / "images").iterdir()).unlink()
    bad = call(app, ["verify", run, "--fraction", "1"])
    assert bad.exit_code == 1 and "143 of 144 agree" in bad.output and "NOT VERIFIED" in bad.output
