"""Several seeds as one result: compared, in tables, in the report; against loops and closed forms."""

import csv
import io
import json
import shutil
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from typer.testing import CliRunner

from nftbench.benchmark.suites import Column, Suite
from nftbench.cli import main as cli
from nftbench.reporting.compare import compare, grids, records
from nftbench.reporting.html_report.build import write_report
from nftbench.reporting.paper.protocol import Wanted
from nftbench.reporting.paper.table import paper_table
from nftbench.reporting.results import read_result
from nftbench.reporting.seed_rows import rows_of
from nftbench.reporting.tables.text_tables import render
from nftbench.runs.io import write_table
from nftbench.runs.row_files import run_rows
from nftbench.runs.rows import Provenance, summarise
from nftbench.runs.run_folder import Run
from nftbench.runs.seeds import write_parent
from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import MetricRange
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs import made_runs

PROMPTS = [f"prompt {i}" for i in range(8)]
GENEVAL, PICK, _ = (info.key for info in made_runs.INFOS)


def quiet(*_):
    """Told of progress, says nothing."""


def evaluations(folder, seeds, shifts):
    """Evaluations of several seeds; each one's scores are those of a single run, moved."""
    rng = np.random.default_rng(0)
    for run, shift in zip(write_parent(folder, seeds), shifts, strict=True):
        made_runs.evaluation(run, PROMPTS)
        path = run / made_runs.BENCHMARK / "samples.parquet"
        table = pd.read_parquet(path)
        table[PICK] = np.float32(15 + shift + np.arange(16) // 2 * 0.01 + rng.normal(0, 0.01, 16))
        write_table(path, table)
        again(run, table)
    return folder


def again(folder, table):
    """Rows that fit a changed table."""
    run = Run(folder)
    old = run_rows(run)[0]
    about = Provenance(
        model=old.model,
        checkpoint=old.checkpoint,
        benchmark=old.benchmark,
        protocol=old.protocol,
        limited=False,
        by_task=True,
        date=old.date,
    )
    run.save_rows(summarise(table, made_runs.INFOS, about))


def compared(a, b, **options):
    results = read_result(a), read_result(b)
    found = compare(*results, **options)
    by_metric = {one.change.metric: one for one in found}
    text = render("terminal", grids(*results, found), [])
    return by_metric, " ".join(text.split()), records(*results, found)


@pytest.mark.slow
def test_seeds_are_paired_where_they_are_shared(tmp_path):
    """The shift of a seed goes out of the difference; what is left over is the gain and a little noise."""
    a = evaluations(tmp_path / "a", [0, 1, 2], [0, 3, 6])
    b = evaluations(tmp_path / "b", [2, 1, 9], [6.5, 3.5, -5])
    found, text, rows = compared(a, f"{b}=Better")
    gain = found[PICK].change.difference
    assert gain.value == pytest.approx(0.5, abs=0.02) and gain.low > 0
    assert gain.high - gain.low < 0.3 and found[PICK].change.significance.p < 0.05
    assert (
        "Paired by seeds 1, 2, which both have; seed 0 of a left out; seed 9 of Better left out."
        in text
    )
    assert "against B Better" in text and "Better: mean over seeds 2, 1, 9." in text
    assert rows[0]["run_b"] == "Better" and rows[0]["seeds_a"] == "0 1 2"
    assert rows[0]["paired_by_seed"] is True


@pytest.mark.slow
def test_other_seeds_are_independent_and_said(tmp_path):
    a = evaluations(tmp_path / "a", [0, 1], [0, 1])
    b = evaluations(tmp_path / "b", [5, 6, 7], [4, 5, 6])
    found, text, rows = compared(a, b)
    change = found[PICK].change
    assert "Not paired by seed" in text and rows[0]["paired_by_seed"] is False
    assert change.difference.value == pytest.approx(4.5, abs=0.02)
    added = (0.5 / 2) * student.ppf(0.975, 1) ** 2 + (1 / 3) * student.ppf(0.975, 2) ** 2
    assert change.difference.high - change.difference.value == pytest.approx(added**0.5, rel=0.02)


def test_a_parent_against_one_run(tmp_path):
    a = made_runs.evaluation(tmp_path / "base", PROMPTS)
    b = evaluations(tmp_path / "b", [0, 1, 2], [0, 0, 3])
    found, text, _ = compared(a, b)
    half = student.ppf(0.975, 2) * 3 / np.sqrt(3) / np.sqrt(3)
    gain = found[PICK].change.difference
    assert gain.high - gain.value > half
    assert "base: one run, whose own seed is not in the interval." in text


def test_trainings_are_compared_by_their_held_out_images(tmp_path):
    a = made_runs.training(tmp_path / "a", slope=1.0)
    b = made_runs.training(tmp_path / "b", slope=2.0)
    found, text, _ = compared(a, b)
    assert found[PICK].change.difference.value == 2.5
    assert (found[PICK].wins, found[PICK].losses) == (4, 0)
    assert "Held-out images of the policies at the end" in text
    seeds = write_parent(tmp_path / "c", [0, 1])
    for run, slope in zip(seeds, (2.0, 4.0), strict=True):
        made_runs.training(run, slope=slope)
    found, text, _ = compared(a, tmp_path / "c")
    assert found[PICK].change.difference.value == 5
    (seeds[1] / "held_out" / "after.parquet").unlink()
    found, text, _ = compared(a, tmp_path / "c")
    assert found[PICK].change.difference.value == 2.5
    assert "c: seed 1 missing or not finished, left out." in text


def test_a_training_and_an_evaluation_are_not_compared(tmp_path):
    a = made_runs.training(tmp_path / "a")
    b = made_runs.evaluation(tmp_path / "b", PROMPTS)
    with pytest.raises(ConfigError, match=r"evaluate the training first: nftbench eval .*/a"):
        compared(a, b)


def test_trainings_that_were_validated_otherwise_are_refused(tmp_path):
    a, b = made_runs.training(tmp_path / "a"), made_runs.training(tmp_path / "b")
    path = b / "held_out" / "measured.json"
    noted = json.loads(path.read_text("utf-8"))
    noted["sets"]["made"]["whole"]["num_inference_steps"] = 9
    path.write_text(json.dumps(noted), "utf-8")
    with pytest.raises(ConfigError, match="num_inference_steps: 4 here, 9 there"):
        compared(a, b)
    assert compared(a, b, force=True)[0][PICK].change.difference.value == 0
    path.unlink()
    with pytest.raises(ConfigError, match="does not say how it was validated"):
        compared(a, b)


def test_a_training_that_went_on_after_its_end_was_measured_is_not_finished(tmp_path):
    """Its held-out images are those of a policy that it has left behind."""
    a, b = made_runs.training(tmp_path / "a"), made_runs.training(tmp_path / "b")
    path = a / "held_out" / "measured.json"
    noted = json.loads(path.read_text("utf-8")) | {"tables": {"after": {"done": 4}}}
    path.write_text(json.dumps(noted), "utf-8")
    assert compared(a, b)[0][PICK].change.difference.value == 0
    with (a / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"iteration": 5}\n')
    with pytest.raises(ConfigError, match="a is not finished: its end was not measured; run: nft"):
        compared(a, b)


def parent_of_two(tmp_path, **changes):
    """Two seeds under `p`; in the second one's recipe.json these keys are others."""
    for run in write_parent(tmp_path / "p", [0, 1]):
        made_runs.training(run)
    made_runs.training(tmp_path / "other")
    path = tmp_path / "p" / "seed-1" / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize("command", [("report", "p"), ("compare", "other", "p"), ("eval", "p")])
def test_seeds_of_several_trainings_have_no_mean(tmp_path, monkeypatch, command):
    """Neither of two recipes, nor of one that named the same file, which held something else."""
    monkeypatch.setattr("nftbench.training.seeds.is_finished", lambda run: True)
    parent_of_two(tmp_path, algorithm="flow-grpo")
    code, said = run_here(tmp_path, *command)
    assert code == 2 and "was trained with algorithm flow-grpo, where another seed has nft" in said
    for seed, digest in enumerate(("a", "b")):
        path = tmp_path / "p" / f"seed-{seed}" / "recipe.json"
        recipe = json.loads(path.read_text("utf-8")) | {"algorithm": "nft"}
        recipe["run"] = {"digests": {"prompts of stage 1": digest}}
        path.write_text(json.dumps(recipe), "utf-8")
    code, said = run_here(tmp_path, *command)
    assert code == 2 and "seed-1: prompts of stage 1 has digest b, where another seed" in said


def test_a_seed_of_a_version_that_lacks_a_setting_has_its_default(tmp_path):
    """Nor do the words of a recipe matter, such as what was found with it."""
    parent_of_two(tmp_path, guards={"idle": {"warn": 10}}, evidence="more is known since")
    assert run_here(tmp_path, "report", "p") == (0, ANY)
    assert run_here(tmp_path, "compare", "other", "p") == (0, ANY)


def test_a_held_out_table_that_another_run_wrote_is_refused(tmp_path):
    """A comparison, and a mean over seeds, took whatever lay there."""
    for run in write_parent(tmp_path / "p", [0, 1]):
        made_runs.training(run)
        path = run / "held_out" / "measured.json"
        noted = {"after": {"done": 4, "sha256": "ab12"}}
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"tables": noted}))
    for command in (("report", "p"), ("compare", "p/seed-0", "p/seed-1")):
        code, said = run_here(tmp_path, *command)
        assert code == 2 and "after.parquet is not the table that the training wrote" in said


def test_a_copy_of_an_evaluation_is_no_second_seed(tmp_path):
    folders = write_parent(tmp_path / "p", [0, 1])
    made_runs.evaluation(folders[0], PROMPTS)
    shutil.copytree(folders[0], folders[1])
    made_runs.evaluation(tmp_path / "other", PROMPTS)
    for command in (("report", "p"), ("compare", "other", "p")):
        code, said = run_here(tmp_path, *command)
        assert code == 2 and "hold images of one checkpoint (ab120), which are no two seeds" in said


def test_a_seed_that_a_guard_stopped_is_said_wherever_a_mean_lacks_it(tmp_path):
    """The mean of those that held flatters the recipe; the report even called it the mean of all."""
    for run in write_parent(tmp_path / "p", [0, 1, 2]):
        made_runs.training(run)
    stopped = tmp_path / "p" / "seed-1"
    (stopped / "held_out" / "after.parquet").unlink()
    with (stopped / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"iteration": 5, "guards": ["warn: kl: far", "stop: kl: away"]}\n')
    made_runs.training(tmp_path / "other")
    code, said = run_here(tmp_path, "compare", "other", "p")
    assert code == 0 and "p: seed 1 stopped by a guard, left out." in " ".join(said.split())
    code, said = run_here(tmp_path, "report", "p")
    page = (tmp_path / "p" / "report" / "index.html").read_text("utf-8")
    assert "; mean over seeds 0, 2: seed 1 stopped by a guard, left out</caption>" in page


def test_seeds_that_were_drawn_differently_are_refused(tmp_path):
    folders = write_parent(tmp_path / "p", [0, 1])
    made_runs.evaluation(folders[0], PROMPTS)
    made_runs.evaluation(folders[1], PROMPTS, guidance=4.5)
    with pytest.raises(
        ConfigError, match=r"guidance_scale: 1\.0 here, 4\.5 there; evaluate all seeds"
    ):
        rows_of(read_result(tmp_path / "p"))
    with pytest.raises(ConfigError, match="evaluate all seeds alike"):
        compared(tmp_path / "p", folders[0])


def test_rows_over_seeds_against_a_loop(tmp_path):
    parent = evaluations(tmp_path / "p", [0, 1, 2], [0, 1, 5])
    row = next(r for r in rows_of(read_result(parent)) if str(r.spelled) == PICK)
    tables = [
        pd.read_parquet(r / "made" / "samples.parquet") for r in sorted(parent.glob("seed-*"))
    ]
    images = np.mean([t[PICK].to_numpy(np.float64) for t in tables], axis=0)
    alone = clustered_mean(images, tables[0]["prompt_id"].to_numpy(), MetricRange(low=0, high=30))
    means = [t[PICK].mean() for t in tables]
    added = np.var(means, ddof=1) / 3
    assert row.value == pytest.approx(images.mean()) and row.n == 16
    assert row.stderr == pytest.approx(np.sqrt(alone.stderr**2 + added), rel=1e-5)
    half = np.hypot(alone.high - alone.value, student.ppf(0.975, 2) * np.sqrt(added))
    assert row.high - row.value == pytest.approx(half, rel=1e-5)


def test_rows_of_seeds_that_agree_are_those_of_one(tmp_path):
    parent = tmp_path / "p"
    for run in write_parent(parent, [0, 1]):
        made_runs.evaluation(run, PROMPTS)
    alone = run_rows(Run(parent / "seed-0"))
    for one, other in zip(rows_of(read_result(parent)), alone, strict=True):
        assert one.model_dump(exclude={"value", "stderr", "low", "high"}) == other.model_dump(
            exclude={"value", "stderr", "low", "high"}
        )
        for field in ("value", "stderr", "low", "high"):
            assert getattr(one, field) == pytest.approx(
                getattr(other, field), rel=1e-6, nan_ok=True
            )


@pytest.mark.slow
def test_the_report_of_evaluated_seeds(tmp_path):
    a = made_runs.evaluation(tmp_path / "base", PROMPTS)
    b = evaluations(tmp_path / "b", [0, 1], [0, 3])
    page = write_report([a, f"{b}=NFT"], tmp_path / "out", quiet).page.read_text("utf-8")
    assert "NFT: mean over seeds 0, 1." in page and "base and NFT: base: one run" in page
    data = (tmp_path / "out" / "data" / "0.js").read_text("ascii")
    sides = json.loads(data.removeprefix("REPORT.add(").removesuffix(");\n"))["runs"]
    assert [(s["letter"], s["name"]) for s in sides] == [
        ("A", "base"),
        ("B", "NFT, seed 0"),
        ("B", "NFT, seed 1"),
    ]
    assert sides[2]["file"][0] == "images/Bseed-1-0/00000.png"


def test_the_command_takes_labels_and_writes_them(tmp_path):
    a = made_runs.evaluation(tmp_path / "a", PROMPTS)
    b = made_runs.evaluation(tmp_path / "b", PROMPTS, shift=1.0)
    labels = f"{a}==1+1", f"{b}=<b>B</b> & C_1"
    out = tmp_path / "c.csv"
    result = CliRunner().invoke(cli.app, ["compare", *labels, "--out", str(out)])
    assert result.exit_code == 0, result.output
    row = next(csv.DictReader(io.StringIO(out.read_text("utf-8"))))
    assert row["run_a"] in ("'=1+1", "=1+1") and row["run_b"] == "<b>B</b> & C_1"
    result = CliRunner().invoke(cli.app, ["compare", *labels, "--format", "html"])
    assert "&lt;b&gt;B&lt;/b&gt; &amp; C_1" in result.output and "<b>B</b>" not in result.output
    result = CliRunner().invoke(cli.app, ["compare", f"{a}=", str(b)])
    assert result.exit_code == 2 or isinstance(result.exception, ConfigError)


def test_eval_of_a_parent_evaluates_each_seed_and_shows_their_mean(tmp_path, monkeypatch):
    """The drawing itself is `tests/evaluation`'s; here each seed's checkpoint gets its folder."""
    trained = tmp_path / "trained"
    for folder in write_parent(trained, [0, 4, 5]):
        made_runs.training(folder)
    (trained / "seed-5" / "held_out" / "after.parquet").unlink()  # not finished
    asked = []

    def evaluated(checkpoint, *_, out, **__):
        asked.append((checkpoint, out))
        run = Run(made_runs.evaluation(out, PROMPTS))
        return run, run_rows(run)

    monkeypatch.setattr("nftbench.commands.evaluate_checkpoint", evaluated)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli.app, ["eval", str(trained), "--out", str(out), "--max-failed", "1"]
    )
    assert result.exit_code == 0, result.output
    assert asked == [(str(trained / f"seed-{s}"), out / f"seed-{s}") for s in (0, 4)]
    assert "out: mean over seeds 0, 4." in result.output
    assert read_result(out).seeds == (0, 4)
    result = CliRunner().invoke(cli.app, ["eval", str(trained), "--publish"])
    assert "--publish takes one run" in str(result.exception)


def test_what_a_table_lacks_of_several_seeds_is_asked_of_each(tmp_path, monkeypatch):
    """Scored where the images are there, drawn by all trainings of the parent where they are not."""
    monkeypatch.setattr(made_runs, "BENCHMARK", "geneval-pocket")
    evaluated, trained = tmp_path / "evaluated", tmp_path / "trained"
    for run, training in zip(
        write_parent(evaluated, [3, 4]), write_parent(trained, [3, 4]), strict=True
    ):
        made_runs.evaluation(run, PROMPTS)
        manifest = Run(run).manifest
        rows = [row.model_copy(update={"model": str(training)}) for row in run_rows(Run(run))]
        checkpoint = manifest["checkpoint"] | {"name": str(training)}
        Run(run).save_manifest(manifest | {"checkpoint": checkpoint})
        Run(run).save_rows(rows)
    columns = (Column(name="A", benchmark="geneval-pocket", metric="jpeg"),)
    columns += (Column(name="B", benchmark="ocr-pocket", metric="jpeg"),)
    names = ("geneval-pocket", "ocr-pocket")
    suite = Suite(name="made", title="Made", benchmarks=names, columns=columns)
    (line,) = [one for one in paper_table(suite, [str(evaluated)]).lines if one.result]
    assert [c.command for c in line.cells] == [f"nftbench eval {trained} --suite made"] * 2
    monkeypatch.setattr(Wanted, "faults", lambda *_: ())  # images drawn as the column asks
    (line,) = [one for one in paper_table(suite, [str(evaluated)]).lines if one.result]
    assert line.cells[0].command == " && ".join(
        f"nftbench score {evaluated}/seed-{seed} --rewards jpeg" for seed in (3, 4)
    )
