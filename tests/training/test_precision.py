"""Precision that a recipe leaves to the machine: what it comes to, that it is said, and that a run keeps it."""

import pytest
import torch

from nftbench.training.config.overrides import load_recipe, names
from nftbench.training.config.record import stored_recipe
from nftbench.training.policy.precision import has_bfloat16
from nftbench.training.setup import resumed_recipe
from tests.helpers.runs.trainings import begin, small

ONE = ("stages.iterations=1", "stages.updates=1")


def machine(monkeypatch, **units):
    """As if the CPU had these units."""
    known = {"architecture": "x86_64", "avx512_f": True, **units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": False}, "no")],
)
def test_auto_is_bf16_where_the_machine_has_units_for_it(tmp_path, monkeypatch, units, expected):
    """The same run as with the value named, its id too; resumed elsewhere, it stays what it was."""
    machine(monkeypatch, **units)
    said = []
    begin(small(*ONE, "policy.precision=auto"), tmp_path / "auto", say=said.append).run()
    assert [line for line in said if line.startswith(f"policy.precision = {expected}: the cpu has")]
    named = small(*ONE, f"policy.precision={expected}")
    assert stored_recipe(tmp_path / "auto") == named
    begin(named, tmp_path / "named").run()
    for name in ("lora/pytorch_lora_weights.safetensors", "recipe.json"):
        mine, theirs = ((tmp_path / run / name).read_bytes() for run in ("auto", "named"))
        assert mine == theirs, name
    machine(monkeypatch, avx512_bf16=expected == "no")
    assert resumed_recipe(tmp_path / "auto", small(*ONE, "policy.precision=auto"), []) == named


def test_a_torch_that_cannot_say_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16(torch.device("cpu"))


def test_pockets_recipes_leave_the_precision_to_the_machine():
    """Without units a pass in bf16 takes twice as long as in float32."""
    pocket = [name for name in names() if name.startswith("pocket")]
    assert {load_recipe(name).policy.precision for name in pocket} == {"auto"}
