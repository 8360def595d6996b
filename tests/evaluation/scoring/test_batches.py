"""What is read ahead of the scoring: all of it, in order, one at a time."""

import threading

import pytest

from nftbench.evaluation.scoring.batches import ahead


def test_the_next_one_is_made_while_this_one_is_used_and_no_more():
    made = [threading.Event() for _ in range(5)]

    def work(item: int) -> int:
        made[item].set()
        return item * 10

    seen = []
    for item, found in ahead(work, range(5)):
        assert all(one.wait(30) for one in made[: item + 2])
        assert not any(one.is_set() for one in made[item + 2 :])
        seen.append((item, found))
    assert seen == [(i, i * 10) for i in range(5)]


def test_it_is_another_thread_that_makes_it():
    threads = [who for _, who in ahead(lambda _: threading.current_thread(), "ab")]
    assert threads[0] is threads[1] is not threading.current_thread()


def test_an_error_comes_in_its_turn():
    one_by_one = []
    with pytest.raises(ZeroDivisionError):
        for item, _ in ahead(lambda item: 1 / item, [2, 1, 0, 5]):
            one_by_one.append(item)
    assert one_by_one == [2, 1]


def test_nothing_ahead_of_nothing():
    assert list(ahead(str, [])) == []
