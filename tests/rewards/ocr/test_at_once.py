"""Pictures read at a time: by as many engines as threads are allowed, and the same text by any number of them."""

import threading

import numpy as np
import pytest

from rewards import load_reward
from rewards.ocr.engines import MOST_COPIES, RapidOcr
from tests.helpers.signs import signs

COUNT = 12


@pytest.mark.parametrize(
    ("asked", "given"), [("1", 1), ("3", 3), ("2,1", 2), ("0", 1), ("1000", MOST_COPIES)]
)
def test_as_many_as_threads_are_allowed(asked, given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert RapidOcr().at_once == given


@pytest.mark.slow
def test_three_at_a_time_score_to_the_bit_what_one_does(monkeypatch):
    images, prompts = signs(COUNT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = load_reward("ocr").reward.score(images, prompts)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    reward = load_reward("ocr").reward
    together, read = threading.Barrier(3), reward.engine.read

    def watched(image):
        together.wait(timeout=120)  # broken, and so the test, where fewer than three read at a time
        return read(image)

    reward.engine.read = watched
    three = reward.score(images, prompts)
    assert np.array_equal(one.values, three.values) and one.evidence == three.evidence
    assert one.values.mean() > 0.5, "the signs are read"
    assert all(np.array_equal(one.parts[name], three.parts[name]) for name in one.parts)


@pytest.mark.slow
def test_an_engine_that_is_reading_reads_nothing_else(monkeypatch):
    """A copy keeps state while it reads, so two pictures never meet in one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    reward, busy, met = load_reward("ocr").reward, set(), []
    copies = reward.engine._engine
    build = copies._build

    def watching(engine):
        def read(picture):
            met.append(id(engine) in busy)
            busy.add(id(engine))
            try:
                return engine(picture)
            finally:
                busy.discard(id(engine))

        return read

    copies._build = lambda: watching(build())
    copies._idle.get()
    copies._idle.put(watching(copies.first))
    reward.score(*signs(COUNT))
    assert len(met) == COUNT and not any(met)
