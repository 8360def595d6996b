"""The pocket world's training loop: its schedule, its average, and that stopping changes nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nftbench.pocket.train import loop
from nftbench.pocket.train.loop import Job, averaged, rate, train


def toy(steps: int = 12, **more) -> Job:
    """A straight line fitted to noise that the step's generator draws."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def loss(step: int) -> torch.Tensor:
        x = torch.randn(8, 3)
        return (model(x) - x.sum(1, keepdim=True) - step / 100).square().mean()

    settings = {"warmup": 3, "ema": 0.8} | more
    optimizers = [
        torch.optim.AdamW(model[0].parameters(), lr=1e-2),
        torch.optim.SGD(model[2].parameters(), lr=3e-2, momentum=0.9),
    ]
    return Job(name="toy", model=model, loss=loss, optimizers=optimizers, steps=steps, **settings)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


# --- schedule -------------------------------------------------------------------------------------


def test_the_rate_by_hand():
    job = toy(steps=10, warmup=4, decay=0.5)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert [rate(job, s) for s in range(10)] == pytest.approx(expected)


@given(st.integers(1, 500), st.integers(0, 100), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_never_leaves_its_range(steps, warmup, decay):
    job = toy(steps=steps, warmup=warmup, decay=decay)
    rates = [rate(job, s) for s in range(steps)]
    assert all(0 < r <= 1 for r in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_each_group_is_trained_at_its_own_peak_times_the_rate(tmp_path):
    job = toy(steps=6, warmup=2, decay=0.5)
    for said in train(job, tmp_path):
        factor = rate(job, said["step"] - 1)
        found = [o.param_groups[0]["lr"] for o in job.optimizers]
        assert found == pytest.approx([1e-2 * factor, 3e-2 * factor])


# --- training -------------------------------------------------------------------------------------


def test_a_toy_is_learnt(tmp_path):
    said = list(train(toy(steps=120, warmup=10), tmp_path))
    assert [s["step"] for s in said] == list(range(1, 121))
    assert said[-1]["loss"] < 0.5 * said[0]["loss"]


def test_the_average_is_the_recurrence_written_by_hand(tmp_path):
    """average = 0.8 average + 0.2 weights; the first step only copies."""
    job, expected = toy(), None
    for _ in train(job, tmp_path):
        now = state(job.model)
        before = expected or now
        expected = {k: before[k] + 0.2 * (now[k] - before[k]) for k in now}
    last = state(job.model)
    found = state(averaged("toy", job.model, tmp_path))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)
    assert not torch.equal(found["0.weight"], last["0.weight"]) and not job.model.training


@pytest.mark.parametrize("cuts", [(5,), (1, 2, 11)])
def test_stopped_and_resumed_is_the_same_bit_for_bit(tmp_path, cuts, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # a checkpoint after every step
    whole = toy()
    losses = [s["loss"] for s in train(whole, tmp_path / "whole")]
    for cut in cuts:
        torch.rand(7)  # chance drawn by others between two starts
        for said in train(toy(), tmp_path / "cut"):
            if said["step"] == cut:
                break
    resumed = toy()
    steps = [s["step"] for s in train(resumed, tmp_path / "cut")]
    assert steps == list(range(cuts[-1] + 1, 13)) and len(losses) == 12
    assert_equal(state(resumed.model), state(whole.model))
    cut = averaged("toy", resumed.model, tmp_path / "cut")
    assert_equal(state(cut), state(averaged("toy", whole.model, tmp_path / "whole")))


def test_a_finished_job_is_not_trained_again(tmp_path):
    list(train(toy(), tmp_path))
    before = (tmp_path / "toy.pt").read_bytes()
    assert list(train(toy(), tmp_path)) == []
    assert (tmp_path / "toy.pt").read_bytes() == before


def test_a_cut_before_the_first_checkpoint_starts_anew(tmp_path):
    next(train(toy(), tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert next(train(toy(), tmp_path))["step"] == 1


def test_nothing_is_left_beside_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    list(train(toy(), tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.pt"]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    job = toy()
    honest = job.loss
    job.loss = lambda step: honest(step) * (float("nan") if step == 4 else 1)
    with pytest.raises(FloatingPointError, match="toy: loss is nan at step 4"):
        list(train(job, tmp_path))
    assert next(train(toy(), tmp_path))["step"] == 5


def test_averaging_what_was_never_trained(tmp_path):
    with pytest.raises(FileNotFoundError):
        averaged("toy", toy().model, tmp_path)


def test_gradients_are_clipped(tmp_path):
    """Plain descent at rate 1 moves the weights by the norm of the clipped gradient."""
    model = nn.Linear(2, 1)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    job = Job(
        name="clip",
        model=model,
        loss=lambda step: 1e6 * model(torch.ones(1, 2)).sum(),
        optimizers=[torch.optim.SGD(model.parameters(), lr=1.0)],
        steps=1,
        warmup=0,
        decay=0.0,
        clip=0.25,
    )
    list(train(job, tmp_path))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.25, rel=1e-4)
