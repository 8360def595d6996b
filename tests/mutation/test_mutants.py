"""Every one-line fault in what scores an image is noticed by the cheap certificate of a reward that it changes."""

import pytest

from tests.mutation.mutants import MUTANTS, Copy

pytestmark = [pytest.mark.mutation, pytest.mark.slow]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("copy") / "packages")


@pytest.mark.parametrize("reward", sorted({mutant.reward for mutant in MUTANTS}))
def test_without_a_mutant_nothing_is_noticed(copy, reward):
    assert copy.certify(reward) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_noticed(copy, mutant):
    assert copy.killed_by(mutant), f"{mutant} lives"
