"""Checkpoints are whole or not there; what is damaged or foreign is said, set aside, and never trained from."""

import json
import pickle
import resource
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from nftbench.generation.checkpoint import load_model, trained_folder
from nftbench.runs.io import OLD, whole_folder
from nftbench.training import TrainingFailed
from nftbench.training.callbacks.checkpoints import checkpoints, load_state, warned
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import RECIPE, save_recipe, stored_recipe, stored_record
from nftbench.training.run import train
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import begin, metrics_of, quietly, small, tiny_checkpoint

pytestmark = pytest.mark.slow


def two() -> Recipe:
    """Two iterations, a checkpoint each."""
    return small("stages.iterations=2", "stages.updates=1", "checkpoints.every=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two iterations, a checkpoint each."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    begin(two(), folder).run()
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it that may be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "flipped bit": flipped,
    "gone": Path.unlink,
    "pickle": lambda p: p.write_bytes(pickle.dumps(print)),
    "text": lambda p: p.write_text("not at all"),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    "name",
    [
        "weights.safetensors",
        "optimizer.pt",
        "state.json",
        "sha256sums",
        "lora/pytorch_lora_weights.safetensors",
    ],
)
def test_a_damaged_checkpoint_is_one_line(run, how, name):
    newest = checkpoints(run / "checkpoints")[-1]
    DAMAGE[how](newest / name)
    with pytest.raises(ConfigError, match=r"not a valid checkpoint: .*000002: ") as caught:
        load_state(newest)
    assert "\n" not in str(caught.value)


def test_the_one_before_a_damaged_checkpoint_serves(trained, run):
    flipped(run / "checkpoints" / "000002" / "weights.safetensors")
    said = []
    begin(two(), run, resume=True, say=said.append).run()
    assert any("weights.safetensors is damaged" in s for s in said)
    assert any("falling back to the one before" in s for s in said)
    assert any("resuming from" in s and "000001" in s for s in said)
    assert (run / "checkpoints" / "damaged-000002").is_dir()
    assert metrics_of(run) == metrics_of(trained)
    lora = Path("lora", "pytorch_lora_weights.safetensors")
    assert (run / lora).read_bytes() == (trained / lora).read_bytes()


def test_a_checkpoint_of_another_run_is_not_resumed(run, tmp_path):
    other = tmp_path / "other"
    begin(small("stages.iterations=1", "seed=5", "checkpoints.every=1"), other).run()
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    with pytest.raises(ConfigError, match="belongs to run"):
        begin(two(), run, resume=True)


def test_a_checkpoint_that_stood_aside_is_found(run):
    folder = run / "checkpoints"
    (folder / "000002").rename(folder / f"000002{OLD}")
    assert [p.name for p in checkpoints(folder)] == ["000001", f"000002{OLD}"]
    assert load_state(checkpoints(folder)[-1]).train_state.done == 2


def test_a_folder_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "made"
    for text in ("first", "second"):
        with whole_folder(path) as made:
            (made / "file").write_text(text)
    with pytest.raises(OSError, match="disk"), whole_folder(path) as made:
        (made / "file").write_text("third")
        raise OSError("disk full")
    assert (path / "file").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_every_checkpoint_can_be_evaluated(trained):
    found = trained_folder(str(trained / "checkpoints" / "000001"))
    assert found is not None and found.base == str(tiny_checkpoint())


def test_after_a_guards_stop_the_last_good_checkpoint_is_from_before_the_trouble(tmp_path):
    limits = ("guards.kl.warn=0.0001", "guards.kl.stop=0.0001", "checkpoints.keep=1")
    small_steps = ("stages.iterations=4", "stages.updates=1", "checkpoints.every=1")
    run = begin(small(*limits, *small_steps), tmp_path / "run")
    with pytest.raises(TrainingFailed, match=r"stopped by guard kl") as stopped:
        run.run()
    saved = tmp_path / "run" / "checkpoints"
    assert f"the last good checkpoint is {saved / '000002'}" in str(stopped.value)
    assert [p.name for p in checkpoints(saved)] == ["000002", "000003"]
    assert [warned(p) for p in checkpoints(saved)] == [False, True]
    for path in checkpoints(saved):  # of a run that was stopped, too
        assert load_model(str(path)).loras[0].digest


@pytest.mark.parametrize("place", [".", "checkpoints/000001"])
def test_a_lora_that_is_not_the_trained_one_is_refused(run, place):
    flipped(run / place / "lora" / "pytorch_lora_weights.safetensors")
    with pytest.raises(ConfigError, match="does not hold the weights that the training left"):
        load_model(str(run / place))


def test_a_full_disk_is_one_line_and_nothing_is_lost(run):
    recipe = small("stages.iterations=3", "stages.updates=1", "checkpoints.every=1")
    before = {p.name for p in (run / "checkpoints").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    begun = begin(recipe, run, resume=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            TrainingFailed, match=r"cannot write .*; make room, then resume with: nftbench train"
        ):
            begun.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name for p in (run / "checkpoints").iterdir()} == before
    begin(recipe, run, resume=True).run()
    assert [line["iteration"] for line in metrics_of(run)] == [0, 1, 2, 3]


# --- recipe.json ------------------------------------------------------------------------------------------------------


def test_the_recipe_is_read_as_it_was_written(tmp_path):
    recipe = small("optimizer.lr=1e-5", 'stages.timesteps_per_image="all"')
    save_recipe(tmp_path, recipe)
    assert stored_recipe(tmp_path) == recipe


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"run": 3}', '{"name": 5}', "\xff"])
def test_a_damaged_recipe_is_one_line(tmp_path, text):
    (tmp_path / RECIPE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="is damaged"):
        stored_recipe(tmp_path)


def test_a_recipe_that_was_edited_is_not_what_the_run_did(run):
    """The run went on with the new rate, and nothing said from where on it had been another one."""
    path = run / RECIPE
    path.write_text(path.read_text().replace('"lr": ', '"lr": 1', 1))
    for command in (("train", "--resume", "run"), ("report", "run")):
        code, said = run_here(run.parent, *command)
        assert code == 2 and "run/recipe.json was changed since nftbench wrote it; restore" in said


def test_a_cut_last_line_of_the_metrics_is_dropped_with_a_word(trained, run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "rew')
    said = []
    begin(two(), run, resume=True, say=said.append)
    assert any("dropped 1 damaged line" in s for s in said)
    assert metrics_of(run) == metrics_of(trained)


# --- whose folder it is -----------------------------------------------------------------------------------------------


def test_metrics_that_are_lost_are_not_measured_of_another_policy(run):
    """The line of iteration 0 is the untouched base's: a resumed run can no longer write it."""
    (run / "metrics.jsonl").unlink()
    recipe = small("stages.iterations=3", "stages.updates=1", "checkpoints.every=1")
    begin(recipe, run, resume=True).run()
    assert [line["iteration"] for line in metrics_of(run)] == [3]


def test_a_finished_run_or_another_folder_is_not_begun_in(run, tmp_path):
    shutil.rmtree(run / "checkpoints")
    metrics = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"is not empty: it holds .*; choose a new folder"):
        train(two(), run, resume=False, progress=quietly, say=quietly)
    assert (run / "metrics.jsonl").read_bytes() == metrics
    evaluated = tmp_path / "evaluated"
    evaluated.mkdir()
    (evaluated / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds manifest\.json"):
        train(two(), evaluated, resume=False, progress=quietly, say=quietly)
    assert [p.name for p in evaluated.iterdir()] == ["manifest.json"]


def test_what_was_changed_on_resume_is_kept_with_the_iteration(run):
    said = []
    changed = small("stages.iterations=3", "stages.updates=1", "checkpoints.every=1")
    begin(changed, run, resume=True, say=said.append)
    assert "changed from iteration 3 on: stages.0.iterations 2 -> 3" in said
    begin(changed, run, resume=True)
    (entry,) = stored_record(run).history
    assert entry == {"iteration": 2, "changes": {"stages.0.iterations": [2, 3]}}
    assert json.loads((run / RECIPE).read_bytes())["stages"][0]["iterations"] == 3


def test_a_run_notes_what_it_was_made_with_and_where_that_changed(run):
    """Torch's version as this machine has it; a run that says another was begun with another."""
    noted = stored_record(run).made_with
    assert noted["version of torch"] == version("torch") and noted["device"] == "cpu"
    path, said = run / RECIPE, []
    fields = json.loads(path.read_text())
    fields["run"]["made_with"]["version of torch"] = "1.0"
    path.write_text(json.dumps({k: v for k, v in fields.items() if k != "check"}))
    begin(two(), run, resume=True, say=said.append)
    assert f"changed from iteration 3 on: version of torch 1.0 -> {version('torch')}" in said
    assert stored_record(run).made_with == noted
    assert stored_record(run).history[0]["changes"] == {
        "version of torch": ["1.0", version("torch")]
    }


def test_prompts_that_changed_under_their_name_are_refused(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a red cat\na blue dog\na green hat\n")
    recipe = small(f'stages.prompts=["{path}"]', "stages.iterations=1")
    begin(recipe, tmp_path / "run").run()
    path.write_text("a red cat\na blue dog\na green hut\n")
    with pytest.raises(ConfigError, match=r"prompts of stage 1 .* restore it"):
        begin(recipe, tmp_path / "run", resume=True)
