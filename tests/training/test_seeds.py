"""Several seeds of one recipe by one command: a run each, made once; finished or not is a matter of the recipe."""

import shutil
from pathlib import Path

import pytest

from nftbench.commands import seeds_to_evaluate, train_seeds
from nftbench.training import Interrupted
from nftbench.training.config.record import stored_recipe
from nftbench.training.policy import precision
from nftbench.training.run import TrainingRun
from nftbench.training.seeds import is_finished, read_seeds
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import quietly, settings_of


def train(parent: Path, text: str, *settings: str) -> None:
    top = {"checkpoint": None, "algorithm": None, "seed": None}
    short = settings_of("stages.iterations=1", "evaluation.every=0", *settings)
    train_seeds(None, short, top, text, out=parent, progress=quietly, say=quietly)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two seeds, one iteration each, never validated."""
    folder = tmp_path_factory.mktemp("seeds") / "parent"
    train(folder, "0,1")
    return folder


@pytest.fixture
def parent(trained, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(trained, tmp_path / "parent")


def loras(parent: Path) -> dict[str, bytes]:
    return {p.parts[-3]: p.read_bytes() for p in sorted(parent.glob("*/lora/*.safetensors"))}


@pytest.mark.slow
def test_each_seed_is_another_policy(parent):
    assert list(loras(parent)) == ["seed-0", "seed-1"] and len(set(loras(parent).values())) == 2


def test_what_was_never_validated_is_finished_with_its_last_iteration(parent, tmp_path):
    assert is_finished(parent / "seed-0") and read_seeds(parent) == []
    runs = [run for run, _ in seeds_to_evaluate(str(parent), "geneval-pocket", tmp_path / "out")]
    assert runs == [str(parent / "seed-0"), str(parent / "seed-1")]


@pytest.mark.slow
def test_the_same_command_again_adds_what_is_missing_alone(parent):
    before = loras(parent)
    made = (parent / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    train(parent, "0,1,2")
    assert {k: v for k, v in loras(parent).items() if k != "seed-2"} == before
    assert (parent / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == made
    assert is_finished(parent / "seed-2")


@pytest.mark.parametrize("text", ["0", "0,1", "2"])
def test_seeds_of_another_recipe_are_refused_before_anything_is_done(parent, text):
    """What is there already would be a part of the mean, asked for or not."""
    before = {p: p.read_bytes() for p in parent.rglob("*") if p.is_file()}
    with pytest.raises(
        ConfigError, match=r"seed-0 was trained with optimizer\.lr .* 0\.01: seeds of two recipes"
    ):
        train(parent, text, "optimizer.lr=0.01")
    assert {p: p.read_bytes() for p in parent.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_seeds_of_other_prompts_under_one_name_are_refused(tmp_path):
    """The file was edited between two seeds: their mean was told, and said nothing."""
    (tmp_path / "mine.txt").write_text("a red cup\n", "utf-8")
    flags = [w for s in settings_of("evaluation.every=0") for w in ("--set", s)]
    flags += ["--set", f"stages.prompts={tmp_path / 'mine.txt'}", "--set", "stages.iterations=1"]
    train = ("train", "--recipe", "pocket", *flags, "--out", "parent", "--seeds")
    assert run_here(tmp_path, *train, "0")[0] == 0
    (tmp_path / "mine.txt").write_text("a dog\n", "utf-8")
    code, said = run_here(tmp_path, *train, "0,1")
    assert code == 2 and "parent/seed-1: prompts of stage 1 has digest" in said.splitlines()[-1]
    assert not (tmp_path / "parent" / "seed-1").exists()


def test_one_seed_under_several_names_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="leave out --set seed"):
        train(tmp_path / "new", "0,1", "seed=5")
    assert not (tmp_path / "new").exists()


def test_who_stops_a_seed_is_told_how_all_of_them_go_on(tmp_path, monkeypatch):
    """Ctrl-C while the first seed is loaded; a run alone is told of itself only."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_run", interrupted)
    with pytest.raises(Interrupted, match=r"stopped; .*all seeds go on by .* --out .*parent$"):
        train(tmp_path / "parent", "0,1")


@pytest.mark.slow
def test_what_the_machine_chose_for_one_seed_holds_for_the_others(tmp_path, monkeypatch):
    """Seed 0 on a machine without units for bf16, seed 1 on one that has them."""
    for units, text in ((False, "0"), (True, "0,1")):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, units=units: units)
        train(tmp_path / "parent", text, "policy.precision=auto")
    stored = [stored_recipe(tmp_path / "parent" / f"seed-{n}").policy.precision for n in (0, 1)]
    assert stored == ["no", "no"]


def test_an_iteration_that_was_not_done_is_missed(parent):
    metrics = parent / "seed-1" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:-1]))
    assert not is_finished(parent / "seed-1")


GUARDED = (
    "stages.iterations=3",
    "stages.groups=1",
    "stages.group_size=2",
    "stages.updates=1",
    "guards.brightness.warn=0",
    "guards.brightness.stop=0",
)
"""Stopped by a guard after the third iteration, which is the first that it looks at."""


def command(*settings: str) -> tuple[str, ...]:
    """`nftbench train` of one iteration, seldom validated, into `parent`."""
    short = settings_of("stages.iterations=1", "evaluation.every=0", *settings)
    flags = [word for setting in short for word in ("--set", setting)]
    return ("train", "--recipe", "pocket", *flags, "--out", "parent", "--seeds")


@pytest.mark.parametrize("how", ["copied", "swapped"])
def test_a_run_in_another_seeds_place_is_no_seed(parent, how):
    """A copy counted as a second seed that agreed to the last digit."""
    one, other = parent / "seed-0", parent / "seed-1"
    other.rename(parent / "aside")
    shutil.copytree(one, other)
    if how == "swapped":
        shutil.rmtree(one)
        (parent / "aside").rename(one)
    commands = ("report", "parent"), ("average", "parent", "--out", "mean"), (*command(), "0,1,2")
    for words in commands:
        code, said = run_here(parent.parent, *words)
        assert code == 2 and "is a run of seed" in said.splitlines()[-1], said
    assert not (parent / "seed-2").exists()


def test_a_seed_is_not_resumed_as_another_one(parent):
    code, said = run_here(
        parent.parent, "train", "--resume", "parent/seed-1", "--seed", "7", "--iterations", "2"
    )
    assert code == 2 and "parent/seed-1 is a run of seed 7, which belongs in seed-7" in said
    assert stored_recipe(parent / "seed-1").seed == 1


def test_a_seed_that_a_guard_stops_does_not_stop_the_others(tmp_path):
    """The same command again trained it on, past the guard, until it counted like any other."""
    code, said = run_here(tmp_path, *command(*GUARDED), "0,1")
    assert code == 3 and "seed 0: stopped by guard brightness" in said.splitlines()[-1]
    assert "; seed 1: stopped by guard brightness" in said.splitlines()[-1]
    metrics = [tmp_path / "parent" / f"seed-{n}" / "metrics.jsonl" for n in (0, 1)]
    before = [path.read_bytes() for path in metrics]
    code, said = run_here(tmp_path, *command(*GUARDED), "0,1")
    assert code == 3 and "nftbench train --resume parent/seed-1" in said.splitlines()[-1]
    assert "warning: parent: seeds 0, 1 stopped by a guard, left out" in said
    assert [path.read_bytes() for path in metrics] == before


def resumed(cwd: Path, run: str, *settings: str) -> tuple[int, str]:
    flags = [word for setting in settings for word in ("--set", setting)]
    return run_here(cwd, "train", "--resume", run, *flags)


def test_a_seed_that_went_on_past_a_guard_is_a_seed_still_and_said(tmp_path):
    """It learns what it would have; `guards.brightness.stop 0.0, where another seed has ...` said that it did not."""
    once = command(*GUARDED, "stages.iterations=4", "evaluation.every=0")
    assert run_here(tmp_path, *once, "0")[0] == 3
    others = ("guards.brightness.stop=0.9", "rollout.batch_size=2", "checkpoints.keep=1")
    code, said = resumed(tmp_path, "parent/seed-0", *others)
    assert code == 0, said
    code, said = run_here(tmp_path, *once, "0")
    assert code == 0 and "warning: parent: seed 0 trained on after a guard's stop" in said, said


def test_a_seed_whose_settings_were_others_on_the_way_is_none(parent):
    """Two recipes that ended alike: the one had another learning rate for half of its way, and nobody was told."""
    cwd, rate = parent.parent, stored_recipe(parent / "seed-0").optimizer.lr
    more = ("stages.iterations=2", "optimizer.lr=0.1"), (f"optimizer.lr={rate}",)
    for changes in more:
        assert resumed(cwd, "parent/seed-0", *changes)[0] == 0
    assert resumed(cwd, "parent/seed-1", *more[0][:1])[0] == 0
    for words in (("report", "parent"), (*command("stages.iterations=2"), "0,1,2")):
        code, said = run_here(cwd, *words)
        last = said.splitlines()[-1]
        assert code == 2 and f"trained with optimizer.lr {rate} up to iteration 1 and 0.1" in last
    assert not (parent / "seed-2").exists()


def test_a_refused_seed_is_not_noted(parent):
    """It was missing from every mean since, and nobody could tell why."""
    wrong = ("--set", "policy.targets=nosuch")
    code, said = run_here(parent.parent, *command(), "0,1", *wrong, "--out", "new")
    assert code == 2 and "no layer of" in said and not (parent.parent / "new").exists()
    shutil.rmtree(parent / "seed-1")
    (parent / "seed-1").mkdir()
    (parent / "seed-1" / "mine.txt").touch()
    before = (parent / "seeds.json").read_bytes()
    code, said = run_here(parent.parent, *command(), "1,6")
    assert (parent / "seeds.json").read_bytes() == before and code == 2


@pytest.mark.parametrize(
    "words", [("train", "parent"), ("inspect", "parent"), ("stress", "parent"), ("score", "parent")]
)
def test_several_seeds_are_no_checkpoint_and_no_run(parent, words):
    """It was said to lack a model_index.json or a manifest, which nobody could have given it."""
    code, said = run_here(parent.parent, *words)
    assert code == 2 and "parent holds a run a seed; " in said
    assert "name one of its runs: parent/seed-0" in said.splitlines()[-1]


def test_a_run_cannot_end_before_where_it_is(parent):
    """The recipe said fewer iterations than the policy that it was kept beside had had."""
    further = ("--set", "stages.iterations=2", "--set", "evaluation.every=0")
    alone = shutil.copytree(parent / "seed-0", parent.parent / "alone")
    assert run_here(parent.parent, "train", "--resume", "alone", *further)[0] == 0
    before = (alone / "recipe.json").read_bytes()
    code, said = run_here(parent.parent, "train", "--resume", "alone", "--iterations", "1")
    assert (
        code == 2 and "the last stage has done 2 iterations, and cannot end after 1; give 2" in said
    )
    assert (alone / "recipe.json").read_bytes() == before
