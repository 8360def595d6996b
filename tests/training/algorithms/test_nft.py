"""DiffusionNFT's formulas: closed forms, a slow transcription of the paper, laws, the reference's own numbers.

Golden files: `nft_loss.npz` whole, its JSON without statistics of logging; `advantages.json` without the cases that
repeat rewards along time (the trainer has one reward an image); `schedules.json` without trajectories.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nftbench.training.algorithms.nft import (
    ema_decay,
    group_advantages,
    nft_loss,
    old_decay,
    optimality,
    trust_region,
    velocity_kl,
)
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN
LOSSES = json.loads((FOLDER / "nft_loss.json").read_text("utf-8"))["cases"]
ARRAYS = np.load(FOLDER / "nft_loss.npz")
ADVANTAGES = json.loads((FOLDER / "advantages.json").read_text("utf-8"))["cases"]
SCHEDULES = json.loads((FOLDER / "schedules.json").read_text("utf-8"))

seeds = st.integers(0, 2**31)
betas = st.floats(0.05, 10)
levels = st.floats(0.01, 1)


class Batch:
    """Random float64 latents of a batch, noised as training does it."""

    def __init__(self, seed: int, *, shape: tuple[int, ...] = (3, 2, 4, 4)):
        self.random = torch.Generator().manual_seed(seed)
        self.x_0, self.eps, self.v_theta, self.v_old = (self.normal(shape) for _ in range(4))
        self.t = 0.01 + 0.99 * self.uniform((shape[0], *[1] * (len(shape) - 1)))
        self.r = self.uniform((shape[0],))
        self.x_t = (1 - self.t) * self.x_0 + self.t * self.eps

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.random, dtype=torch.float64)

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.rand(shape, generator=self.random, dtype=torch.float64)

    def loss(self, beta: float, **changed: torch.Tensor) -> torch.Tensor:
        """(B,)."""
        names = ("v_theta", "v_old", "x_0", "x_t", "t", "r")
        return nft_loss(**{n: changed.get(n, getattr(self, n)) for n in names}, beta=beta)

    def gradient(self, beta: float, **changed: torch.Tensor) -> torch.Tensor:
        """Of the summed loss by v_theta."""
        v_theta = changed.pop("v_theta", self.v_theta).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.loss(beta, v_theta=v_theta, **changed).sum(), v_theta
        )
        return gradient


def full(r: float) -> torch.Tensor:
    return torch.full((3,), float(r), dtype=torch.float64)


def close(got, expected, relative: float = 1e-11) -> None:
    torch.testing.assert_close(got, expected, rtol=relative, atol=relative)


# --- closed forms ---------------------------------------------------------------------------------


def test_loss_of_one_number():
    """x_0 = 0, eps = 1, t = 1/2: v leaves the error (1 - v)/2, and e^2 / |e| is |e|."""
    one = torch.ones(1, 1, dtype=torch.float64)
    loss = nft_loss(3 * one, one, 0 * one, one / 2, one / 2, torch.tensor([0.75]), beta=0.5)
    # v+ = 2 leaves -1/2 and v- = 0 leaves 1/2
    assert loss.item() == pytest.approx((0.75 * 0.5 + 0.25 * 0.5) / 0.5)
    loss = nft_loss(3 * one, one, 0 * one, one / 2, one / 2, torch.tensor([0.75]), beta=1.0)
    # v+ = 3 leaves -1 and v- = -1 leaves 1
    assert loss.item() == pytest.approx(1.0)
    loss = nft_loss(3 * one, 2 * one, 0 * one, one / 2, one / 2, torch.tensor([0.75]), beta=1.0)
    # v+ = 3 leaves -1 and v- = 1 leaves 0
    assert loss.item() == pytest.approx(0.75)


def test_the_weight_has_a_floor():
    """An error below 1e-5 is weighed as 1e-5, and 0 stays 0."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for error, expected in ((1e-7, 1e-9), (1e-5, 1e-5), (1e-3, 1e-3), (0.0, 0.0)):
        v = (1 - error) * one
        got = nft_loss(v, v, 0 * one, one, one, torch.tensor([1.0]), beta=1.0)
        assert got.item() == pytest.approx(expected, rel=1e-6)


def test_gradient_of_one_number():
    """The weight is held fixed: d(e^2 / 2)/dv = -e t at |e| = 2, where |e| alone would give -t."""
    v_theta = torch.tensor([[-1.0]], requires_grad=True)
    zero, half = torch.zeros(1, 1), torch.full((1, 1), 0.5)
    loss = nft_loss(v_theta, zero, zero, half * 3, half, torch.tensor([1.0]), beta=1.0)
    assert loss.item() == 2.0
    loss.backward()
    assert v_theta.grad.item() == -1.0  # 2 e (-t) / |e|


def test_velocity_kl_is_a_mean_of_squares():
    assert velocity_kl(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)).tolist() == [5, 0]


def test_a_trust_region_trains_within_and_pulls_beyond():
    """Closed form: the policy term as it is up to the limit, nothing of it beyond, weight (KL - limit) in its place."""
    policy = torch.tensor([1.0, -2.0, 3.0, -4.0], requires_grad=True)
    kl = torch.tensor([0.0, 0.5, 0.75, 2.5], requires_grad=True)
    loss = trust_region(policy, kl, limit=0.5, weight=0.2)
    torch.testing.assert_close(loss, torch.tensor([1.0, -2.0, 0.05, 0.4]))
    loss.sum().backward()
    assert policy.grad.tolist() == [1, 1, 0, 0]
    torch.testing.assert_close(kl.grad[[0, 2, 3]], torch.tensor([0.0, 0.2, 0.2]))


@given(seed=seeds)
def test_a_trust_region_that_nothing_leaves_changes_no_bit(seed):
    """And a policy term that is no finite number beyond it does no harm."""
    batch = Batch(seed)
    policy, kl = batch.loss(1.0), velocity_kl(batch.v_theta, batch.v_old)
    assert torch.equal(trust_region(policy, kl, limit=1e9, weight=0.2), policy)
    spoilt = torch.where(kl > kl.min(), torch.full_like(policy, torch.nan), policy)
    limit = float(kl.min())
    assert trust_region(spoilt, kl, limit=limit, weight=0.2).isfinite().all()


def test_advantages_by_hand():
    got = group_advantages(np.array([1.0, 3.0, 10.0, 10.0]), ["a", "a", "b", "b"])
    spread = np.std([1, 3, 10, 10]) + 1e-4  # of the population
    np.testing.assert_allclose(got, [-1 / spread, 1 / spread, 0, 0], rtol=1e-14)
    got = group_advantages(np.array([1.0, 10.0, 3.0, 16.0]), ["a", "b", "a", "b"], std="group")
    np.testing.assert_allclose(got, [-1 / 1.0001, -3 / 3.0001, 1 / 1.0001, 3 / 3.0001], rtol=1e-14)
    assert group_advantages(np.array([]), []).shape == (0,)


def test_groups_without_spread_get_exactly_no_advantage():
    """0.1 has no finite binary form: its mean may differ from it in the last place."""
    rewards = np.array([0.1] * 24 + [0.3, 0.7])
    for std in ("batch", "group"):
        got = group_advantages(rewards, ["a"] * 24 + ["b"] * 2, std=std)
        assert (got[:24] == 0).all() and got[24] < 0 < got[25]


def test_schedules_by_hand():
    assert [old_decay("copy", s) for s in (0, 1, 999)] == [0, 0, 0]
    assert [old_decay("keep", s) for s in (0, 1, 999)] == [1, 1, 1]
    steps = (0, 1, 100, 500, 5000)
    assert [old_decay("linear_to_0.5", s) for s in steps] == pytest.approx(
        [0, 0.001, 0.1, 0.5, 0.5]
    )
    steps = (0, 74, 75, 76, 100, 150, 208, 209, 5000)
    assert [old_decay("delayed_to_0.999", s) for s in steps] == pytest.approx(
        [0, 0, 0, 0.0075, 0.1875, 0.5625, 0.9975, 0.999, 0.999]
    )
    assert (ema_decay(0), ema_decay(1), ema_decay(79) < 0.9, ema_decay(80)) == (
        0.1,
        2 / 11,
        True,
        0.9,
    )
    with pytest.raises(
        ValueError, match=r"unknown schedule 'linear'; expected copy, linear_to_0.5"
    ):
        old_decay("linear", 3)


# --- oracle ---------------------------------------------------------------------------------------


@given(seeds, betas)
def test_loss_equals_the_paper_number_by_number(seed, beta):
    """Identities 1 and 4: the mixes in the reference's form, loops in place of arrays."""
    batch = Batch(seed, shape=(2, 3, 2))
    for i, got in enumerate(batch.loss(beta)):
        positive, negative = [], []
        for j in np.ndindex(3, 2):
            theta, old, x_0, x_t = (
                float(a[i][j]) for a in (batch.v_theta, batch.v_old, batch.x_0, batch.x_t)
            )
            t = float(batch.t[i])
            positive.append(x_t - t * (beta * theta + (1 - beta) * old) - x_0)
            negative.append(x_t - t * ((1 + beta) * old - beta * theta) - x_0)
        errors = [
            np.mean([e * e for e in side]) / max(np.mean([abs(e) for e in side]), 1e-5)
            for side in (positive, negative)
        ]
        r = float(batch.r[i])
        assert float(got) == pytest.approx((r * errors[0] + (1 - r) * errors[1]) / beta, rel=1e-11)


@given(seeds, betas)
def test_gradient_equals_its_formula(seed, beta):
    """By v_theta: 2 t (-r e+ / |e+| + (1 - r) e- / |e-|) / n, with |e| the mean of an image."""
    batch = Batch(seed)
    step, expected = beta * (batch.v_theta - batch.v_old), 0
    for sign, weight in ((1, -batch.r), (-1, 1 - batch.r)):
        error = batch.x_t - batch.t * (batch.v_old + sign * step) - batch.x_0
        size = error.abs().mean((1, 2, 3), keepdim=True)
        expected = expected + 2 * batch.t * weight[:, None, None, None] * error / size / 32
    close(batch.gradient(beta), expected)


# --- laws of the loss -----------------------------------------------------------------------------


@given(seeds, betas)
def test_loss_of_the_true_velocity_is_nothing(seed, beta):
    """Identities 3 and 5."""
    batch = Batch(seed)
    v = batch.eps - batch.x_0
    close(batch.x_t - batch.t * v, batch.x_0)
    assert batch.loss(beta, v_theta=v, v_old=v).max() < 1e-25


@given(seeds, betas, betas)
def test_first_step_after_a_refresh(seed, beta, other):
    """Identity 2: with theta = old, beta loss knows neither r nor beta; the gradient goes with 2 r - 1."""
    batch = Batch(seed)
    same, some = {"v_theta": batch.v_old}, batch.r
    close(beta * batch.loss(beta, **same), other * batch.loss(other, **same, r=1 - some))
    towards = batch.gradient(beta, **same, r=torch.ones(3))
    assert towards.abs().max() > 1e-3
    close(batch.gradient(other, **same), (2 * some - 1)[:, None, None, None] * towards)
    close(batch.gradient(beta, **same, r=torch.zeros(3)), -towards)
    close(batch.gradient(beta, **same, r=torch.full((3,), 0.5)), 0 * towards)


@given(seeds, betas, st.floats(0, 1))
def test_loss_is_affine_in_r_and_each_image_stands_alone(seed, beta, share):
    """Identity 6."""
    batch = Batch(seed)
    ends = [batch.loss(beta, r=full(end)) for end in (0, 1)]
    close(batch.loss(beta, r=full(share)), (1 - share) * ends[0] + share * ends[1])
    names = ("v_theta", "v_old", "x_0", "x_t", "t", "r")
    singles = [batch.loss(beta, **{n: getattr(batch, n)[[i]] for n in names}) for i in range(3)]
    close(batch.loss(beta), torch.cat(singles))


@given(seeds, betas)
def test_policies_trade_places_with_r(seed, beta):
    """Mirroring v_theta at v_old and taking 1 - r for r changes nothing."""
    batch = Batch(seed)
    mirrored = {"v_theta": 2 * batch.v_old - batch.v_theta, "r": 1 - batch.r}
    close(batch.loss(beta), batch.loss(beta, **mirrored))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_keeps_the_dtype(dtype):
    batch = Batch(0)
    names = ("v_theta", "v_old", "x_0", "x_t", "t", "r")
    loss = batch.loss(1.0, **{n: getattr(batch, n).to(dtype) for n in names})
    assert loss.dtype == dtype
    torch.testing.assert_close(
        loss.double(), batch.loss(1.0), rtol=30 * torch.finfo(dtype).eps, atol=0
    )


# --- laws of the advantages -----------------------------------------------------------------------

rewards_and_groups = st.lists(
    st.tuples(st.integers(-400, 400), st.sampled_from("abcd")), min_size=1, max_size=40
).map(lambda pairs: (np.array([v for v, _ in pairs]) / 64, [g for _, g in pairs]))


@given(rewards_and_groups, st.sampled_from(["batch", "group"]))
def test_advantages_of_a_group_sum_to_nothing(case, std):
    """Identity 7; within a group their order is that of the rewards."""
    rewards, groups = case
    advantages = group_advantages(rewards, groups, std=std)
    for group in set(groups):
        mine = np.array([g == group for g in groups])
        assert advantages[mine].sum() == pytest.approx(0, abs=1e-9)
        order = np.argsort(rewards[mine], kind="stable")
        assert (np.diff(advantages[mine][order]) >= 0).all()


@given(rewards_and_groups, st.integers(-50, 50), st.sampled_from(["batch", "group"]))
def test_one_constant_added_to_all_rewards_changes_nothing(case, constant, std):
    rewards, groups = case
    np.testing.assert_allclose(
        group_advantages(rewards + constant, groups, std=std),
        group_advantages(rewards, groups, std=std),
        rtol=1e-9,
        atol=1e-12,
    )


@given(rewards_and_groups, st.randoms(use_true_random=False))
def test_advantages_know_no_order(case, random):
    rewards, groups = case
    order = list(range(len(groups)))
    random.shuffle(order)
    np.testing.assert_allclose(
        group_advantages(rewards[order], [groups[i] for i in order]),
        group_advantages(rewards, groups)[order],
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_constant_added_to_one_prompt_shrinks_all():
    """The spread is that of the raw rewards, between prompts too; not so with the group's own."""
    rewards, groups = np.array([0.0, 1.0, 0.0, 1.0]), ["a", "a", "b", "b"]
    apart = rewards + np.array([0, 0, 5, 5])
    before, after = (group_advantages(r, groups) for r in (rewards, apart))
    np.testing.assert_allclose(after, before * (0.5 + 1e-4) / (np.std(apart) + 1e-4), rtol=1e-12)
    assert abs(after).max() < 0.2 < 0.9 < abs(before).max()
    own = [group_advantages(r, groups, std="group") for r in (rewards, apart)]
    np.testing.assert_array_equal(*own)


@given(st.floats(-50, 50), st.floats(0.5, 10))
def test_optimality_is_a_clipped_line(advantage, clip):
    expected = 0.5 + min(max(advantage, -clip), clip) / (2 * clip)
    assert optimality(np.array([advantage]), clip=clip)[0] == pytest.approx(expected, abs=1e-12)


def test_optimality_by_hand():
    got = optimality(np.array([-9.0, -5.0, -1.0, 0.0, 2.5, 5.0, 9.0]))
    np.testing.assert_allclose(got, [0, 0, 0.4, 0.5, 0.75, 1, 1], atol=1e-15)


# --- the reference's numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c["id"])
def test_golden_loss_and_gradient(case):
    """float64 to 1e-12 and 1e-11; float32, which the reference promotes to float64 and we do not, to 2e-5."""
    dtype, out, clip = getattr(torch, case["dtype"]), case["out"], case["adv_clip_max"]
    v_theta, v_old, v_ref, x_0, eps = (
        torch.tensor(ARRAYS[f"{case['base']}/{name}"], dtype=dtype)
        for name in ("v_theta", "v_old", "v_ref", "x0", "noise")
    )
    t = (torch.tensor(case["timesteps"], dtype=dtype) / 1000)[:, None, None, None]
    r, v_theta = torch.tensor(out["r"], dtype=dtype), v_theta.requires_grad_()
    loss = nft_loss(v_theta, v_old, x_0, (1 - t) * x_0 + t * eps, t, r, beta=case["beta"])
    kl = velocity_kl(v_theta, v_ref)
    total = clip * loss.mean() + case["kl_weight"] * kl.mean()
    total.backward()
    relative, of_gradient = (1e-12, 1e-11) if dtype == torch.float64 else (2e-5, 2e-5)
    assert loss.tolist() == pytest.approx(out["ori_policy_loss"], rel=relative, abs=relative)
    assert kl.tolist() == pytest.approx(out["kl_per_sample"], rel=relative, abs=relative)
    assert clip * loss.mean().item() == pytest.approx(
        out["policy_loss"], rel=relative, abs=relative
    )
    assert total.item() == pytest.approx(out["total_loss"], rel=relative, abs=relative)
    off = np.abs(v_theta.grad.numpy() - ARRAYS[f"{case['id']}/grad"]).max()
    assert off <= of_gradient * out["grad_abs_max"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda c: c["id"])
def test_golden_optimality(case):
    """Modes that change the advantages first are not ours."""
    if case["adv_mode"] not in ("all", None):
        assert optimality(np.array(case["advantages"])).tolist() != pytest.approx(case["out"]["r"])
        return
    got = optimality(np.array(case["advantages"]), clip=case["adv_clip_max"])
    relative = 1e-12 if case["dtype"] == "float64" else 2e-5
    assert got.tolist() == pytest.approx(case["out"]["r"], rel=relative, abs=relative)


@pytest.mark.parametrize("case", ADVANTAGES, ids=lambda c: c["name"])
def test_golden_advantages(case):
    """To 1e-12; 1e-9 where a group has no spread, whose rounding noise the reference divides by 1e-4."""
    rewards, groups = np.array(case["rewards"]), np.array(case["prompts"])
    level = np.array([np.ptp(rewards[groups == g]) == 0 for g in groups])
    for std in ("batch", "group"):
        got, expected = group_advantages(rewards, case["prompts"], std=std), np.array(case[std])
        np.testing.assert_allclose(got[~level], expected[~level], rtol=1e-12, atol=1e-12)
        assert (got[level] == 0).all() and (np.abs(expected[level]) < 1e-9).all()
    r = optimality(group_advantages(rewards, case["prompts"]))
    np.testing.assert_allclose(r, case["r"], rtol=1e-12, atol=1e-10)


def test_golden_schedules():
    golden = SCHEDULES["return_decay"]
    for number, name in enumerate(("copy", "linear_to_0.5", "delayed_to_0.999")):
        got = [old_decay(name, step) for step in golden["steps"]]
        assert got == golden["decay"][str(number)] and len(got) == 294
    golden = SCHEDULES["ema_decay"]
    for maximum, expected in golden["by_max_decay"].items():
        assert [ema_decay(s, maximum=float(maximum)) for s in golden["steps"]] == expected
