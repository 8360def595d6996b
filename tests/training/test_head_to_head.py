"""Where a curve crosses a threshold, by hand; the protocol that is shipped can be begun."""

import json
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from nftbench.training import TrainingFailed
from nftbench.training.algorithms import load_algorithm
from nftbench.training.callbacks.base import Iteration
from rewards.base import ConfigError
from tests.helpers.paths import ROOT
from tests.performance.head_to_head.__main__ import (
    PROTOCOL,
    Comparison,
    Meter,
    crossing,
    main,
    recipe_of,
)
from tests.performance.head_to_head.plot import drawn
from tests.performance.head_to_head.table import COSTS, _cost, _told, lines_of, ratios


def points(*scores: float) -> list[dict[str, float]]:
    return [
        {"images": 100.0 * i, "cpu_seconds": 2.0 * i, "network_calls": 10.0 * i, "score": score}
        for i, score in enumerate(scores)
    ]


def test_a_crossing_is_that_of_the_mean_of_three():
    found = crossing(points(0.3, 0.3, 0.3, 0.6, 0.6, 0.6), 0.55)  # means .3 .4 .5 .6
    assert found["images"] == pytest.approx(450) and found["cpu_seconds"] == pytest.approx(9)
    assert crossing(points(0.3, 0.9, 0.3, 0.3), 0.55) is None  # one high validation is none
    assert crossing(points(0.6, 0.6, 0.6), 0.55)["images"] == 200  # not known any earlier
    assert crossing(points(0.9, 0.9), 0.55) is None


def cost(size: float) -> dict[str, float]:
    return dict.fromkeys(COSTS, size)


def run(crossed: float | None, spent: float = 10.0) -> dict:
    return {"0.5": cost(crossed) if crossed else None, "spent": cost(spent)}


def told(a: list[dict], b: list[dict]) -> str:
    found = {name: {"confirmed": dict(enumerate(runs))} for name, runs in (("a", a), ("b", b))}
    return ratios(found, [0.5])[0].removeprefix("0.5: ").removeprefix("images b / a = ")


def test_ratios_say_what_is_not_known():
    """A censored run paid more than it spent, so a ratio over it is a bound, and one of two of them nothing."""
    assert (
        told([run(2), run(4)], [run(4), run(8)])
        == "2.00 (1.00 to 4.00); a 2 of 2 crossed, b 2 of 2 crossed"
    )
    assert told([run(2), run(4), run(4)], [run(4), run(8), run(None)]).startswith(
        "2.00 (1.00 to >5.00)"
    )
    assert told([run(2), run(4)], [run(None), run(None)]).startswith(">3.33 (>2.50 to >5.00)")
    assert told([run(2), run(None)], [run(None), run(8)]).startswith("unknown (<0.80 to >5.00)")
    assert told([run(None)], [run(None)]) == "a 0 of 1 crossed, b 0 of 1 crossed: no ratio"


def test_runs_that_do_not_cross_are_listed_as_more_than_they_spent():
    side = {
        "screened": [{"settings": ["x=1"], "points": points(0.4)}],
        "best": ["x=1"],
        "confirmed": {3: run(None, spent=26000)},
    }
    lines = lines_of({"a": side}, [0.5])
    assert lines[0] == "a screen 0.400 ['x=1'] (chosen)"
    assert lines[1].startswith("0.5 a seed 3: > 26,000 images")


def test_the_shipped_protocol_gives_both_sides_as_many_settings_that_load():
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    sides, protocol = file["sides"], file["protocol"]
    assert {len(side["settings"]) for side in sides.values()} == {6}
    for side in sides.values():
        recipes = [recipe_of(side, s, protocol, 7200) for s in side["settings"]]
        for recipe in recipes:
            load_algorithm(recipe.algorithm)(recipe)  # refuses nothing of it
            (stage,) = recipe.stages
            assert stage.iterations * stage.groups * stage.group_size == 7200
            assert recipe.policy == recipes[0].policy and stage.lr is None


@pytest.mark.parametrize(
    ("sides", "seeds", "wrong"),
    [
        ({"a": [], "b": []}, [1], "as many settings a side, at least one, got {'a': 0, 'b': 0}"),
        ({"a": [[]], "b": [[], []]}, [1], "as many settings a side"),
        ({"a": [[]]}, [1], "expected two sides"),
        ({"a": [[]], "b": [[]]}, [1, 1], "expected different confirm_seeds"),
        ({"a": [[]], "b": [[]]}, [], "expected different confirm_seeds, at least one"),
        ({"a": [[]], "b": [[]]}, [0, 1], "seed 0 chose the settings"),
    ],
)
def test_a_comparison_that_is_none_is_refused(tmp_path, sides, seeds, wrong):
    protocol = {"confirm_seeds": seeds, "screen_seed": 0}
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        Comparison(protocol, {n: {"settings": s} for n, s in sides.items()}, tmp_path)


def finished(whole: Comparison, name: str, *scores: float) -> None:
    """A run as `measure` leaves it."""
    folder = whole.out / name
    folder.mkdir()
    (folder / "recipe.json").write_text(whole.recipe(name).model_dump_json())
    (folder / "points.json").write_text(json.dumps(points(*scores)))


def test_runs_are_named_and_made_in_their_order(tmp_path):
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    nft = file["sides"]["nft"]
    sides = {n: nft | {"settings": nft["settings"][:2]} for n in ("a", "b-c")}
    whole = Comparison(file["protocol"] | {"confirm_seeds": [1, 2]}, sides, tmp_path)
    assert whole.names[:4] == ["a-screen-0", "a-screen-1", "b-c-screen-0", "b-c-screen-1"]
    assert whole.names[4:] == ["a-seed-1", "b-c-seed-1", "a-seed-2", "b-c-seed-2"]
    with pytest.raises(ConfigError, match="no run 'a-screen-7'; expected one of a-screen-0"):
        whole.make("a-screen-7")
    finished(whole, "a-screen-0", 0.1, 0.4)
    with pytest.raises(ConfigError, match="first make a-screen-1"):
        whole.make("a-seed-1")
    finished(whole, "a-screen-1", 0.1, 0.6)
    assert whole.best("a") == nft["settings"][1]
    assert whole.done("a-screen-1") and not whole.done("a-seed-1")


def said_by(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["head_to_head", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_finished_run_of_another_protocol_is_not_taken_for_this_ones(
    tmp_path, monkeypatch, capsys
):
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    finished(Comparison(file["protocol"], file["sides"], tmp_path), "nft-screen-0", 0.1, 0.4)
    other = PROTOCOL.read_text("utf-8").replace("optimizer.lr=7e-4", "optimizer.lr=8e-4")
    (tmp_path / "other.toml").write_text(other, "utf-8")
    protocol = ("--protocol", str(tmp_path / "other.toml"))
    for what in (("--table",), ("--run", "nft-screen-0")):
        code, said = said_by(monkeypatch, capsys, str(tmp_path), *protocol, *what)
        assert code == 2 and "nft-screen-0 is a finished run of another protocol" in said
        assert "(other optimizer.lr); choose another OUT" in said


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("screen_images = 7200", "screen_images = 7", "7 images are less than one iteration of"),
        ("screen_images = 7200", "", "protocol.screen_images: expected a value, got none"),
        ("screen_seed = 0", "screen_sed = 0", "unknown key 'protocol.screen_sed'"),
        ("[0.55, 0.65, 0.75]", "[]", "protocol.thresholds: expected a list of at least 1"),
        ("[0.55, 0.65, 0.75]", "[0.7, 0.5]", "expected rising thresholds"),
        ("[protocol]", "[protocol", "is no protocol: "),
    ],
)
def test_a_mistake_in_a_protocol_is_one_line(tmp_path, monkeypatch, capsys, old, new, wrong):
    (tmp_path / "mine.toml").write_text(PROTOCOL.read_text("utf-8").replace(old, new), "utf-8")
    out = str(tmp_path / "out")
    code, said = said_by(
        monkeypatch, capsys, out, "--protocol", str(tmp_path / "mine.toml"), "--run", "nft-screen-0"
    )
    assert code == 2 and wrong in said and said.count("\n") == 1


def test_a_setting_that_fails_is_over_and_said(tmp_path, monkeypatch):
    """As with a learning rate that is too high: the other settings are still tried."""
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    whole = Comparison(file["protocol"], file["sides"], tmp_path)

    class Failing:
        def __init__(self, recipe, folder, *_):
            self.recipe, self.folder, self.callbacks = recipe, folder, []
            self.trainer = Trainer(0)
            hook = lambda *_, **__: None  # noqa: E731
            self.policy = SimpleNamespace(denoiser=SimpleNamespace(register_forward_pre_hook=hook))

        def open(self, resume):
            self.folder.mkdir()
            (self.folder / "recipe.json").write_text(self.recipe.model_dump_json())

        def _iterate(self):
            (meter,) = self.callbacks
            meter(Iteration(done=0, metrics={"images": 0, meter.metric: 0.4}))
            raise TrainingFailed("the loss of iteration 1 is nan")

    monkeypatch.setattr("tests.performance.head_to_head.__main__.TrainingRun", Failing)
    (point,) = whole.make("nft-screen-0")
    assert point["score"] == 0.4 and point["failed"] == "the loss of iteration 1 is nan"
    assert "(failed: the loss of iteration 1 is nan)" in lines_of(whole.found(), [0.5])[0]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_comparison_is_made_whole_by_the_command(tmp_path):
    """Two sides, a setting each, two seeds of two iterations with a validation after each, by the script itself."""
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    small = [
        "stages.groups=1", "stages.group_size=2", "policy.compiled=false",
        "evaluation.limit=2", "evaluation.images_per_prompt=1", "evaluation.num_inference_steps=2",
    ]  # fmt: skip
    numbers = {"screen_images": 4, "confirm_images": 4, "confirm_seeds": [1], "every_images": 2}
    protocol = file["protocol"] | numbers | {"common": [*file["protocol"]["common"], *small]}
    protocol["validation"] = []
    sides = {
        name: side | {"settings": side["settings"][:1]} for name, side in file["sides"].items()
    }
    path, out = tmp_path / "small.toml", tmp_path / "out"
    path.write_text(toml_of({"protocol": protocol, "sides": sides}), "utf-8")
    command = [sys.executable, "-m", "tests.performance.head_to_head", str(out)]
    done = subprocess.run(
        [*command, "--protocol", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "result.json").read_text("utf-8"))
    for side in sides:
        (screened,) = found[side]["screened"]
        assert [point["images"] for point in screened["points"]] == [0, 2, 4]
        assert all(0 <= point["score"] <= 1 for point in screened["points"])
        assert found[side]["confirmed"]["1"]["spent"]["cpu_seconds"] > 0
    assert "nft seed 1" in done.stdout and "no ratio" in done.stdout
    (axes,) = drawn(found).axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(curves) == 4 and len(axes.lines) == 4 + len(protocol["thresholds"])


def test_the_published_table_is_what_the_committed_runs_give():
    found = json.loads(PROTOCOL.with_name("runs.json").read_text("utf-8"))
    table, thresholds = found.pop("table"), found.pop("protocol")["thresholds"]
    assert table == [*lines_of(found, thresholds), *ratios(found, thresholds)]
    document = (ROOT / "nftbench" / "training" / "README.md").read_text("utf-8")
    for threshold in map(str, thresholds):
        for side in found.values():
            for key in COSTS:
                cells = [_told(_cost(run, threshold, key)) for run in side["confirmed"].values()]
                assert f"| {', '.join(cells)} |" in document
    readme = (ROOT / "README.md").read_text("utf-8")
    for threshold in map(str, thresholds):
        runs = found["nft"]["confirmed"].values()
        cells = [_told(_cost(run, threshold, "images")) for run in runs]
        assert f"| {threshold} | {', '.join(cells)} |" in readme


def toml_of(value: dict) -> str:
    """Tables of tables, whose ends are plain values."""
    lines = []
    for section, fields in value.items():
        for name, field in fields.items():
            if isinstance(field, dict):
                inner = "\n".join(f"{k} = {json.dumps(v)}" for k, v in field.items())
                lines.append(f"[{section}.{name}]\n{inner}\n")
            else:
                lines.append(f"{section}.{name} = {json.dumps(field)}")
    return "\n".join(sorted(lines, key=lambda line: line.startswith("[")))


class Trainer:
    """As far as a meter looks into it."""

    def __init__(self, done: int) -> None:
        self.state = SimpleNamespace(done=done)
        self.iterate = dict


def metered(folder, done: int) -> Meter:
    denoiser = SimpleNamespace(register_forward_pre_hook=lambda *_, **__: None)
    run = SimpleNamespace(trainer=Trainer(done), policy=SimpleNamespace(denoiser=denoiser))
    return Meter(run, "m", 0.5, folder / "costs.jsonl")


def test_a_run_that_was_cut_counts_on_from_its_checkpoint(tmp_path):
    meter = metered(tmp_path, 0)
    for done in range(1, 5):
        meter.cpu_seconds, meter.network_calls = 2.0 * done, 10 * done
        values = {"images": 100 * done} | ({"m": 0.1 * done} if done % 2 == 0 else {})
        meter(Iteration(done=done, metrics=values))
    again = metered(tmp_path, 3)  # the checkpoint is one iteration behind the log
    assert (again.cpu_seconds, again.network_calls) == (6.0, 30)
    assert [point["score"] for point in again.points] == [0.2]
    anew = metered(tmp_path, 0)
    assert (anew.cpu_seconds, anew.points) == (0.0, [])
