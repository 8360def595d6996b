"""One spelling of a metric: what is written is what is read."""

from hypothesis import given
from hypothesis import strategies as st

from rewards.base import Metric, RewardInfo

WORDS = st.text("abcdefghijklmnopqrstuvwxyz_-0123456789", min_size=1)


@given(st.builds(Metric, WORDS, WORDS | st.just(""), WORDS | st.just("")))
def test_a_metric_comes_back(metric):
    assert Metric.parse(str(metric)) == metric


def test_the_spelling():
    assert str(Metric("geneval", "pocket", "strict")) == "geneval@pocket:strict"
    assert str(Metric("jpeg")) == "jpeg" and Metric("jpeg", part="x").key == "jpeg"


def test_a_rewards_key_is_its_metrics():
    info = RewardInfo(name="ocr", variant="rapidocr", summary="", low=0, high=1)
    assert info.key == str(Metric("ocr", "rapidocr")) and not info.needs_metadata
