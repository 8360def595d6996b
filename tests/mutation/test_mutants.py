"""Every one-line fault in what makes a number is noticed by a cheap certificate or a quick test; see TABLE.md."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from tests.mutation.mutants import MUTANTS
from tests.mutation.run import LIVES, TABLE, known, table


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_changes_the_source(mutant):
    source = (ROOT / mutant.file).read_text("utf-8")
    assert mutant.old in source and mutant.old != mutant.new
    compile(source.replace(mutant.old, mutant.new, 1), mutant.file, "exec")


def test_the_table_is_of_these_mutants_and_none_lives():
    found = known()
    assert TABLE.read_text("utf-8") == table(found)
    assert LIVES not in found.values()


@pytest.mark.mutation
@pytest.mark.slow
def test_every_mutant_is_noticed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation.run", "->"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
