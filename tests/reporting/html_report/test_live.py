"""Runs in a browser while they go on: made anew when a run moves, read only, for this machine alone."""

import json
import shutil
import urllib.error
import urllib.request

import pytest

from nftbench.reporting.html_report.live import runs_below, serving
from rewards.base import ConfigError
from tests.helpers.browser import browser
from tests.helpers.eventually import eventually
from tests.helpers.runs import made_runs

HEADERS = {"Host": "localhost:1"}


def get(address: str, path: str = "", *, method: str = "GET", headers=HEADERS):
    request = urllib.request.Request(address + path, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def refused(address: str, *arguments, **more) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address, *arguments, **more)
    return error.value.code


@pytest.fixture
def run(tmp_path):
    return made_runs.training(tmp_path / "runs" / "train")


def add_iteration(run) -> None:
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    last = json.loads(lines[-1])
    last["iteration"] += 1
    (run / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(last)]) + "\n", "utf-8")


def test_the_page_is_made_anew_when_a_run_moves(run):
    with serving([run.parent], 0, 0.05) as address:
        done = json.loads(lines_of(run)[-1])["iteration"]
        assert f"{done} iterations done" in get(address)
        add_iteration(run)
        eventually(lambda: f"{done + 1} iterations done" in get(address))
        assert json.loads(get(address, "state.json"))["version"] >= 2


def test_a_run_that_has_only_begun_says_so(run):
    for folder in ("held_out", "grids"):
        shutil.rmtree(run / folder, ignore_errors=True)
    line = json.loads(lines_of(run)[0])
    bare = {k: v for k, v in line.items() if "/" not in k and k != "check"}
    (run / "metrics.jsonl").write_text(json.dumps(bare) + "\n", "utf-8")
    with serving([run], 0, 5) as address:
        assert "Nothing was measured yet" in get(address)


def lines_of(run) -> list[str]:
    return (run / "metrics.jsonl").read_text("utf-8").splitlines()


def test_a_broken_run_leaves_the_old_page_and_says_why(run):
    with serving([run], 0, 0.05) as address:
        (run / "metrics.jsonl").write_text("{\n", "utf-8")
        eventually(lambda: json.loads(get(address, "state.json"))["problem"])
        assert "iterations done" in get(address)


def test_a_folder_that_goes_away_and_comes_back(run, tmp_path):
    """As where a run is moved, or a network's disk is not there for a moment."""
    with serving([run.parent], 0, 0.05) as address:
        done = json.loads(lines_of(run)[-1])["iteration"]
        run.parent.rename(tmp_path / "away")
        eventually(lambda: "no folder" in json.loads(get(address, "state.json"))["problem"])
        assert f"{done} iterations done" in get(address)
        (tmp_path / "away").rename(run.parent)
        add_iteration(run)
        eventually(lambda: f"{done + 1} iterations done" in get(address))
        assert json.loads(get(address, "state.json"))["problem"] == ""


def test_only_the_report_is_served_and_only_to_this_machine(run, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    before = set(run.rglob("*"))
    with serving([run], 0, 60) as address:
        assert address.startswith("http://127.0.0.1:")
        assert refused(address, headers={"Host": "evil.example:80"}) == 403
        assert refused(address, "data/") == 404  # no listing
        assert refused(address, "../secret.txt") == 404
        assert refused(address, "%2e%2e/%2e%2e/secret.txt") == 404
        assert refused(address, method="POST") == 501
    assert set(run.rglob("*")) == before


def test_an_evaluation_under_way_is_named_and_not_shown(run, tmp_path):
    begun = made_runs.evaluation(tmp_path / "runs" / "eval", ["a star"])
    (begun / "rows.csv").unlink()
    with serving([run.parent], 0, 60) as address:
        state = json.loads(get(address, "state.json"))
        assert state["under_way"] and "eval: evaluation under way" in state["under_way"][0]


def test_runs_below_a_folder(run, tmp_path):
    (tmp_path / "runs" / "notes").mkdir()
    assert runs_below(run.parent) == [run] == runs_below(run)
    for number in range(9):
        shutil.copytree(run, run.parent / f"more-{number}")
    assert len(runs_below(run.parent)) == 8  # as many as there are letters
    with pytest.raises(ConfigError, match="no folder"):
        runs_below(tmp_path / "nothing")


def test_a_taken_port_is_one_line(run):
    with serving([run], 0, 60) as address:
        port = int(address.rpartition(":")[2].strip("/"))
        with (
            pytest.raises(ConfigError, match=f"port {port} cannot be used"),
            serving([run], port, 60),
        ):
            raise AssertionError("a port was served twice")


@pytest.mark.slow
def test_a_browser_follows_a_real_training(start, tmp_path):
    small = (
        "policy.rank=2",
        "optimizer.lr=1e-6",
        "guards.x_0_norm.stop=off",
        "guards.velocity_ratio.stop=off",
        "stages.groups=2",
        "stages.group_size=2",
        "stages.num_inference_steps=2",
    )
    more = ("evaluation.benchmarks=[]", "loggers=[]", 'stages.prompts=["geneval-pocket"]')
    settings = [part for setting in (*small, *more) for part in ("--set", setting)]
    command = start(
        "train", "--rewards", "jpeg", "--iterations", "2000", "--out", "runs/t", *settings
    )
    eventually(lambda: (tmp_path / "runs" / "t" / "metrics.jsonl").is_file(), seconds=120)
    with serving([tmp_path / "runs"], 0, 2) as address, browser() as one:
        page = one.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address, wait_until="domcontentloaded")
        seen = set()
        eventually(
            lambda: len(seen.add(page.locator("ul.runs").inner_text()) or seen) > 2, seconds=120
        )
    assert not problems
    assert (
        command.process.is_alive()
    )  # what was seen was seen while it went on; the fixture ends it
