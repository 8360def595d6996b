"""Every key of a recipe is explained, from the models themselves."""

import pytest

from nftbench.training.config.keys import keys
from nftbench.training.config.overrides import load_recipe, names


@pytest.mark.parametrize("name", names())
def test_every_key_of_a_shipped_recipe_is_listed_once_and_can_be_set(name):
    recipe = load_recipe(name)
    listed = [key.name for key in keys(recipe)]
    assert len(set(listed)) == len(listed)
    assert {"optimizer.lr", "stages.beta", "guards.kl.warn", "checkpoint"} <= set(listed)


def test_value_default_and_meaning():
    found = {key.name: key for key in keys(load_recipe("pocket", ["optimizer.lr=0.25"]))}
    lr, ema = found["optimizer.lr"], found["optimizer.ema"]
    assert (lr.value, lr.default) == ("0.25", "0.0003")
    assert "evaluation average" in ema.meaning
    assert found["checkpoint"].default == ""  # a recipe must say it


def test_stages_that_differ_show_each_value():
    recipe = load_recipe("pocket-multireward", ["stages[0].beta=0.5"])
    found = {key.name: key for key in keys(recipe)}
    assert found["stages.beta"].value.split(" | ")[0] == "0.5"
