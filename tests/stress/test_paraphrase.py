"""GenEval's prompts in other words: by hand, against the judge, and on the official files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench.benchmark.prompts import load_prompts
from nftbench.benchmark.registry import load_benchmark
from nftbench.stress.paraphrase import INVERSE, RULES, one_each, paraphrases, parse, with_article
from rewards.base import Prompt
from rewards.geneval.judge import judge
from tests.helpers.paths import DATA


def prompt(text: str, tag: str, *include: dict) -> Prompt:
    return Prompt(id="0007", text=text, tag=tag, target={"include": list(include)})


BENCH = {"class": "bench", "count": 1}
SINGLE = prompt("a photo of a bench", "single_object", BENCH)
TWO = prompt("a photo of an apple and a bench", "two_object", {"class": "apple", "count": 1}, BENCH)
COUNT = prompt("a photo of two wine glasses", "counting", {"class": "wine glass", "count": 2})
COLOR = prompt("a photo of an orange bench", "colors", BENCH | {"color": "orange"})
LEFT = prompt(
    "a photo of a dog left of an apple",
    "position",
    {"class": "apple", "count": 1},
    {"class": "dog", "count": 1, "position": ["left of", 0]},
)
BOTH = prompt(
    "a photo of a red dog and an orange apple",
    "color_attr",
    {"class": "dog", "count": 1, "color": "red"},
    {"class": "apple", "count": 1, "color": "orange"},
)
TOLD = [
    (SINGLE, "picture", "a picture of a bench"),
    (SINGLE, "showing", "an image showing a bench"),
    (SINGLE, "there is", "there is a bench in the picture"),
    (SINGLE, "bare", "a bench"),
    (SINGLE, "one", "a photo of one bench"),
    (TWO, "there is", "there is an apple and a bench in the picture"),
    (TWO, "one", "a photo of one apple and one bench"),
    (TWO, "order", "a photo of a bench and an apple"),
    (TWO, "words", "a photo of an apple along with a bench"),
    (COUNT, "picture", "a picture of two wine glasses"),
    (COUNT, "there is", "there are two wine glasses in the picture"),
    (COUNT, "words", "a photo of 2 wine glasses"),
    (COLOR, "one", "a photo of one orange bench"),
    (COLOR, "colour behind", "a photo of a bench that is orange"),
    (LEFT, "order", "a photo of an apple right of a dog"),
    (LEFT, "words", "a photo of a dog to the left of an apple"),
    (LEFT, "bare", "a dog left of an apple"),
    (BOTH, "order", "a photo of an orange apple and a red dog"),
    (BOTH, "colour behind", "a photo of a dog that is red and an apple that is orange"),
]


@pytest.mark.parametrize(("plain", "rule", "text"), TOLD, ids=lambda v: str(v)[:20])
def test_a_rule_by_hand(plain, rule, text):
    assert paraphrases(plain)[rule].text == text


def test_every_rule_is_told_by_hand():
    assert {rule for _, rule, _ in TOLD} == set(RULES)


def test_rules_stay_silent_where_they_have_nothing_to_say():
    assert set(paraphrases(SINGLE)) == {"picture", "showing", "there is", "bare", "one"}
    assert set(paraphrases(COUNT)) == {"picture", "showing", "there is", "bare", "words"}
    assert "colour behind" not in paraphrases(TWO)


@pytest.mark.parametrize(
    "plain",
    [
        prompt("a drawing of a bench", "single_object", BENCH),
        prompt("a photo of a bench", "single_object"),
        prompt("a photo of a chair", "single_object", BENCH),
        prompt("a photo of a bench", "two_object", BENCH, BENCH),
        prompt("a photo of a dog right of an apple", "position", *LEFT.target["include"]),
        Prompt(id="1", text='a sign that says "BOAT"'),
    ],
    ids=lambda p: p.text[:24],
)
def test_other_phrasings_are_left_alone(plain):
    assert paraphrases(plain) == {}


NOUNS = st.sampled_from(["dog", "apple", "umbrella", "wine glass", "hair drier"])
BOXES = st.lists(st.integers(0, 60), min_size=4, max_size=4)


@given(NOUNS, NOUNS, st.sampled_from(sorted(INVERSE)), BOXES, BOXES)
def test_swapped_roles_say_the_same_of_every_picture(a, b, relation, first, second):
    """The swapped text, read as GenEval would write it down, is judged as the target that was kept."""
    if a == b:
        return
    clauses = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
    plain = prompt(
        f"a photo of {with_article(a)} {relation} {with_article(b)}", "position", *clauses
    )
    swapped = paraphrases(plain)["order"]
    assert swapped.target is plain.target
    assert swapped.text == f"a photo of {with_article(b)} {INVERSE[relation]} {with_article(a)}"
    read = [{"class": a, "count": 1}, {"class": b, "count": 1, "position": [INVERSE[relation], 0]}]
    boxes = {
        name: np.array([[x, y, x + 1 + w, y + 1 + h, 0.9]], np.float32)
        for name, (x, y, w, h) in ((a, first), (b, second))
    }
    kept = judge(boxes, plain.target, {}).correct
    assert judge(boxes, {"include": read}, {}).correct == kept
    again = paraphrases(prompt(swapped.text, "position", *read))["order"]
    assert again.text == plain.text


POCKET = load_benchmark("geneval-pocket").load()


def test_all_pocket_prompts_are_read_and_nothing_but_the_text_moves():
    for plain in POCKET:
        found = paraphrases(plain)
        assert len(found) >= 5
        assert len({plain.text, *(p.text for p in found.values())}) == len(found) + 1
        for other in found.values():
            assert (other.id, other.tag, other.target) == (plain.id, plain.tag, plain.target)
            for clause in plain.target["include"]:
                assert clause["class"] in other.text
                assert clause.get("color", "") in other.text


@pytest.mark.skipif(not DATA.is_dir(), reason="the official files are not beside the checkout")
@pytest.mark.parametrize(
    "name", ["geneval/evaluation_metadata.jsonl", "geneval_unseen/test_metadata.jsonl"]
)
def test_all_official_prompts_are_read(name):
    copies = 4 if "unseen" in name else 1
    plain = load_prompts(DATA / name, "geneval", copies=copies)
    unread = [p.text for p in plain if parse(p) is None]
    assert unread == []


def test_turns_meet_every_rule_once_whatever_the_order():
    turns = [one_each(POCKET, turn) for turn in range(len(RULES))]
    for plain in POCKET:
        met = [turn[plain.id][0] for turn in turns if plain.id in turn]
        assert sorted(met) == sorted(paraphrases(plain))
    assert one_each(POCKET[::-1]) == turns[0]
    assert len({rule for rule, _ in turns[0].values()}) == len(RULES)
