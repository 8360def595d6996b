"""Large rewards in memory one after the other: the same scores as all at once, the memory given back."""

import hashlib
import weakref
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file
from transformers import CLIPModel

import nftbench
import rewards
from nftbench.evaluation import evaluate
from nftbench.evaluation.scoring import in_turn
from nftbench.evaluation.scoring.files import scorer_identity
from nftbench.evaluation.scoring.in_turn import Turns
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Prompt
from rewards.clip import models
from tests.helpers.models import tiny_clip

pytestmark = pytest.mark.slow

KEYS = ("clipscore@nft", "pickscore", "clipscore@openai", "jpeg")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
PROMPTS = [Prompt(id=str(i), text=f"a red circle {i}") for i in range(3)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published CLIPs in little, under the published names; as large as those by what is said of them."""
    folder, patched = tmp_path_factory.mktemp("weights"), {}
    for name, config in (("VIT_L_14", "vit_l_14_config"), ("PICKSCORE_V1", "vit_h_14_config")):
        clip = tiny_clip.config()
        clip.text_config.vocab_size, clip.text_config.max_position_embeddings = 49408, 77
        clip.text_config.bos_token_id, clip.text_config.eos_token_id = 49406, 49407
        path = folder / getattr(models, name).name
        path.parent.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in CLIPModel(clip).state_dict().items()}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        patched[name] = replace(getattr(models, name), sha256=digest, size=0)
        patched[config] = lambda clip=clip: clip
    return folder, patched


@pytest.fixture
def weights(published, monkeypatch):
    """They stand for the published ones."""
    folder, patched = published
    monkeypatch.setenv("NFTBENCH_CACHE", str(folder))
    for name, value in patched.items():
        monkeypatch.setattr(models, name, value)
    yield
    models.load_tower.cache_clear()


def test_in_turn_scores_what_all_at_once_score(weights):
    turns = Turns("cpu")
    some = {key: turns.load(key) for key in KEYS}
    assert turns.loaded == ["clipscore@openai"]
    for key, reward in some.items():
        alone = rewards.load_reward(key)
        theirs, ours = alone.score(PIXELS, PROMPTS), reward.score(PIXELS, PROMPTS)
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert ours.parts.keys() == theirs.parts.keys() and ours.reasons == theirs.reasons
        assert scorer_identity(reward) == scorer_identity(alone)


def test_rewards_of_one_file_stay_together_and_leave_together(weights):
    turns = Turns("cpu")
    some = {key: turns.load(key) for key in KEYS}
    some["clipscore@nft"].score(PIXELS, PROMPTS)
    assert turns.loaded == ["clipscore@openai", "clipscore@nft"]
    network = weakref.ref(turns.take(some["clipscore@nft"].info).tower.model)
    assert network() is not None
    some["pickscore"].score(PIXELS, PROMPTS)
    assert turns.loaded == ["pickscore"] and network() is None
    in_turn.leave(some.values())
    assert turns.loaded == []


def test_one_leaves_before_the_next_is_loaded(weights, monkeypatch):
    """When all are checked, too: the two largest need not fit into memory together."""
    turns, before = Turns("cpu"), {}
    load = in_turn.registry.load_reward

    def noted(key, **how):
        before[key] = turns.loaded
        return load(key, **how)

    monkeypatch.setattr(in_turn.registry, "load_reward", noted)
    for key in ("pickscore", "clipscore@nft", "clipscore@openai"):
        turns.load(key)
    assert before == {
        "pickscore": [],
        "clipscore@nft": [],
        "clipscore@openai": ["clipscore@nft"],
    }


def test_the_order_of_turns(weights):
    turns = Turns("cpu")
    some = {key: turns.load(key) for key in KEYS}
    assert in_turn.in_order(some) == ["clipscore@nft", "clipscore@openai", "pickscore", "jpeg"]


class Picky:
    """Refuses a word; counts how often it was built."""

    built = 0

    def __init__(self, *, device):
        type(self).built += 1
        self.info = replace(rewards.reward_info("clipscore@nft"), name="picky", variant="")

    def check(self, prompts):
        if any("cat" in p.text for p in prompts):
            raise ConfigError("no cats")


def test_what_was_asked_when_it_was_loaded_needs_no_loading(monkeypatch):
    monkeypatch.setattr(Picky, "built", 0)
    monkeypatch.setitem(rewards.BUILT_IN, "picky", f"{__name__}:Picky")
    cats = [Prompt(id="0", text="a cat")]
    turns = Turns("cpu", [PROMPTS, cats])
    reward = turns.load("picky")
    turns.leave()
    for _ in range(2):
        reward.check(PROMPTS)
        with pytest.raises(ConfigError, match="no cats"):
            reward.check(cats)
    built = Picky.built
    with pytest.raises(ConfigError, match="no cats"):
        reward.check([*PROMPTS, *cats])  # another question
    assert (built, Picky.built) == (1, 2)


def bytes_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_an_evaluation_in_turn_leaves_the_bytes_of_one_all_at_once(weights, tmp_path, monkeypatch):
    """None is in memory while images are drawn, and each is loaded twice at most: to be asked, and to score."""
    loads, at_drawing, turns = [], [], []
    load, draw, begin = rewards.load_reward, evaluate.make_images, Turns.__init__

    def begun(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        turns.append(self)

    monkeypatch.setattr(Turns, "__init__", begun)
    monkeypatch.setattr(rewards, "load_reward", lambda k, **o: (loads.append(k), load(k, **o))[1])
    monkeypatch.setattr(
        evaluate, "make_images", lambda *a: (at_drawing.append(turns[-1].loaded), draw(*a))[1]
    )
    arguments = {"suite": "geneval-pocket", "limit": 1, "num_inference_steps": 2}
    arguments |= {"rewards": ",".join(KEYS), "reward_device": "cpu"}
    found = nftbench.evaluate("pocket", **arguments, out=tmp_path / "in-turn" / "run")
    assert at_drawing == [[]] and all(loads.count(key) <= 2 for key in KEYS)
    assert loads.count("jpeg") == 1, "a small one stays"
    monkeypatch.setattr(in_turn, "is_small", lambda info, small=0: True)
    nftbench.evaluate("pocket", **arguments, out=tmp_path / "at-once" / "run")
    assert bytes_of(tmp_path / "in-turn") == bytes_of(tmp_path / "at-once")
    manifest = Run(found.folder).manifest
    assert manifest["hardware"]["reward_device"] == "cpu" and "hardware_before" not in manifest


def test_another_device_is_noted(tmp_path, monkeypatch):
    """What an earlier device was stays in the manifest."""
    arguments = {"suite": "geneval-pocket", "limit": 1, "num_inference_steps": 2, "rewards": "jpeg"}
    run = nftbench.evaluate("pocket", **arguments, out=tmp_path / "run").folder
    monkeypatch.setattr(Turns, "described", {"reward_device": "cuda:7"})
    nftbench.score(run, "jpeg@compressibility")
    manifest = Run(run).manifest
    assert manifest["hardware"]["reward_device"] == "cuda:7"
    assert [before["reward_device"] for before in manifest["hardware_before"]] == ["cpu"]


@pytest.mark.parametrize("command", [["eval", "pocket", "--limit", "1"], ["score", "LIST"]])
def test_a_device_that_is_not_there(start, tmp_path, command):
    (tmp_path / "LIST").write_text("")
    code, _, err = start(*command, "--rewards", "jpeg", "--reward-device", "nowhere").finish()
    assert code == 2 and "--reward-device nowhere: no such device here" in err
