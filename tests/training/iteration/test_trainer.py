"""The loop: the same update however it is cut into batches; failures are counted, said, or end the run."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nftbench.benchmark.samples import Sample
from nftbench.training import RewardFailed, TrainingFailed
from nftbench.training.callbacks.checkpoints import TrainState
from nftbench.training.iteration.rollouts import batches, grouped, prompts_of
from nftbench.training.iteration.update import training_noise
from nftbench.training.run import TrainingRun
from nftbench.training.stages import WeightedReward, weighted
from rewards import load_reward, parse_rewards
from rewards.base import ConfigError, Prompt, Scores
from tests.helpers.runs.trainings import FEW, begin, metrics_of, small

ONE = ("stages.iterations=1", "stages.updates=1")
"""One iteration, one step."""
LINEAR = ("optimizer.eps=1", "optimizer.lr=1")
"""AdamW's first step is then about the gradient itself; else it is the sign, and rounding turns that of a zero."""


# --- prompts, groups, batches ----------------------------------------------------------------------------------------


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"p{i}", text=f"text {i}") for i in range(count)]


@given(total=st.integers(1, 9), count=st.integers(1, 7), seed=st.integers(0, 9))
def test_every_prompt_once_a_pass(total, count, seed):
    asked = [p for i in range(2 * total) for p in prompts_of(prompts(total), count, i, seed)]
    assert len(asked) == 2 * total * count
    for start in range(0, len(asked), total):
        assert {p.id for p in asked[start : start + total]} == {p.id for p in prompts(total)}


def test_passes_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(p.id for p in prompts_of(prompts(9), 9, i, seed)) for i in (0, 1) for seed in (0, 1)
    }
    assert len(orders) == 4


def test_a_prompt_that_stands_twice_gets_one_group_of_twice_the_size():
    a, b = prompts(2)
    found = grouped([a, b, a], 3)
    assert [[(s.prompt.id, s.index) for s in group] for group in found] == [
        [("p0", i) for i in range(6)],
        [("p1", i) for i in range(3)],
    ]


def test_a_pass_weighs_by_tag_and_by_benchmark():
    counting, colors = (
        replace(p, tag=t) for p, t in zip(prompts(2), ("counting", "colors"), strict=True)
    )
    sign = Prompt(id="sign", text="text")
    sources = {"scenes": [counting, colors], "signs": [sign]}

    def drawn(weights: dict[str, int]) -> list[str]:
        return [p.id for p in weighted([counting, colors, sign], weights, sources)]

    assert drawn({}) == ["p0", "p1", "sign"]
    assert drawn({"counting": 3}) == ["p0", "p0", "p0", "p1", "sign"]
    assert drawn({"signs": 2}) == ["p0", "p1", "sign", "sign"]
    assert drawn({"counting": 2, "scenes": 2}) == ["p0"] * 4 + ["p1"] * 2 + ["sign"]


@pytest.mark.parametrize("name", ["countign", "", "signs"])
def test_a_weight_of_nothing_that_is_trained_on_is_refused(name):
    """Signs are there, but no reward of the stage scores them."""
    (scene,) = prompts(1)
    scene = replace(scene, tag="counting")
    sources = {"scenes": [scene], "signs": [Prompt(id="sign", text="text")]}
    with pytest.raises(ConfigError, match=f"{name!r}.*expected some of counting, scenes"):
        weighted([scene], {name: 2}, sources)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    batch_size=st.integers(1, 40),
)
def test_batches_hold_every_image_once(sizes, batch_size):
    groups = [[Sample(p, i) for i in range(n)] for p, n in zip(prompts(99), sizes, strict=False)]
    found = batches(groups, batch_size)
    assert all(1 <= len(batch) <= batch_size for batch in found)
    assert [s for batch in found for s in batch] == [s for group in groups for s in group]


@given(times=st.integers(1, 6), seed=st.integers(0, 99))
def test_noise_of_training_belongs_to_the_image(times, seed):
    one, other = Sample(prompts(2)[0], 0), Sample(prompts(2)[1], 0)
    indices, eps = training_noise(one, seed, (2, 3), count=times, trainable_times=6)
    training_noise(other, seed, (2, 3), count=times, trainable_times=6)
    again, same = training_noise(one, seed, (2, 3), count=times, trainable_times=6)
    assert torch.equal(indices, again) and torch.equal(eps, same)
    assert len(set(indices.tolist())) == times and set(indices.tolist()) <= set(range(6))
    assert not torch.equal(
        eps, training_noise(other, seed, (2, 3), count=times, trainable_times=6)[1]
    )


# --- the same update --------------------------------------------------------------------------------------------------


def theta(run: TrainingRun) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.policy.weights["theta"]])


def advantages_by_index(run: TrainingRun) -> TrainingRun:
    """Advantages by the image's index: a pixel that rounds the other way changes a JPEG by a byte."""
    score = run.trainer.rollout.score

    def fixed(rollout, *arguments):
        found = score(rollout, *arguments)
        for batch in rollout:
            batch.advantages = torch.tensor([1.5 - s.index for s in batch.samples]).double()
        return found

    run.trainer.rollout.score = fixed
    return run


@pytest.fixture(scope="module")
def twelve(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """theta before and after one update on all twelve images at once, and what was measured."""
    recipe = small(*ONE, *LINEAR, "rollout.batch_size=12")
    run = advantages_by_index(begin(recipe, tmp_path_factory.mktemp("run")))
    before = theta(run)
    run.run()
    return before, theta(run), metrics_of(run.folder)[1]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_update_does_not_depend_on_the_batches(twelve, tmp_path, batch_size):
    before, after, metrics = twelve
    recipe = small(*ONE, *LINEAR, f"rollout.batch_size={batch_size}")
    run = advantages_by_index(begin(recipe, tmp_path))
    run.run()
    assert (after - before).abs().max() > 1e-2
    assert (theta(run) - after).abs().max() < 1e-5
    mine = metrics_of(tmp_path)[1]
    assert mine.keys() == metrics.keys()
    for key in ("images", "reward/total", "loss", "grad_norm", "x_0_norm"):
        assert mine[key] == pytest.approx(metrics[key], rel=1e-3), key


@pytest.mark.slow
def test_a_folded_update_is_the_same_update(twelve, tmp_path):
    """The LoRA's gradient follows from that of the folded weights, by the chain rule."""
    before, after, metrics = twelve
    run = advantages_by_index(
        begin(small(*ONE, *LINEAR, "rollout.batch_size=12", "policy.folded=true"), tmp_path)
    )
    bases = {
        n: p.detach().clone() for n, p in run.policy.denoiser.named_parameters() if "lora_" not in n
    }
    run.run()
    assert (theta(run) - after).abs().max() < 1e-5 < (after - before).abs().max()
    mine = metrics_of(tmp_path)[1]
    assert mine["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-3)
    for name, base in run.policy.denoiser.named_parameters():
        if name in bases:
            assert torch.equal(base, bases[name]) and not base.requires_grad and base.grad is None


def test_a_trust_region_that_nothing_leaves_is_the_same_update(twelve, tmp_path):
    _, after, _ = twelve
    settings = ("rollout.batch_size=12", "stages.trust_region={kl=99, weight=1}")
    run = advantages_by_index(begin(small(*ONE, *LINEAR, *settings), tmp_path))
    run.run()
    assert (theta(run) - after).abs().max() < 1e-6
    assert metrics_of(tmp_path)[1]["kl_exploded"] == 0


@pytest.mark.slow
def test_only_times_within_the_range_are_trained(tmp_path):
    run = begin(small("stages.noise_range=[0.7, 0.99]", "rollout.solver=dpm++2"), tmp_path)
    run.run()
    with pytest.raises(ConfigError, match="none of the sampler's noise levels"):
        begin(small("stages.noise_range=[0.31, 0.32]"), tmp_path / "none")


@pytest.mark.slow
def test_too_much_memory_halves_the_batch_and_is_said(tmp_path):
    said = []
    recipe = small("stages.iterations=2", "rollout.batch_size=12")
    run = begin(recipe, tmp_path / "large", say=said.append)

    def refuse(_, arguments, keywords):
        images = next(v for v in (*arguments, *keywords.values()) if torch.is_tensor(v))
        if len(images) > 3:
            raise torch.OutOfMemoryError

    run.policy.denoiser.register_forward_pre_hook(refuse, with_kwargs=True)
    run.run()
    assert [t for t in said if "out of memory" in t] == [
        f"out of memory: continuing with {n} images at once" for n in (6, 3)
    ]
    other = begin(small("stages.iterations=2", "rollout.batch_size=3"), tmp_path / "small")
    other.run()
    assert torch.equal(theta(run), theta(other))
    assert metrics_of(tmp_path / "large") == metrics_of(tmp_path / "small")


def test_memory_that_does_not_do_for_one_image_ends_the_run(tmp_path):
    run = begin(small(*ONE, "rollout.batch_size=2"), tmp_path)

    def refuse(*_):
        raise torch.OutOfMemoryError

    run.policy.denoiser.register_forward_pre_hook(refuse)
    with pytest.raises(TrainingFailed, match=r"out of memory with 1 images .* rollout\.batch_size"):
        run.run()


# --- failures ---------------------------------------------------------------------------------------------------------


class Broken:
    """A reward that cannot score the images of some prompts."""

    def __init__(self, reward, fails) -> None:
        self.reward, self.fails, self.info, self.check = reward, fails, reward.info, reward.check

    def score(self, images, asked) -> Scores:
        scores = self.reward.score(images, asked)
        failed = np.array([self.fails(p) for p in asked])
        return Scores(
            values=np.where(failed, np.nan, scores.values).astype(np.float32),
            reasons=tuple("the model is asleep" if f else "" for f in failed),
        )


def breaks(run: TrainingRun, fails) -> None:
    """Put a broken reward in the place of the only one."""
    (one,) = run.trainer.data.rewards
    run.trainer.data.rewards[0] = WeightedReward(one.spec, Broken(one.reward, fails))


@pytest.mark.slow
def test_a_group_that_could_not_be_scored_is_left_out(tmp_path):
    run = begin(small(*ONE, "rollout.batch_size=12"), tmp_path)
    seen = []
    breaks(run, lambda p: seen.append(p.id) or p.id == seen[0])
    before = theta(run)
    run.run()
    line = metrics_of(tmp_path)[1]
    assert (line["groups_lost"], line["unscored"], line["images"]) == (1, 4, 12)
    assert all(math.isfinite(line[k]) for k in ("loss", "reward/total", "reward/jpeg"))
    assert (theta(run) - before).abs().max() > 0


def test_failures_are_counted_and_said(tmp_path):
    said = []
    run = begin(small(*ONE, "rollout.batch_size=12"), tmp_path, say=said.append)
    seen = []
    breaks(run, lambda p: seen.append(p.id) or p.id == seen[0])
    run.run()
    assert metrics_of(tmp_path)[1]["failed/jpeg"] == 4
    assert "warning: iteration 1: jpeg could not score 4 of 12 images: the model is asleep" in said


@pytest.mark.slow
def test_a_reward_that_dies_stops_the_run_though_others_live(tmp_path):
    """It is not taken for one that does not apply: the run goes on from where it stood once it is back."""
    run = begin(small(*ONE, "stages.rewards=jpeg,pickscore@pocket"), tmp_path)
    rewards = run.trainer.data.rewards
    dead = WeightedReward(rewards[1].spec, Broken(rewards[1].reward, lambda _: True))
    rewards[1] = dead
    with pytest.raises(RewardFailed, match=r"pickscore@pocket could not score 12 of 12 .*--resume"):
        run.run()
    again = begin(small(*ONE, "stages.rewards=jpeg,pickscore@pocket"), tmp_path, resume=True)
    again.run()
    assert [line["iteration"] for line in metrics_of(tmp_path)] == [0, 1]


def test_whether_a_reward_applies_is_asked_once_a_prompt():
    asked = []
    reward = Broken(load_reward("jpeg"), lambda _: False)
    reward.check = asked.extend
    weighted = WeightedReward(parse_rewards("jpeg")[0], reward)
    assert all(weighted.applies(p) for p in [*prompts(3), *prompts(3)])
    assert [p.id for p in asked] == ["p0", "p1", "p2"]


@pytest.mark.slow
def test_a_line_an_iteration_says_how_the_run_stands(few, tmp_path):
    said = []
    settings = (f'evaluation.benchmarks=["{FEW}"]', "evaluation.limit=2")
    steps = ("evaluation.num_inference_steps=1", "evaluation.every=1", "rollout.batch_size=12")
    run = begin(small(*ONE, *settings, *steps), tmp_path / "run", say=said.append)
    run.run()
    lines = [text for text in said if text.startswith("iteration ")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"iteration 1/1  total \S+  jpeg \S+  kl \S+ \(p99 \S+, exploded \S+%\)  "
        r"held-out few/jpeg \S+ \[\S+, \S+\]  12 images  \d+ s",
        lines[1],
    )
    assert any(text.startswith(f"run: {tmp_path / 'run'}") for text in said)


def test_nothing_scored_ends_the_run_with_the_reason(tmp_path):
    run = begin(small(*ONE), tmp_path)
    breaks(run, lambda _: True)
    with pytest.raises(
        TrainingFailed, match=r"none of its 12 .* model is asleep; the state is in .*/000000"
    ):
        run.run()


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path):
    run = begin(small("checkpoints.every=1"), tmp_path)
    algorithm = run.trainer.update._algorithm
    terms = algorithm.terms

    def infinite(*arguments):
        found = terms(*arguments)
        return found | {"loss": found["loss"] * math.inf} if run.trainer.state.done else found

    algorithm.terms = infinite
    with pytest.raises(TrainingFailed, match=r"loss of iteration 1 is .*checkpoints/000001"):
        run.run()
    assert theta(run).isfinite().all()


# --- the baseline -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_flow_grpo_begins_on_policy_and_then_moves(tmp_path):
    recipe = small(
        "stages.iterations=2",
        "stages.updates=1",
        "stages.kl_weight=0.01",
        recipe="pocket-flow-grpo",
    )
    run = begin(recipe, tmp_path)
    before = theta(run)
    run.run()
    first, second = metrics_of(tmp_path)[1:]
    assert first["ratio_deviation"] < 1e-5 and first["clipped"] == 0
    assert abs(first["policy_loss"]) < 1.0 and first["kl"] < 1e-8
    assert second["ratio_deviation"] < 1 and second["kl"] > 0
    assert (theta(run) - before).abs().max() > 0


def test_a_stage_that_was_shortened_on_resume_is_over(tmp_path):
    trainer = begin(small(*ONE), tmp_path).trainer
    trainer._stages = [trainer.data, trainer.data]  # of one iteration each
    state = trainer.state_dict() | {"train_state": TrainState(iteration=3, done=3)}
    trainer.load_state_dict(**state)
    assert (trainer.state.stage, trainer.state.iteration, trainer.state.done) == (1, 0, 3)
    assert not trainer.finished
