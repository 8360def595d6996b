"""Finding rewards by name: built in, by entry point, misspelt, ambiguous, broken."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import rewards
from rewards import (
    ConfigError,
    RewardInfo,
    RewardSpec,
    available,
    load_reward,
    parse_rewards,
    resolve,
    reward_info,
)

INFO = RewardInfo(name="mean", variant="red", summary="mean red", low=0, high=255)


class MeanRed:
    info = INFO

    def __init__(self, *, device="cpu"):
        self.device = device


def unlabelled(*, device="cpu"):
    return MeanRed(device=device)


def mislabelled(*, device="cpu"):
    return SimpleNamespace(info=RewardInfo(name="other", variant="", summary="", low=0, high=1))


@pytest.fixture
def plug_in(monkeypatch):
    """Registers entry points: plug_in({key: (target, package)}, ...)."""

    def install(*points):
        made = [
            SimpleNamespace(name=name, value=value, dist=SimpleNamespace(name=package))
            for name, value, package in points
        ]
        monkeypatch.setattr(rewards, "entry_points", lambda *, group: made)
        monkeypatch.setitem(sys.modules, "their_rewards", sys.modules[__name__])

    return install


def test_importing_rewards_needs_no_torch():
    code = "import rewards, sys; rewards.available(); print({'torch', 'PIL'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert out.stdout.strip() == "set()"


def test_available_lists_built_in_and_installed_rewards():
    keys = available()
    assert keys == sorted(keys)
    assert {"jpeg", "jpeg@compressibility", "ocr@rapidocr", "ocr@rapidocr-x4"} <= set(keys)


def test_every_built_in_has_an_info_without_being_built():
    for key in rewards.BUILT_IN:
        assert reward_info(key).key == key


def test_bare_names(plug_in):
    plug_in(("mean@red", "their_rewards:MeanRed", "theirs"))
    assert resolve("ocr") == "ocr@rapidocr"  # the table of defaults
    assert resolve("mean") == "mean@red"  # the only variant
    assert resolve("jpeg") == "jpeg"  # a key of its own
    assert resolve("ocr@tesseract") == "ocr@tesseract"


def test_ambiguous_name_lists_its_variants(plug_in):
    plug_in(("mean@red", "m:Red", "theirs"), ("mean@blue", "m:Blue", "theirs"))
    with pytest.raises(ConfigError, match=r"'mean' has several variants; .*mean@blue, mean@red"):
        resolve("mean")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("orc", "ocr"),
        ("jpg", "jpeg"),
        ("ocr@rapidcr", "ocr@rapidocr"),
        ("ocr@tesserakt", "ocr@tesseract"),
    ],
)
def test_unknown_name_suggests_the_near_one_in_one_line(name, near):
    with pytest.raises(
        ConfigError, match=f"unknown reward '{name}'; did you mean '{near}'"
    ) as caught:
        load_reward(name)
    assert "`nftbench rewards` lists all" in str(caught.value) and len(str(caught.value)) < 150


def test_unknown_name_without_a_near_one():
    with pytest.raises(
        ConfigError, match=r"unknown reward 'zzzzzz'\. `nftbench rewards` lists all"
    ):
        load_reward("zzzzzz")


def test_entry_point_is_loaded_with_its_device(plug_in):
    plug_in(("mean@red", "their_rewards:MeanRed", "theirs"))
    assert "mean@red" in available()
    assert load_reward("mean", device="cuda:1").device == "cuda:1"
    assert reward_info("mean") is INFO


def test_info_of_a_factory_without_one_comes_from_the_reward(plug_in):
    plug_in(("mean@red", "their_rewards:unlabelled", "theirs"))
    assert reward_info("mean@red") is INFO


def test_reward_must_answer_to_its_key(plug_in):
    plug_in(("mean@red", "their_rewards:mislabelled", "theirs"))
    with pytest.raises(ConfigError, match="'mean@red' calls itself 'other'"):
        load_reward("mean@red")


def test_listing_imports_nothing_and_a_broken_package_is_named_on_use(plug_in):
    plug_in(("mean@red", "no_such_module:Red", "theirs"))
    assert "mean@red" in available()
    with pytest.raises(ConfigError, match=r"'mean@red' of package 'theirs'.*no_such_module"):
        load_reward("mean@red")


def test_missing_factory_is_named(plug_in):
    plug_in(("mean@red", "their_rewards:Nothing", "theirs"))
    with pytest.raises(ConfigError, match=r"'theirs'.*Nothing"):
        load_reward("mean@red")


@pytest.mark.parametrize(
    "other",
    [("mean@red", "a:Red", "first"), ("mean@red", "b:Red", "second"), ("jpeg", "b:J", "second")],
)
def test_clash_names_both(plug_in, other):
    plug_in(("mean@red", "c:Red", "third"), other)
    key, target, package = other
    with pytest.raises(
        ConfigError, match=f"'{key}' is claimed twice: .* and {target} of {package}"
    ):
        available()


def test_one_package_seen_twice_is_no_clash(plug_in):
    """A checkout that is also installed shows its entry points from both places."""
    plug_in(*[("mean@red", "their_rewards:MeanRed", "theirs")] * 2)
    assert available().count("mean@red") == 1


def test_malformed_entry_point_is_refused(plug_in):
    plug_in(("mean:red", "a:Red", "theirs"))
    with pytest.raises(ConfigError, match="package theirs names a reward 'mean:red'"):
        available()


def test_parse_rewards():
    assert parse_rewards("ocr, jpeg:0.5") == (
        RewardSpec(key="ocr@rapidocr", weight=1.0),
        RewardSpec(key="jpeg", weight=0.5),
    )
    assert parse_rewards("ocr@tesseract:0") == (RewardSpec(key="ocr@tesseract", weight=0.0),)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty item"),
        ("ocr,", "empty item"),
        (",ocr", "empty item"),
        (":1", "empty item"),
        ("ocr:", "finite number >= 0, got ''"),
        ("ocr:x", "finite number >= 0, got 'x'"),
        ("ocr:-1", "finite number >= 0, got '-1'"),
        ("ocr:nan", "finite number >= 0, got 'nan'"),
        ("ocr:inf", "finite number >= 0, got 'inf'"),
        ("ocr:1:2", "finite number >= 0, got '1:2'"),
        ("ocr,ocr", "'ocr@rapidocr' is named twice"),
        ("ocr:2,ocr@rapidocr", "'ocr@rapidocr' is named twice"),
        ("orc", "did you mean 'ocr'"),
    ],
)
def test_parse_rewards_refuses(text, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_rewards(text)
