"""An interval that nothing was measured of is unknown, wherever it is shown."""

from tests.helpers.commands import run_here
from tests.helpers.runs.made_runs import GENEVAL, PICK, evaluation


def test_images_that_are_the_same_have_no_interval_of_the_range(tmp_path):
    """Right and wrong keep theirs: a share of so many prompts is known that well."""
    for name in ("a", "b"):
        evaluation(tmp_path / name, [f"prompt {i}" for i in range(8)])
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "markdown")
    lines = {line.split("|")[1].strip(): line for line in said.splitlines() if line.count("|") > 5}
    assert code == 0 and "| +0.000 | unknown |" in lines[PICK.key]
    assert "unknown" not in lines[GENEVAL.key] and "| +0.000 | -0." in lines[GENEVAL.key]
