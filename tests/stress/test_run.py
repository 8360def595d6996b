"""The hacking check: every line in closed form on made tables, then one tiny stress test of the pocket world."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from nftbench.benchmark.registry import load_benchmark
from nftbench.generation.checkpoint import LoadedModel, own_settings
from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import SHARE, UNBOUNDED
from nftbench.stats.paired import Averaging
from nftbench.stress import card as stress_card
from nftbench.stress import checks as stress_checks
from nftbench.stress import plan as stress_plan
from nftbench.stress import run as stress
from nftbench.stress.figures import CheckResult, Figure, not_run, verdict_of
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.record import save_recipe
from rewards.base import ConfigError
from tests.helpers.models import families

METRIC = "geneval@pocket"
HOW = Averaging(within=SHARE, by_task=True)


def table(values: list[float], *, tasks: int = 2, images: int = 2, **columns) -> pd.DataFrame:
    """Prompts by turns of `tasks` tasks, `images` images each."""
    count = len(values)
    prompts = [i // images for i in range(count)]
    return pd.DataFrame(
        {
            "prompt_id": [f"{p:04d}" for p in prompts],
            "tag": [f"task {p % tasks}" for p in prompts],
            "image_index": [i % images for i in range(count)],
            METRIC: np.float32(values),
            **columns,
        }
    )


def figure(value: float, low: float, high: float, n_prompts: int = 12) -> Figure:
    return Figure(name="", value=value, low=low, high=high, n=24, n_prompts=n_prompts)


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "seen", "words"),
    [
        (figure(-0.2, -0.3, -0.1), "yes", "down by 0.200 (-0.300 to -0.100); worse."),
        (figure(0.2, 0.1, 0.3), "yes", "up by 0.200 (+0.100 to +0.300); better."),
        (figure(-0.2, -0.5, 0.1), "no", "no change seen (-0.500 to +0.100)"),
        (figure(0.2, math.nan, math.nan), "unclear", "+0.200; too few prompts"),
    ],
)
def test_nothing_is_said_beyond_the_interval(found, seen, words):
    got, text = verdict_of("It", found, "worse", "better")
    assert got == seen
    assert words in text


# --- lines in closed form -------------------------------------------------------------------------


def test_other_words_is_the_paired_change_by_task_and_by_rule():
    original = table([1, 1, 1, 1, 1, 1, 1, 1])
    told = table([1, 1, 1, 0, 0, 0, 1, 0], rule=["bare"] * 4 + ["one"] * 4)
    line = stress_checks.wording(original, [told], METRIC, HOW)
    # changes by prompt: 0, -1/2 | -1, -1/2; by task: (0 - 1)/2 and -1/2
    assert [f.name for f in line.figures][1:] == ["... rule 'bare'", "... rule 'one'"]
    np.testing.assert_allclose([f.value for f in line.figures], [-0.5, -0.25, -0.75])
    assert line.figures[0].n_prompts == 4


def test_other_words_against_the_base_is_a_difference_of_differences():
    original, base = table([1] * 8), table([1] * 8)
    told = table([0] * 8, rule="bare")
    base_told = table([1, 0] * 4)
    line = stress_checks.wording(original, [told], METRIC, HOW, base=(base, base_told))
    assert line.figures[0].value == -1
    assert line.figures[-1].value == pytest.approx(-1 - -0.5)


def test_unseen_prompts_are_compared_unpaired():
    original, others = table([1, 0, 1, 1, 0, 0, 1, 0]), table([1, 1, 1, 0, 1, 1, 1, 1])
    line = stress_checks.other_prompts(
        original, others, METRIC, HOW, kind="known ones", trained=True
    )
    mine, theirs, gap = line.figures
    assert (mine.value, theirs.value) == (0.5, 0.875)
    assert gap.value == pytest.approx(-0.375)
    below = math.hypot(mine.value - mine.low, theirs.high - theirs.value)
    assert gap.value - gap.low == pytest.approx(below)
    turned = stress_checks.other_prompts(
        original, others, METRIC, HOW, kind="strange", trained=False
    )
    assert turned.figures[2].value == pytest.approx(0.375)


def test_tasks_that_only_one_side_has_are_left_out():
    original, others = table([1, 1, 0, 0, 1, 1, 0, 0]), table([1, 1, 1, 1], tasks=1)
    line = stress_checks.other_prompts(original, others, METRIC, HOW, kind="others", trained=True)
    assert [f.value for f in line.figures] == [1, 1, 0]


def test_guidance_shows_every_task_and_the_change_from_the_own_scale():
    own, more = table([0, 0, 1, 1, 0, 0, 1, 0]), table([1, 1, 1, 1, 1, 0, 1, 1])
    line = stress_checks.guidance({1.0: own, 4.5: more}, 1.0, METRIC, HOW)
    found = {f.name: f.value for f in line.figures}
    assert found == {
        "guidance 1": 0.375,
        "guidance 4.5": 0.875,
        "... task 0": 0.75,  # of the last scale; the first is checked below
        "... task 1": 1.0,
        "guidance 4.5 less 1": 0.5,
    }
    assert [f.value for f in line.figures[:3]] == [0.375, 0, 0.75]


def test_seeds_have_the_closed_form_and_its_interval():
    tables = [table([1, 0, 1, 0] * 40), table([1, 1, 1, 0] * 40), table([1, 1, 1, 1] * 40)]
    line = stress_checks.seeds(tables, METRIC, HOW)
    spread = np.std([0.5, 0.75, 1.0], ddof=1)
    low, high = (spread * math.sqrt(2 / chi2.ppf(q, 2)) for q in (0.975, 0.025))
    between = line.figures[0]
    np.testing.assert_allclose((between.value, between.low, between.high), (spread, low, high))
    assert (
        line.seen == "yes"
    )  # images of a prompt never differ from its mean: one run states little


def test_seeds_that_only_chance_parts_are_not_accused():
    rng = np.random.default_rng(3)
    tables = [table(list(rng.integers(0, 2, 240))) for _ in range(4)]
    assert stress_checks.seeds(tables, METRIC, HOW).seen == "no"


def test_seeds_are_accused_rarely_where_there_is_nothing():
    rng = np.random.default_rng(5)
    lines = [
        stress_checks.seeds([table(list(rng.normal(size=48))) for _ in range(3)], METRIC, HOW)
        for _ in range(100)
    ]
    share = np.mean([line.seen == "yes" for line in lines])
    assert share <= 0.06  # 2.5% by construction


def test_distances_within_a_prompt_by_hand():
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [1, 0], [1, 0]], float)
    rows = table([0] * 5, images=3)
    apart = stress.pairwise(rows, vectors)
    assert apart["diversity"].tolist() == [pytest.approx((1 + 2 + 1) / 3), 0]
    assert apart["tag"].tolist() == ["task 0", "task 1"]
    alone = stress.pairwise(table([0, 0], images=1), vectors[:2])
    assert stress_checks.diversity(alone, None, space="x").seen == "not run"


def test_diversity_and_drift_are_paired_with_the_base():
    own = pd.DataFrame(
        {
            "prompt_id": list("abcdefghi"),
            "tag": "",
            "image_index": 0,
            "diversity": [0.1, 0.2, 0.3] * 3,
        }
    )
    base = own.assign(diversity=[0.41, 0.5, 0.59] * 3)
    line = stress_checks.diversity(own, base, space="x")
    assert line.figures[1].value == pytest.approx(-0.3)
    assert line.seen == "yes"
    assert "more alike" in line.verdict
    assert stress_checks.diversity(own, None, space="x").seen == "only shown"

    bright = table([0] * 8, brightness=[0.5, 0.6] * 4)
    up = bright.assign(brightness=bright["brightness"] + np.tile([0.1, 0.2, 0.1, 0.2], 2))
    moved = stress_checks.drift(up, bright, "brightness")
    assert moved.figures[0].value == pytest.approx(0.7)
    assert moved.figures[1].value == pytest.approx(0.15)


def test_the_strict_gap_and_its_change():
    own = table([1] * 8, **{f"{METRIC}:strict": np.float32([1, 0, 0, 1, 1, 1, 0, 0])})
    base = table([1] * 8, **{f"{METRIC}:strict": np.float32([1] * 8)})
    line = stress_checks.strictness(own, base, METRIC)
    assert [f.value for f in line.figures] == [-0.5, -0.5]
    assert stress_checks.strictness(table([1] * 4), None, METRIC).seen == "not run"


def test_held_out_rewards_that_fall_while_trained_ones_rise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, 80)
    base = table([0.5] * 80, pick=np.full(80, 20.0))
    own = table(list(0.8 + noise), pick=19.0 + noise)
    metrics = {METRIC: HOW, "pick": Averaging(within=UNBOUNDED)}
    line = stress_checks.held_out(own, base, metrics, ["geneval"])
    assert line.seen == "yes"
    assert "Risen: geneval@pocket (trained); fallen: pick (held out)" in line.verdict
    assert line.figures[1].value == pytest.approx(-1 + noise.mean(), abs=1e-6)
    same = stress_checks.held_out(base, base, metrics, ["geneval"])
    assert same.seen == "no"
    assert "Risen: none; fallen: none" in same.verdict


def test_the_unpaired_interval_covers():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        a, b = (
            clustered_mean(rng.normal(mean, 1, 30), np.arange(30), UNBOUNDED) for mean in (0.0, 0.3)
        )
        gap = stress_checks.unpaired("", a, b)
        held += gap.low <= 0.3 <= gap.high
    assert 0.92 <= held / 400 <= 0.98


# --- plan and card --------------------------------------------------------------------------------


def test_as_many_prompts_of_every_task_spread_over_it():
    prompts = load_benchmark("geneval-pocket").load()
    some = stress_plan.some_of_each(prompts, 3)
    assert [p.tag for p in some] == [
        t for t in dict.fromkeys(p.tag for p in prompts) for _ in "123"
    ]
    assert stress_plan.some_of_each(prompts, None) == prompts


def test_what_a_training_run_says_of_itself(tmp_path):
    assert stress.origin("pocket") is None
    assert stress.trained_on("pocket") == []
    (tmp_path / "policy.json").write_text(
        '{"base": "pocket", "base_digest": "0", "method": "lora"}'
    )
    recipe = load_recipe("pocket", ["stages.rewards=geneval,pickscore:0.5"])
    save_recipe(tmp_path, recipe)
    assert stress.origin(str(tmp_path)) == "pocket"
    assert stress.trained_on(str(tmp_path)) == ["geneval", "pickscore"]


def test_a_broken_note_of_a_training_is_one_clear_line(tmp_path):
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(ConfigError, match=r"policy\.json does not describe a trained policy"):
        stress.origin(str(tmp_path))


def test_distances_are_taken_in_the_clip_of_the_rewards_own_variant():
    """Learnt from what the rewards say of themselves."""
    plan = stress_plan.make_plan("geneval-pocket", stress_plan.Effort(prompts=1), bool)
    space, embed = stress._space(plan)
    vectors = embed(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    assert space == "CLIP of clipscore@pocket"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_no_arm_can_be_taken_for_the_benchmark():
    plan = stress_plan.make_plan("geneval-pocket", stress_plan.FULL, bool, own_settings("pocket"))
    own = plan.benchmark.protocol()
    works = stress_plan.arms(plan)
    assert len({w.protocol.hash for w in works} | {own.hash}) == len(works) + 1
    assert all(w.protocol.limit for w in works)
    assert [w.name for w in works[:7]] == [
        *("as-asked", "seed-1", "seed-2", "seed-3", "seed-4", "guidance-2", "guidance-4.5")
    ]
    assert works[0].prompts == plan.benchmark.load()


def test_what_the_text_encoders_cannot_read_whole_is_left_out():
    class Words:
        unk_token, model_max_length = "?", 5

        def tokenize(self, text):
            return ["?" if w.isdigit() else w for w in text.split()]

        def num_special_tokens_to_add(self):
            return 2

    class Pipeline:
        def __init__(self):
            self.components = {"tokenizer": Words(), "tokenizer_3": None}

    readable = stress_plan.whole(Pipeline())
    assert [readable(t) for t in ("a b c", "a b c d", "a 2")] == [True, False, False]
    plan = stress_plan.make_plan("geneval-pocket", stress_plan.Effort(prompts=1), readable)
    told = [text.text for _, text in plan.words(0).values()]
    assert told == ["a circle"] + [t for t in told[1:] if len(t.split()) <= 3]
    assert plan.unreadable[0] + sum(len(plan.words(t)) for t in range(8)) == plan.unreadable[1]


def test_an_unknown_checkpoint_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown checkpoint 'pokket'; did you mean 'pocket'"):
        stress.stress(
            "pokket",
            stress_plan.Effort(),
            base=None,
            benchmark=None,
            out=tmp_path / "out",
            progress=lambda *_: None,
        )
    assert not (tmp_path / "out").exists()


def test_the_card_keeps_every_line_and_knows_no_nan(tmp_path):
    nan = math.nan
    lines = [
        CheckResult(check="seeds", seen="no", verdict="a | b", figures=(figure(0.5, nan, nan),)),
        not_run("unseen prompts", "its data are not here"),
    ]
    card = stress_card.Card(
        checkpoint="c", base=None, benchmark="b", metric="m", effort={}, missing={}, lines=lines
    )
    stress_card.save(tmp_path, card)
    first = (tmp_path / "card.json").read_bytes(), (tmp_path / "card.md").read_bytes()
    stress_card.save(tmp_path, card)
    assert ((tmp_path / "card.json").read_bytes(), (tmp_path / "card.md").read_bytes()) == first
    read = json.loads(first[0])
    assert read["lines"][0]["figures"][0]["low"] is None
    assert read["lines"][1]["verdict"] == "Not run: its data are not here."
    assert r"a \| b" in first[1].decode()


# --- one real one ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_stress_test_of_the_pocket_world(tmp_path):
    effort = stress_plan.Effort(prompts=1, images=2, seeds=2, guidance=(1.0, 2.0), steps=2)

    def go():
        return stress.stress(
            "pocket",
            effort,
            base="pocket",
            benchmark=None,
            out=tmp_path / "out",
            progress=lambda *_: None,
        )

    folder, card = go()
    found = {line.check: line for line in card.lines}
    assert list(found) == [
        *("other words", "unseen prompts", "guidance", "seeds", "diversity", "brightness"),
        *("saturation", "strict", "held-out rewards"),
    ]
    # its own base: nothing can have moved
    for check in ("diversity", "brightness", "saturation", "strict"):
        assert found[check].figures[-1].value == 0
        assert "less the base's" in found[check].figures[-1].name
    assert found["held-out rewards"].seen == "not run"
    assert 0.5 < found["brightness"].figures[0].value < 1
    assert len(list((folder / "seed-1" / "images").iterdir())) == 12
    before = (folder / "card.json").read_bytes()
    go()  # goes on from what is there, and says the same
    assert (folder / "card.json").read_bytes() == before


def live(family: str) -> LoadedModel:
    """A tiny model that is no checkpoint on disk."""
    return LoadedModel(name=family, digest="0", pipeline=families.build(family))


def test_a_benchmark_that_states_no_scale_is_drawn_at_the_models_own(monkeypatch):
    plan = stress_plan.make_plan("geneval-pocket", stress_plan.Effort(prompts=1, steps=2), bool)
    assert plan.guidance_scale is None
    model = replace(live("sd3"), own={"height": 64, "width": 64})
    found = stress_plan.with_guidance_of(plan, model)
    assert (found.guidance_scale, found.unguided) == (7.0, "")  # StableDiffusion3Pipeline's default
    names = [w.name for w in stress_plan.arms(found)]
    assert [n for n in names if "guidance" in n] == ["guidance-1", "guidance-2", "guidance-4.5"]


def test_a_model_without_guidance_is_not_drawn_with_it():
    plan = stress_plan.make_plan("geneval-pocket", stress_plan.Effort(prompts=1, steps=2), bool)
    model = replace(live("flux_schnell"), own={"height": 64, "width": 64})
    found = stress_plan.with_guidance_of(plan, model)
    assert found.guidance_scale == 1.0 and "takes --guidance off" in found.unguided
    assert not [w.name for w in stress_plan.arms(found) if w.name.startswith("guidance")]
