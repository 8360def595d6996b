import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbench.cli.results import report as cli_report
from nftbench.reporting.html_report import charts as report_charts
from nftbench.reporting.html_report import data as report_data
from nftbench.reporting.html_report.build import ASSETS, PAGE, script, write_report
from nftbench.runs.io import write_table
from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import UNBOUNDED
from rewards.base import ConfigError
from tests.helpers.runs import made_runs

HOSTILE = '<script>window.owned = 1</script> & "quotes" </script><img src=x onerror=owned=1>'
PROMPTS = ["a star", "two stars", HOSTILE, "a red star"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def quiet(*_):
    """Told of progress, says nothing."""


def data_of(out, number=0):
    text = (out / "data" / f"{number}.js").read_text("ascii")
    return json.loads(text.removeprefix("REPORT.add(").removesuffix(");\n"))


@pytest.fixture
def runs(tmp_path):
    return [
        made_runs.evaluation(tmp_path / "base", PROMPTS),
        made_runs.evaluation(tmp_path / "guided", PROMPTS, shift=1.5, guidance=4.5),
    ]


# --- what leaves Python for the page --------------------------------------------------------------


@settings(max_examples=50)
@given(st.dictionaries(TEXT, st.lists(TEXT | st.none() | st.integers())))
def test_data_in_a_script_is_the_same_data_and_can_end_no_script(data):
    written = script(data).decode("ascii")
    assert json.loads(written.removeprefix("REPORT.add(").removesuffix(");\n")) == data
    assert not set("<>&") & set(written)


def test_prompts_stay_text_in_the_page_and_in_the_data(tmp_path, runs):
    out = tmp_path / "out"
    write_report(runs, out, quiet)
    assert "<script>window.owned" not in (out / PAGE).read_text("utf-8")
    assert "<script>" not in (out / "data" / "0.js").read_text("ascii")
    assert data_of(out)["prompts"][2] == ["0002", HOSTILE, "single_object"]


def test_words_of_a_run_are_escaped_in_the_page(tmp_path):
    folder = made_runs.training(tmp_path / "<b>bold<b>")
    write_report([folder], tmp_path / "out", quiet)
    page = (tmp_path / "out" / PAGE).read_text("utf-8")
    assert "&lt;b&gt;bold&lt;b&gt;" in page and "<b>bold" not in page
    assert "&lt;b&gt;x_0_norm&lt;/b&gt; grew" in page


def test_the_page_asks_nothing_of_a_network_and_names_no_place_of_this_machine(tmp_path, runs):
    out = tmp_path / "out"
    write_report(runs, out, quiet)
    texts = [p.read_text("utf-8") for p in out.rglob("*") if p.suffix in (".html", ".js", ".css")]
    assert len(texts) == 2 + len(ASSETS)  # the page and the samples beside them
    for text in texts:
        assert str(tmp_path) not in text
        assert "https://" not in text and "url(" not in text and "@import" not in text
    assert "http://" not in "".join(texts).replace("http://www.w3.org/2000/svg", "")


def test_deleted_images_are_counted_and_the_report_is_made(tmp_path, runs):
    (runs[0] / made_runs.BENCHMARK / "images" / "0001-01.png").unlink()
    written = write_report(runs, tmp_path / "out", quiet)
    assert (written.images, written.missing) == (16, 1)
    side = data_of(tmp_path / "out")["runs"][0]
    assert [i for i, fault in enumerate(side["fault"]) if fault] == [3]
    assert side["file"][3] == "" and side["file"][2] == "images/A-0/00002.png"
    assert "1 of 16 images missing" in (tmp_path / "out" / PAGE).read_text("utf-8")


# --- numbers --------------------------------------------------------------------------------------


def test_samples_of_two_runs_stand_side_by_side(tmp_path, runs):
    write_report(runs, tmp_path / "out", quiet)
    data = data_of(tmp_path / "out")
    assert data["metrics"] == ["geneval@made", "geneval@made:strict", "pick@made", "ocr@made"]
    assert data["passing"] == "geneval@made"
    assert data["prompt"] == [0, 0, 1, 1, 2, 2, 3, 3] and data["index"] == [0, 1] * 4
    assert (
        data["seed"]
        == pd.read_parquet(runs[0] / "made" / "samples.parquet")["seed"].astype(str).tolist()
    )
    a, b = data["runs"]
    assert a["values"]["pick@made"] == [20, 21, 22, 23, 24, 20, 21, 22]
    assert b["values"]["pick@made"] == [21.5, 22.5, 23.5, 24.5, 25.5, 21.5, 22.5, 23.5]
    assert a["values"]["ocr@made"] == [None] + [0.75] * 7
    assert a["details"]["ocr@made"][0]["reason"] == "the OCR engine failed"
    assert a["details"]["geneval@made"][5]["evidence"]["boxes"] == {"star": [[2, 3, 9, 12, 0.9]]}
    assert b["details"]["pick@made"][1] == {"evidence": {"reply": "Final Score: 4"}}


def test_runs_of_other_noise_share_no_image(tmp_path):
    one = made_runs.evaluation(tmp_path / "one", PROMPTS)
    other = made_runs.evaluation(tmp_path / "other", PROMPTS, seed=1)
    write_report([one, other], tmp_path / "out", quiet)
    data = data_of(tmp_path / "out")
    assert len(data["key"]) == 16
    assert data["runs"][0]["fault"] == [""] * 8 + [None] * 8
    assert data["runs"][1]["fault"] == [None] * 8 + [""] * 8
    assert "no pairs" in (tmp_path / "out" / PAGE).read_text("utf-8")


@pytest.mark.slow
def test_the_difference_of_pairs_is_exact_and_names_the_protocol_field(tmp_path, runs):
    (a, b), _ = report_data.read_runs(runs)
    row = b.row("made", "pick@made", "image_mean")
    found = report_data.difference(a, b, row)
    assert (found.value, found.n) == (1.5, 8)
    assert np.isnan(
        [found.low, found.high]
    ).all()  # four prompts that gain the same cannot tell it from chance
    write_report(runs, tmp_path / "out", quiet)
    page = (tmp_path / "out" / PAGE).read_text("utf-8")
    assert "Protocols or rewards differ: guidance_scale (A 1.0, B 4.5)." in page
    assert "+1.500" in page


def test_the_difference_of_pairs_is_that_of_an_obvious_loop(tmp_path, runs):
    path = runs[1] / "made" / "samples.parquet"
    table = pd.read_parquet(path).sample(frac=1, random_state=0)  # another order changes nothing
    table["pick@made"] = np.random.default_rng(1).normal(size=len(table)).astype(np.float32)
    table.attrs.clear()  # what the file noted of its content
    table.to_parquet(path)
    (a, b), _ = report_data.read_runs(runs)
    gained, prompts = [], []
    for _, mine in a.tables["made"].iterrows():
        for _, theirs in b.tables["made"].iterrows():
            if all(mine[k] == theirs[k] for k in ("prompt_id", "image_index", "seed")):
                gained.append(float(theirs["pick@made"]) - float(mine["pick@made"]))
                prompts.append(mine["prompt_id"])
    found = report_data.difference(a, b, b.row("made", "pick@made", "image_mean"))
    wanted = clustered_mean(np.array(gained), np.array(prompts), UNBOUNDED)
    assert (
        found.n == 8
        and found.value == pytest.approx(wanted.value)
        and found.stderr == pytest.approx(wanted.stderr)
    )


def test_passing_is_the_first_column_of_noughts_and_ones(tmp_path, runs):
    evaluated, _ = report_data.read_runs(runs)
    assert report_data.passing(evaluated, "made") == "geneval@made"
    for one in evaluated:
        one.tables["made"]["geneval@made"] = np.float32(0.5)
    assert report_data.passing(evaluated, "made") == "geneval@made:strict"
    for one in evaluated:
        one.tables["made"]["geneval@made:strict"] = np.float32(np.nan)
    assert report_data.passing(evaluated, "made") == ""


# --- charts ---------------------------------------------------------------------------------------


def test_a_histogram_is_shares_of_images_and_leaves_out_noughts_and_ones(tmp_path, runs):
    evaluated, _ = report_data.read_runs(runs[:1])
    columns = evaluated[0].metrics("made")
    plots = report_charts.distributions(evaluated, "made", columns)
    assert [plot.title for plot in plots] == ["pick@made", "ocr@made"]
    shares = [share for _, share in json.loads(plots[0].lines[0].points)]
    assert sum(shares) == pytest.approx(1, abs=1e-5) and len(shares) == report_charts.BINS
    assert shares[0] == 2 / 8 and shares[-1] == 1 / 8  # 20 twice, 24 once
    assert plots[0].lines[0].last == "mean 21.625"
    assert plots[1].lines[0].last == "mean 0.750"


def test_bars_stand_where_their_values_are_and_whiskers_stay_on_the_axis(runs):
    evaluated, _ = report_data.read_runs(runs)
    chart = report_charts.bars(evaluated, "made")[0]
    assert chart.title == "geneval@made"
    assert [label for label, _ in chart.groups] == [
        "single object",
        "two object",
        "task mean",
        "image mean",
    ]
    for _, bars in chart.groups:
        assert [(bar.letter, bar.value, bar.name) for bar in bars] == [
            ("A", 50, "0.500"),
            ("B", 50, "0.500"),
        ]
        assert all(0 <= bar.low <= bar.value <= bar.high <= 100 for bar in bars)


def test_a_number_that_is_none_is_said_so():
    assert report_charts.number(math.nan) == "none" and report_charts.number(-0.12345) == "-0.123"


# --- trainings ------------------------------------------------------------------------------------


def test_images_that_failed_after_a_training_are_counted_and_shown(tmp_path):
    folder = made_runs.training(tmp_path / "run", slope=2.0)
    path = folder / "held_out" / "after.parquet"
    table = pd.read_parquet(path)
    table.loc[:1, "pick@made"] = np.nan  # both images of the prompt that gained least
    write_table(path, table)
    page = write_report([folder], tmp_path / "out", quiet).page.read_text("utf-8")
    row = page[page.index("<td>pick@made</td>") :].partition("</tr>")[0]
    cells = re.findall(r">([^<>]+)</td>", row)
    assert cells[:5] == ["pick@made", "image mean", "24.500", "30.500", "+6.000"]
    assert cells[-2:] == ["6", "2"]


def test_a_broken_held_out_table_is_refused(tmp_path):
    folder = made_runs.training(tmp_path / "run")
    (folder / "held_out" / "after.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match="broken held-out tables"):
        write_report([folder], tmp_path / "out", quiet)


def test_trainings_head_to_head_and_beside_an_evaluation(tmp_path, runs):
    folders = [runs[0], *(made_runs.training(tmp_path / f"t{i}", slope=i) for i in (1, 2))]
    written = write_report(folders, tmp_path / "out", quiet)
    page = written.page.read_text("utf-8")
    start = page.index("Held-out reward against wall-clock")
    plot = page[start : page.index("</figure>", start)]
    assert (
        '<g class="run-B">' in plot
        and '<g class="run-C">' in plot
        and '<g class="run-A">' not in plot
    )
    assert page.count('data-iteration="2"') == 2
    assert (tmp_path / "out" / "images" / "C-grids" / "00001.png").is_file()


# --- folders --------------------------------------------------------------------------------------


def test_a_report_replaces_a_report_and_nothing_else(tmp_path, runs):
    first = write_report(runs[:1], None, quiet)
    assert first.page == (runs[0] / "report" / PAGE).absolute()
    (first.page.parent / "images" / "stale.png").write_bytes(b"")
    write_report(runs[:1], None, quiet)
    assert not (first.page.parent / "images" / "stale.png").exists()
    assert sorted(p.name for p in runs[0].iterdir()) == [
        "made",
        "manifest.json",
        "report",
        "rows.csv",
    ]
    with pytest.raises(ConfigError, match="holds something that is not a report"):
        write_report(runs[:1], runs[1], quiet)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_report(runs[:1], runs[1] / "rows.csv", quiet)


def test_a_report_that_is_stopped_leaves_the_old_one(tmp_path, runs):
    out = tmp_path / "out"
    write_report(runs[:1], out, quiet)
    before = (out / PAGE).read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(runs, out, stop)
    assert (out / PAGE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "guided", "out"]


@pytest.mark.slow
def test_two_reports_of_one_run_are_the_same_bytes(tmp_path, runs):
    for name in ("one", "two"):
        write_report(runs, tmp_path / name, quiet)
    files = sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()
    )
    assert len(files) == 2 + len(ASSETS) + 16
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def empty_rows(run):
    header = (run / "rows.csv").read_text("utf-8").splitlines()[0]
    (run / "rows.csv").write_text(f"{header}\n", "utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "manifest.json").unlink(), "is not a run: it holds neither"),
        (lambda run: (run / "rows.csv").unlink(), "has no rows yet; run: nftbench score"),
        (empty_rows, "is not finished: made has no rows"),
        (
            lambda run: (run / "made" / "samples.parquet").unlink(),
            "is not finished: made has no samples.parquet",
        ),
        (
            lambda run: (run / "made" / "samples.parquet").write_bytes(b"PAR1"),
            "samples.parquet is broken",
        ),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, runs, spoil, message):
    spoil(runs[0])
    with pytest.raises(ConfigError, match=message):
        write_report(runs, tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_run_named_twice_and_too_many_runs_are_refused(tmp_path, runs):
    with pytest.raises(ConfigError, match="one of them twice"):
        write_report([runs[0], runs[0]], None, quiet)
    with pytest.raises(ConfigError, match="expected 1 to 8 run folders, got 9"):
        write_report([tmp_path / str(i) for i in range(9)], None, quiet)


def test_the_command_says_where_the_report_is_and_what_is_missing(tmp_path, runs, capsys):
    (runs[0] / made_runs.BENCHMARK / "images" / "0000-00.png").unlink()
    cli_report.report(runs, tmp_path / "out")
    assert (
        capsys.readouterr().out
        == f"report: {tmp_path / 'out' / PAGE} (16 images, 1 of them missing)\n"
    )
