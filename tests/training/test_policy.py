"""One network, several sets of weights: they change places, follow, and come back."""

import copy

import pytest
import torch
from torch import nn

from nftbench.generation.checkpoint import load_model
from nftbench.training.config.recipe import PolicyConfig
from nftbench.training.policy.trained import BLIND_STEPS, NoEffect, TrainedPolicy
from nftbench.training.policy.weights import Weights
from rewards.base import ConfigError


def three() -> tuple[nn.Linear, Weights]:
    """theta = 3, old = ref = ema = 1."""
    network = nn.Linear(2, 1)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1.0)
    weights = Weights(dict(network.named_parameters()))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 3.0)
    return network, weights


def says(network: nn.Module) -> float:
    """Of (1, 1): two weights and a bias."""
    return float(network(torch.ones(1, 2)).detach())


def test_another_set_is_in_the_network_for_a_block():
    network, weights = three()
    optimised = list(network.parameters())
    for name in ("old", "ref", "ema"):
        with weights.using(name):
            assert says(network) == 3.0 and not torch.is_grad_enabled()
        assert says(network) == 9.0 and torch.is_grad_enabled()
    with weights.using("theta"):
        assert says(network) == 9.0
    assert all(a is b for a, b in zip(optimised, network.parameters(), strict=True))


def test_theta_comes_back_after_an_error():
    network, weights = three()
    with pytest.raises(KeyError), weights.using("old"):
        raise KeyError
    assert says(network) == 9.0
    assert all((t == 1).all() for t in weights["old"])


@pytest.mark.parametrize("inner", ["old", "ema", "theta"])
@pytest.mark.parametrize("outer", ["old", "theta"])
def test_sets_are_not_nested(outer, inner):
    """`old` inside `old` was theta; `theta` inside `old` was old."""
    network, weights = three()
    with weights.using(outer):
        held = says(network)
        refused = pytest.raises(RuntimeError, match=f"cannot use '{inner}' .* holds '{outer}'")
        with refused, weights.using(inner):
            pass
        assert says(network) == held
    assert says(network) == 9.0 and all((t == 1).all() for t in weights["old"])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda w: w["theta"],
        lambda w: w.copy("ema"),
        lambda w: w.blend("ema", 0.5),
        lambda w: w.distance("theta", "old"),
        lambda w: w.state(),
    ],
)
def test_sets_are_not_touched_while_one_is_in_the_network(wrong):
    network, weights = three()
    with weights.using("old"), pytest.raises(RuntimeError, match="while the network holds 'old'"):
        wrong(weights)
    assert says(network) == 9.0 and all((t == 1).all() for t in weights["ema"])


@pytest.mark.parametrize(("keep", "expected"), [(0.0, 3.0), (0.25, 2.5), (0.9, 1.2), (1.0, 1.0)])
def test_blend_in_closed_form(keep, expected):
    _, weights = three()
    weights.blend("old", keep)
    for tensor in weights["old"]:
        torch.testing.assert_close(tensor, torch.full_like(tensor, expected))
    assert all((t == 1).all() for t in weights["ema"])
    assert all((t == 3).all() for t in weights["theta"])


def test_a_set_is_a_copy_and_no_view():
    network, weights = three()
    weights.copy("old")
    nn.init.constant_(network.weight, 7.0)
    assert (weights["old"][0] == 3).all()


def test_distance_in_closed_form():
    _, weights = three()
    assert weights.distance("theta", "old") == pytest.approx(12**0.5)  # three numbers, 2 apart
    assert weights.distance("old", "ref") == 0


def test_state_goes_round():
    _, weights = three()
    weights.blend("ema", 0.5)
    state = {k: v.clone() for k, v in weights.state().items()}
    network = nn.Linear(2, 1)
    other = Weights(dict(network.named_parameters()))
    other.load_state(state)
    assert says(network) == 9.0
    assert other.state().keys() == state.keys() and len(state) == 6
    assert all(torch.equal(v, state[k]) for k, v in other.state().items())


@pytest.mark.parametrize(
    "other", [nn.Linear(3, 1), nn.Linear(2, 1, bias=False), nn.Conv2d(1, 1, 1)]
)
def test_a_state_of_another_shape_is_refused(other):
    _, weights = three()
    before = {k: v.clone() for k, v in weights.state().items()}
    with pytest.raises(ConfigError, match="of another model or LoRA"):
        weights.load_state(Weights(dict(other.named_parameters())).state())
    assert all(torch.equal(v, before[k]) for k, v in weights.state().items())


# --- around a pipeline ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline():
    return load_model("pocket").pipeline


@pytest.fixture
def fresh(pipeline):
    """A pipeline whose transformer nobody has touched."""
    parts = dict(pipeline.components)
    parts["transformer"] = copy.deepcopy(pipeline.transformer)
    return type(pipeline)(**parts)


def inputs(transformer: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    config = transformer.config
    return {
        "hidden_states": torch.randn(
            2, config.in_channels, config.sample_size, config.sample_size, generator=generator
        ),
        "timestep": torch.tensor([300.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 4, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=generator),
    }


def test_a_fresh_lora_is_the_base_bit_for_bit(pipeline, fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(rank=4), seed=0)
    # As frozen as the LoRA's own base: torch's matmul sums in another order where a weight requires a gradient.
    pipeline.transformer.requires_grad_(False)
    given = inputs(pipeline.transformer)
    with torch.no_grad():
        base = pipeline.transformer(**given).sample
        with trained.weights.using("ref"):
            assert torch.equal(fresh.transformer(**given).sample, base)
        for parameter in trained.weights.parameters.values():
            parameter.add_(0.05)
        assert (fresh.transformer(**given).sample - base).abs().max() > 1e-3
        with trained.weights.using("ref"):
            assert torch.equal(fresh.transformer(**given).sample, base)


def test_a_merged_lora_and_another_set_are_refused(fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(rank=4), seed=0)
    with (
        trained.drawing("old"),
        pytest.raises(RuntimeError, match="holds 'old'"),
        trained.weights.using("ref"),
    ):
        pass


def test_a_lora_follows_from_the_seed_alone(pipeline):
    found = []
    for seed in (3, 3, 4):
        parts = dict(pipeline.components)
        parts["transformer"] = copy.deepcopy(pipeline.transformer)
        torch.manual_seed(len(found))
        policy = TrainedPolicy(type(pipeline)(**parts), PolicyConfig(rank=4), seed=seed)
        found.append(torch.cat([p.flatten() for p in policy.weights["theta"]]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_only_the_lora_is_trained(fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(rank=4), seed=0)
    opened = {n for n, p in fresh.transformer.named_parameters() if p.requires_grad}
    assert opened == set(trained.weights.parameters) and all(".lora_" in n for n in opened)
    assert not any(p.requires_grad for p in fresh.text_encoder.parameters())
    assert not any(p.requires_grad for p in fresh.vae.parameters())


def test_full_training_opens_the_whole_network(fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(method="full"), seed=0)
    assert trained.weights.parameters.keys() == dict(fresh.transformer.named_parameters()).keys()
    assert all(p.requires_grad for p in fresh.transformer.parameters())


def test_no_layer_fits_the_targets(fresh):
    with pytest.raises(
        ConfigError,
        match=r"no layer of SD3Transformer2DModel fits policy\.targets .*names: linear, .*to_out\.0",
    ):
        TrainedPolicy(fresh, PolicyConfig(targets=("no_such_layer",)), seed=0)


def test_a_network_that_keeps_its_activations_is_one_line(fresh, monkeypatch):
    monkeypatch.setattr(type(fresh.transformer), "_supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"leave out policy\.gradient_checkpointing"):
        TrainedPolicy(fresh, PolicyConfig(gradient_checkpointing=True), seed=0)


def test_a_step_that_moves_nothing_is_refused(fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(rank=4), seed=0)
    before = trained.fingerprint()
    with pytest.raises(NoEffect, match="left every trained weight as it was"):
        trained.check_moved(before)
    with torch.no_grad():
        next(iter(trained.weights.parameters.values()))[0, 0] += 1e-6
    trained.check_moved(before)
    assert trained.fingerprint() != before


def test_a_network_blind_to_its_weights_is_refused(fresh):
    trained = TrainedPolicy(fresh, PolicyConfig(rank=4), seed=0)
    for _ in range(2 * BLIND_STEPS):
        trained.check_seen(0.0)  # theta is old: no deviation is right
    with torch.no_grad():
        for parameter in trained.weights.parameters.values():
            parameter.add_(1.0)
    for deviation in (0.0, 0.0, 1e-9, 0.0, None, 0.0):
        trained.check_seen(deviation)
    with pytest.raises(NoEffect, match="is not the one that is trained"):
        trained.check_seen(0.0)
