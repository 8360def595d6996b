"""Nested arguments: whose a value is, and the rows some images need, against a slow oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nftbench.generation.recorder.call_arguments import (
    convert,
    count,
    flat,
    kind_of,
    refuse_new,
    same,
    shown,
    take,
    unwrapped,
    wrapped,
)
from rewards.base import ConfigError

ONES = torch.ones


@pytest.mark.parametrize(
    ("one", "two", "mixed", "kind"),
    [
        (ONES(1, 3), ONES(2, 3), ONES(2, 5), "image"),
        (ONES(4, 3), ONES(4, 3), ONES(7, 3), "shared"),
        (ONES(()), ONES(()), ONES(()), "shared"),
        ([ONES(5)], [ONES(5)] * 2, [ONES(5), ONES(9)], "image"),
        ([[(1, 8, 8)]], [[(1, 8, 8)]] * 2, [[(1, 8, 8)]] * 2, "image"),
        ([ONES(1, 2), 7], [ONES(2, 2), 7], [ONES(2, 2), 7], ["image", "shared"]),
        (
            {"a": ONES(1), "b": None},
            {"a": ONES(2), "b": None},
            {"a": ONES(2), "b": None},
            {"a": "image", "b": "absent"},
        ),
        (None, None, ONES(2, 4), "image"),
        (None, None, ONES(3, 4), "absent"),
        (None, None, None, "absent"),
        (False, False, False, "shared"),
        ({}, {}, {}, {}),
    ],
)
def test_kinds(one, two, mixed, kind):
    assert kind_of("a", one, two, mixed) == kind


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (ONES(3, 1), ONES(3, 2), r"a tensor \(3, 1\) for one image and a tensor \(3, 2\) for two"),
        (ONES(5), ONES(10), r"a tensor \(5,\)"),
        (ONES(1, 3), ONES(2, 4), r"a tensor \(2, 4\)"),
        (ONES(3), 2 * ONES(3), r"a tensor \(3,\)"),
        (1, 2, "was 1 for one image and 2 for two"),
        (None, ONES(2), r"was None for one image"),
        ([ONES(1)] * 2, [ONES(1)] * 4, r"2 x a tensor \(1,\)"),
    ],
)
def test_other_changes_are_refused_with_what_was_seen(one, two, message):
    with pytest.raises(ConfigError, match=f"^argument a of the network .*{message}"):
        kind_of("a", one, two, two)


KINDS = {"rows": "image", "shared": "shared", "deep": {"list": "image", "none": "absent"}}


@given(st.integers(1, 5).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, 3), st.data())))
def test_take_equals_a_plain_loop(drawn):
    prompts, each, data = drawn
    of = prompts * each
    images = data.draw(st.lists(st.integers(0, of - 1), min_size=1, max_size=6))
    table = torch.arange(prompts * 2).reshape(prompts, 2)
    value = {
        "rows": table,
        "shared": ONES(3),
        "deep": {"list": [str(i) for i in range(prompts)], "none": None},
    }
    taken = take(value, KINDS, torch.tensor(images), of=of)
    owner = [i // each for i in images]  # images go prompt by prompt
    assert taken["rows"].tolist() == [table[o].tolist() for o in owner]
    assert taken["deep"] == {"list": [str(o) for o in owner], "none": None}
    assert taken["shared"] is value["shared"]


def test_equality_is_exact_unless_asked_otherwise():
    a = {"x": [ONES(2), 3], "y": (None,)}
    b = {"x": [ONES(2) + 1e-7, 3], "y": (None,)}
    assert same(a, a) and not same(a, b) and same(a, b, tolerance=1e-6)
    assert not same(a, {**a, "x": [ONES(2), 4]}, tolerance=1.0)
    assert not same(torch.tensor([1, 2]), torch.tensor([1, 3]), tolerance=1.0)
    assert not same(ONES(2), ONES(3)) and not same(ONES(1), 1) and not same([1], [1, 2])
    nothing = ONES(0)
    assert same(nothing, nothing, tolerance=0.1)


def test_numbers_of_each_image():
    tensor = torch.arange(12).reshape(2, 3, 2)
    assert (
        flat(tensor).tolist() == flat(list(tensor)).tolist() == [list(range(6)), list(range(6, 12))]
    )
    assert flat([ONES(2), ONES(3)]) is None and flat(ONES(())) is None and flat([]) is None
    assert flat([[t] for t in tensor]).tolist() == flat([[[t]] for t in tensor]).tolist()
    assert torch.equal(flat([[t] for t in tensor]), flat(tensor))
    assert flat([list(t) for t in tensor]) is None  # several tensors an image
    assert [count(v) for v in (tensor, [1, 2, 3], ONES(()), 5, None)] == [2, 3, None, None, None]


@given(st.integers(0, 4))
def test_lists_of_one_are_taken_off_and_put_back(depth):
    row = ONES(2)
    found, lists = unwrapped(wrapped(row, depth))
    assert found is row and lists == depth


def test_an_object_nobody_can_look_into_is_refused_by_its_type():
    with pytest.raises(ConfigError, match="argument cache of the network is a object; expected"):
        kind_of("cache", object(), object(), object())


def test_convert_keeps_the_nesting_and_copies_containers():
    value = {"a": [ONES(1), (ONES(1), 2)], "b": None}
    doubled = convert(value, lambda t: 2 * t)
    assert doubled["a"][0].item() == 2 and doubled["a"][1][0].item() == 2
    assert doubled["a"][1][1] == 2 and doubled["b"] is None and doubled["a"] is not value["a"]


def test_what_appears_later_is_refused_by_its_path():
    with pytest.raises(
        ConfigError, match=r"argument a\['b'\]\[1\] of the network is a tensor \(4,\)"
    ):
        refuse_new("a", {"b": [1, ONES(4)]}, {"b": ["shared", "absent"]})
    refuse_new("a", {"b": [1, None]}, {"b": ["shared", "absent"]})


def test_shown():
    assert shown([ONES(2, 3)] * 4) == "4 x a tensor (2, 3)" and shown({"a": 1}) == "dict"
    assert (shown(None), shown("x"), shown([])) == ("None", "'x'", "an empty list")
