"""The line of an iteration."""

from types import SimpleNamespace

import pytest

from nftbench.training.callbacks import base


@pytest.mark.parametrize("first", [1, 126])
def test_time_left_is_by_what_was_done_since_the_resume(first, monkeypatch):
    """A run of 225 iterations of 60 s each, from its start or resumed: the first one warms up and is not counted."""
    clock = {"now": 0.0}
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    setup = SimpleNamespace(
        trained=[], watched=[], recipe=SimpleNamespace(stages=[SimpleNamespace(iterations=225)])
    )
    said = []
    report = base.IterationLines(setup, said.append)
    for done in (first, first + 1, first + 2):
        clock["now"] += 500 if done == first else 60
        report(base.Iteration(done=done, metrics={"reward/total": 1.0, "images": 1}))
    assert "left" not in said[0]
    minutes = 225 - first - 2
    left = f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
    assert said[-1].endswith(f"60 s  {left} left")
