"""Two runs, pair by pair: by hand, against a slow oracle, refused where they are not alike."""

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test, ttest_rel
from typer.testing import CliRunner

from nftbench.cli import main as cli
from nftbench.reporting import compare as comparing
from nftbench.reporting.results import read_result
from nftbench.reporting.tables.text_tables import render
from nftbench.runs.io import write_table
from nftbench.runs.run_folder import Run
from nftbench.runs.seeds import write_parent
from nftbench.stats.estimates import clustered_mean, task_mean
from nftbench.stats.intervals import SHARE, UNBOUNDED
from nftbench.stats.paired import PAIR, Averaging, change, paired_samples, tally
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs import made_runs

PROMPTS = [f"prompt {i}" for i in range(8)]
GENEVAL, PICK, OCR = (info.key for info in made_runs.INFOS)


def run(folder, **changes) -> Run:
    return Run(made_runs.evaluation(folder, PROMPTS, **changes))


def compare(a: Run, b: Run, **options) -> list[comparing.Compared]:
    return comparing.compare(read_result(a.folder), read_result(b.folder), **options)


def grids(a: Run, b: Run, found) -> list:
    return comparing.grids(read_result(a.folder), read_result(b.folder), found)


def records(a: Run, b: Run, found) -> list:
    return comparing.records(read_result(a.folder), read_result(b.folder), found)


def edit(one: Run, **columns) -> pd.DataFrame:
    """Replace columns of a run's sample table."""
    path = one.samples_path(made_runs.BENCHMARK)
    table = pd.read_parquet(path).assign(**columns)
    write_table(path, table)
    return table


@pytest.fixture
def two(tmp_path) -> tuple[Run, Run]:
    """Sixteen images each; the second one's are drawn from other numbers."""
    rng = np.random.default_rng(0)
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    edit(a, **{PICK: rng.normal(20, 1, 16)})
    edit(b, **{PICK: rng.normal(21, 1, 16), GENEVAL: rng.integers(0, 2, 16).astype(np.float32)})
    return a, b


def by_metric(a: Run, b: Run, **options) -> dict:
    return {one.change.metric: one for one in compare(a, b, **options)}


# --- numbers --------------------------------------------------------------------------------------


def test_against_scipy_where_a_prompt_has_one_image(tmp_path):
    """Eight prompts, one image each: Student's interval, and all ways to swap A and B."""
    a, b = (run(tmp_path / n, images=1) for n in "ab")
    rng = np.random.default_rng(1)
    x, y = rng.normal(20, 1, 8), rng.normal(20.5, 1, 8)
    edit(a, **{PICK: x})
    edit(b, **{PICK: y})
    one, oracle = by_metric(a, b)[PICK], ttest_rel(y, x)
    swapped = permutation_test(
        (x, y), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=np.inf
    )
    assert one.change.significance.p == pytest.approx(swapped.pvalue, abs=1e-9)
    interval = oracle.confidence_interval(0.95)
    assert one.change.difference.low == pytest.approx(interval.low, rel=1e-9)
    assert one.change.difference.high == pytest.approx(interval.high, rel=1e-9)
    assert one.change.difference.value == pytest.approx(y.mean() - x.mean(), rel=1e-9)


def test_against_a_slow_oracle(two):
    """Pairs looked up one by one; GenEval by task, the others over images."""
    tables = [pd.read_parquet(r.samples_path(made_runs.BENCHMARK)) for r in two]
    places = [{(r.prompt_id, r.image_index): r._asdict() for r in t.itertuples()} for t in tables]
    numbered = {c: f"_{i + 1}" for i, c in enumerate(tables[0].columns)}
    found = by_metric(*two)
    for metric, by_task in ((GENEVAL, True), (PICK, False)):
        gained, prompts, tags = [], [], []
        for place, old in places[0].items():
            gained.append(float(places[1][place][numbered[metric]]) - float(old[numbered[metric]]))
            prompts.append(place[0])
            tags.append(old["tag"])
        arrays = np.array(gained), np.array(prompts), np.array(tags)
        expected = (
            task_mean(*arrays, SHARE.of_differences)
            if by_task
            else clustered_mean(*arrays[:2], UNBOUNDED)
        )
        got = found[metric].change.difference
        assert got.value == pytest.approx(expected.value, abs=1e-12)
        assert got.stderr == pytest.approx(expected.stderr, abs=1e-12)
        assert found[metric].change.aggregate == ("task mean" if by_task else "image mean")
        sums = [
            sum(g for g, q in zip(gained, prompts, strict=True) if q == p) for p in set(prompts)
        ]
        one = found[metric]
        assert one.wins == sum(s > 1e-9 for s in sums)
        assert one.losses == sum(s < -1e-9 for s in sums)
        assert one.wins + one.losses + one.ties == 8


def test_metrics_are_corrected_together(two):
    found = compare(*two)
    assert [one.change.metric for one in found] == [GENEVAL, f"{GENEVAL}:strict", PICK, OCR]
    p = np.array([one.change.significance.p for one in found])
    order = np.argsort(p)
    expected = np.maximum.accumulate(p[order] * np.arange(4, 0, -1)).clip(max=1)
    assert [found[i].corrected for i in order] == pytest.approx(expected.tolist())


def test_a_run_and_itself(tmp_path):
    a = run(tmp_path / "a")
    for one in compare(a, a):
        assert (one.change.difference.value, one.change.significance.p, one.corrected) == (0, 1, 1)
        assert (one.wins, one.losses, one.ties) == (0, 0, 8)
        assert one.alone == (0, 0)


def test_swapping_the_runs_swaps_the_signs(two):
    there, back = by_metric(*two), by_metric(*reversed(two))
    for metric, one in there.items():
        other = back[metric]
        assert other.change.difference.low == pytest.approx(-one.change.difference.high, abs=1e-12)
        assert (other.wins, other.losses, other.ties) == (one.losses, one.wins, one.ties)
        assert other.change.significance.p == pytest.approx(one.change.significance.p)


def test_unscored_images_take_their_counterparts_with_them(two):
    """OCR's first image failed in both; here another one fails in B alone."""
    values = np.full(16, 0.75, np.float32)
    values[5] = np.nan
    edit(two[1], **{OCR: values})
    gain = by_metric(*two)[OCR].change.difference
    assert (gain.n, gain.n_failed, gain.value) == (14, 2, 0)


def test_fewer_is_better_where_the_reward_says_so(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", shift=1.0)
    for one in (a, b):
        manifest = one.manifest
        manifest["rewards"][made_runs.BENCHMARK][PICK]["higher_is_better"] = False
        one.save_manifest(manifest)
        edit(one, **{f"{OCR}:spam": np.float32([0.5 if one is a else 0.0] * 16)})
    found = by_metric(a, b)
    assert (found[PICK].wins, found[PICK].losses) == (0, 8)
    assert (found[f"{OCR}:spam"].wins, found[f"{OCR}:spam"].losses) == (8, 0)


def test_images_without_a_counterpart_are_left_out_and_counted(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    path = b.samples_path(made_runs.BENCHMARK)
    table = pd.read_parquet(path)
    table.loc[0, "prompt"] = "another prompt of the same id"
    write_table(path, table.iloc[:-3])
    found = compare(a, b)
    assert found[0].alone == (4, 1) and found[0].change.difference.n == 12
    text = render("terminal", grids(a, b, found), records(a, b, found))
    assert "left out: 4 of A, 1 of B" in text


scores = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=20)


@pytest.mark.slow
@given(scores)
def test_every_prompt_wins_loses_or_ties(rows):
    """Gains in tenths, whose sums in binary are not quite 0 where they cancel."""
    table = pd.DataFrame(
        {
            "prompt_id": [f"p{p}" for _, p in rows],
            "tag": "",
            "image_index": range(len(rows)),
            "m": 0.7,
        }
    )
    after = table.assign(m=[0.7 + g / 10 for g, _ in rows])
    found = tally(paired_samples(table, after), "m")
    sums = {p: sum(g for g, q in rows if q == p) for _, p in rows}
    assert found.higher == sum(s > 0 for s in sums.values())
    assert found.lower == sum(s < 0 for s in sums.values())
    assert found.same == sum(s == 0 for s in sums.values())


def test_pairs_do_not_depend_on_the_order_of_rows(two):
    tables = [pd.read_parquet(r.samples_path(made_runs.BENCHMARK)) for r in two]
    pairs, shuffled = (
        paired_samples(*tables),
        paired_samples(tables[0].sample(frac=1, random_state=0), tables[1]),
    )
    for by_task in (True, False):
        how = Averaging(within=UNBOUNDED, by_task=by_task)
        one, other = (change(p, "made", PICK, how) for p in (pairs, shuffled))
        assert other.difference.stderr == pytest.approx(one.difference.stderr, rel=1e-12)
        assert other.significance.p == pytest.approx(one.significance.p, rel=1e-12)
    assert PAIR == ("prompt_id", "tag", "image_index")


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 60, 200])
def test_another_protocol_is_refused_by_name_and_marked_when_forced(tmp_path, length):
    """However long the folders' names are, a warning is a line of its own."""
    a, b = run(tmp_path / ("a" * length)), run(tmp_path / "b", guidance=4.5)
    with pytest.raises(ConfigError, match=r"made: guidance_scale: 1\.0 here, 4\.5 there.*--force"):
        compare(a, b)
    found = compare(a, b, force=True)
    assert found[0].shared.faults == ("guidance_scale: 1.0 here, 4.5 there",)
    for form in ("terminal", "markdown", "latex", "html", "csv"):
        text = render(form, grids(a, b, found), records(a, b, found))
        assert "4.5 there" in text
        assert form == "csv" or "FORCED: NOT ALIKE" in text
    lines = render("terminal", grids(a, b, found), []).splitlines()
    assert lines[1:3] == [
        "FORCED: NOT ALIKE",
        "Forced; here is A, there is B: guidance_scale: 1.0 here, 4.5 there.",
    ]


def test_another_reward_of_the_same_name_is_refused(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    manifest = b.manifest
    manifest["rewards"][made_runs.BENCHMARK][PICK]["weights"] = ["sha256 of others"]
    b.save_manifest(manifest)
    with pytest.raises(ConfigError, match=r"pick@made is another reward \(other weights\)"):
        compare(a, b)
    assert len(compare(a, b, force=True)) == 4


def test_a_reward_whose_file_was_edited_is_another_one(tmp_path):
    """Two versions of one's own code under one name were compared without a word."""
    for name in "abc":
        one = run(tmp_path / name)
        manifest = one.manifest
        digest = ("b" if name == "b" else "a") * 64
        reward = manifest["rewards"][made_runs.BENCHMARK][PICK]
        reward["source"] = f"{name}.py:Pick, sha256 {digest}"
        one.save_manifest(manifest)
    code, said = run_here(tmp_path, "compare", "a", "b")
    assert code == 2 and "pick@made is another reward (other code)" in said
    assert run_here(tmp_path, "compare", "a", "c")[0] == 0
    assert run_here(tmp_path, "report", "a", "b", "c")[0] == 0
    page = (tmp_path / "a" / "report" / "index.html").read_text("utf-8")
    assert "differ: in B pick@made is another reward (other code)." in page


def test_nothing_in_common_is_refused(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"ocr is in one of the runs at most; both hold: made"):
        compare(a, b, benchmark="ocr")
    edit(b, prompt="others")
    with pytest.raises(ConfigError, match="share no image"):
        compare(a, b)


def test_an_unfinished_or_broken_run_is_refused(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    path = b.samples_path(made_runs.BENCHMARK)
    path.write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match=r"samples\.parquet is broken.*nftbench score"):
        compare(a, b)
    path.unlink()
    with pytest.raises(ConfigError, match=r"is not finished: made has no samples\.parquet"):
        compare(a, b)


def test_of_two_protocols_the_same_one_is_compared(tmp_path):
    """Both runs hold the benchmark with and without guidance, in different order."""
    a, b = run(tmp_path / "a"), run(tmp_path / "b", guidance=4.5)
    for one, other, name in ((a, b, "made+x"), (b, a, "made+y")):
        manifest = json.loads((one.folder / "manifest.json").read_text("utf-8"))
        theirs = json.loads((other.folder / "manifest.json").read_text("utf-8"))
        manifest["protocols"][name] = theirs["protocols"]["made"]
        manifest["rewards"][name] = theirs["rewards"]["made"]
        table = made_runs.samples(PROMPTS, 2, 0, shift=3.0)
        write_table(one.samples_path(name), table)
        one.save_manifest(manifest)
    found = [one for one in compare(a, b) if one.change.metric == PICK]
    assert [(one.shared.name, one.shared.other) for one in found] == [
        ("made", "made+y"),
        ("made+x", "made"),
    ]
    assert [one.change.difference.value for one in found] == [3, -3]


# --- how it is shown ------------------------------------------------------------------------------


def test_no_run_is_compared_with_itself_and_no_two_are_called_alike(two, tmp_path):
    """Of a parent against one of its seeds, half of the difference would be of a run with itself."""
    a, b = (one.folder for one in two)
    parent = tmp_path / "seeds"
    seeds = [made_runs.evaluation(run, ["a", "b"]) for run in write_parent(parent, [0, 1])]
    twice, alike = "expected different runs, got one of them twice", "label 'mine' stands for two"
    for first, second, said in (
        (f"{a}=mine", a / ".." / a.name, twice),
        (parent, seeds[0], twice),
        (f"{a}=mine", f"{b}=mine", alike),
    ):
        result = CliRunner().invoke(cli.app, ["compare", str(first), str(second)])
        assert isinstance(result.exception, ConfigError) and str(result.exception).startswith(said)


def test_the_command_shows_and_writes(two, tmp_path):
    a, b = (str(one.folder) for one in two)
    result = CliRunner().invoke(cli.app, ["compare", a, b])
    assert result.exit_code == 0, result.output
    one = by_metric(*two)[PICK]
    gain = one.change.difference
    assert f"{gain.low:+.3f} to {gain.high:+.3f}" in result.output
    assert "corrected over the 4 metrics" in result.output
    out = tmp_path / "c.csv"
    assert CliRunner().invoke(cli.app, ["compare", a, b, "--out", str(out)]).exit_code == 0
    found = {r["metric"]: r for r in csv.DictReader(io.StringIO(out.read_text("utf-8")))}
    assert float(found[PICK]["p_holm"]) == pytest.approx(one.corrected)
    assert float(found[PICK]["smallest"]) == pytest.approx(one.change.significance.smallest)
    assert int(found[PICK]["wins"]) == one.wins


@pytest.mark.parametrize(
    ("gains", "small", "holds"),
    [
        ([0.1] * 7 + [8.0], True, True),
        ([1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.0], True, False),
        ([1.0, 1.1, 0.9, 1.0, 1.0, 0.0, 0.0, 0.0], False, True),
    ],
)
def test_an_interval_with_0_beside_a_small_p_is_explained(tmp_path, gains, small, holds):
    """Of eight prompts' differences only the first, of which one is eighty times the others, needs it."""
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    edit(a, **{PICK: np.full(16, 20.0)})
    edit(b, **{PICK: 20 + np.repeat(gains, 2)})
    one = by_metric(a, b)[PICK].change
    assert (one.significance.p < 0.05) == small
    assert (one.difference.low <= 0 <= one.difference.high) == holds
    code, said = run_here(tmp_path, "compare", "a", "b")
    said = " ".join(said.split())
    note = f"0 lies in the interval though p is below 0.05 for {PICK} ({one.aggregate}): p is of"
    assert code == 0 and said.count(note) == (small and holds)
    assert said.count("0 lies in the interval") == (small and holds)


def test_one_prompt_shows_nothing(tmp_path):
    """Nobody knows its interval: the range of differences, -30 to 30, was not measured."""
    a, b = (
        Run(made_runs.evaluation(tmp_path / n, ["one"], shift=s)) for n, s in (("a", 0), ("b", 1))
    )
    found = by_metric(a, b)[PICK]
    gain, tested = found.change.difference, found.change.significance
    assert math.isnan(gain.low) and math.isnan(gain.high)
    assert (tested.p, tested.smallest) == (1, math.inf)
    text = render("markdown", grids(a, b, [found]), [])
    assert "+1.000 | unknown | 1.000 | 1.000 | none |" in text


def test_two_prompts_that_gain_alike_are_no_evidence(tmp_path):
    """Half of all signs are as far from 0; the gain has no star."""
    a, b = (
        Run(made_runs.evaluation(tmp_path / n, ["one", "two"], shift=s))
        for n, s in (("a", 0), ("b", 1))
    )
    found = by_metric(a, b)[PICK].change
    assert (found.difference.value, found.significance.p) == (1, 0.5)
    assert math.isnan(found.difference.stderr)


def test_both_means_are_over_the_images_that_both_have(two):
    """A is right wherever B failed: B - A is 0, and so is the difference of the two means shown."""
    values = pd.read_parquet(two[0].samples_path(made_runs.BENCHMARK))[OCR].to_numpy(np.float32)
    some = values.copy()
    some[np.flatnonzero(values == np.nanmax(values))[:4]] = np.nan
    edit(two[1], **{OCR: some})
    found = by_metric(*two)[OCR].change
    assert found.difference.value == found.after.value - found.before.value == 0
    assert found.before.n == found.after.n == found.difference.n
