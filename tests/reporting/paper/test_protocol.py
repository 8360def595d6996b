"""What a published number tells of its protocol must hold of ours; what it leaves open need not."""

import pytest

from nftbench.benchmark.registry import load_benchmark
from nftbench.reporting.paper.protocol import wanted
from tests.helpers.runs.made_tables import COLUMN, SUITE, printed, row


def faults(settings: str, row_changes=None, line=None, **drawn) -> tuple[str, ...]:
    protocol = load_benchmark("ocr").protocol(**SUITE.settings.given | drawn)
    found = wanted(SUITE, COLUMN, line or {}, printed("0.9", settings))
    return found.faults(protocol, row(COLUMN, 0.9, **row_changes or {}))


@pytest.mark.parametrize(
    ("settings", "drawn", "expected"),
    [
        ("", {}, ()),
        ("", {"guidance_scale": 4.5}, ("guidance_scale (4.5, 1.0)",)),
        ("guidance_scale=4.5", {}, ("guidance_scale (1.0, 4.5)",)),
        ("guidance_scale=4.50", {"guidance_scale": 4.5}, ()),
        ("guidance_scale=?", {"guidance_scale": 7.0}, ()),
        ("guidance_scale=? cfg=on", {"guidance_scale": 7.0}, ()),
        ("guidance_scale=? cfg=on", {}, ("cfg (off, on)",)),
        ("max_sequence_length=128", {}, ("max_sequence_length (none, 128)",)),
        ("max_sequence_length=?", {"max_sequence_length": 77}, ()),
        ("height=1024", {"width": 1024}, ("height (512, 1024)", "width (1024, 512)")),
        ("jpeg_quality=75", {}, ("jpeg_quality (none, 75)",)),
        ("aggregation=task_mean", {}, ("aggregate (image_mean, task_mean)",)),
        ("aggregation=?", {}, ()),
        ("guidance_scale=4.5 derived=guidance_scale", {}, ("guidance_scale (1.0, 4.5 derived)",)),
        ("solver=euler", {}, ("solver (not recorded, euler)",)),
        ("solver=euler", {"solver": "dpm2 Dpm2Scheduler:0a"}, ("solver (dpm2, euler)",)),
        ("solver=euler seed=none iterations=>5k", {"solver": "euler Euler:0b"}, ()),
        ("solver=?", {"solver": "dpm2 Dpm2Scheduler:0a"}, ()),
        ("", {"limit": 8}, ("limit (8, none)",)),
        ("", {"seed": 7}, ()),
    ],
)
def test_what_is_told_must_hold_and_what_is_open_need_not(settings, drawn, expected):
    assert faults(settings, **drawn) == expected


def test_another_variant_of_a_reward_is_another_protocol():
    assert faults("", {"variant": "rapidocr"}) == ("variant (rapidocr, pp2.9)",)


def test_a_lines_settings_replace_the_suites():
    assert faults("", line={"guidance_scale": 4.5}, guidance_scale=4.5) == ()
    assert faults("", line={"guidance_scale": 4.5}) == ("guidance_scale (1.0, 4.5)",)


def test_other_prompts_are_another_protocol():
    protocol = load_benchmark("ocr").protocol(**SUITE.settings.given)
    other = protocol.model_copy(update={"prompts_sha256": "f" * 64})
    (fault,) = wanted(SUITE, COLUMN, {}, None).faults(other)
    assert fault == f"prompts_sha256 (ffffffff, {protocol.prompts_sha256[:8]})"
