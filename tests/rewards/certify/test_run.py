"""Certificates: what the command writes, what a difference does to it, and that the committed ones still hold."""

import json
import math
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from nftbench.certify.algorithms import ALGORITHMS
from rewards import available, load_reward, reward_info
from rewards.base import ConfigError, Prompt
from rewards.certify import Check, run, verdicts
from rewards.certify.code import reached
from tests.helpers.paths import GOLDEN

pytestmark = pytest.mark.slow

COMMITTED = sorted((Path(str(files("rewards.certify"))) / "certificates").glob("*.json"))
FIELDS = [
    "reward",
    "verdict",
    "needs",
    "full",
    "references",
    "checks",
    "versions",
    "date",
    "code",
    "golden",
]


def check(error: float, **more) -> Check:
    return Check(
        name="a",
        reference=more.pop("reference", "o/r@abc1234 f.py"),
        cases=1,
        max_error=error,
        mean_error=error,
        tolerance=0.5,
        **more,
    )


def copied(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(GOLDEN / name, folder / name)
    return folder


def doctored(folder: Path) -> Path:
    """Golden numbers with all JPEGs a kB larger."""
    copied(folder, "extras.json", "preprocessing.npz")
    golden = json.loads((folder / "extras.json").read_text("utf-8"))
    for sizes in golden["jpeg"].values():
        sizes["incompressibility_kB"] += 1
    (folder / "extras.json").write_text(json.dumps(golden), "utf-8")
    return folder


# --- certificates ---------------------------------------------------------------------------------


def test_references_are_named_once_with_their_versions():
    names = (
        "b/r@v2.28.2 apis/x.py `f`",
        "a/r@24af555 f.py",
        "a/r@24af555 g.py",
        "hpsv2x 1.2.0, torchvision 0.21",
    )
    found = run.references([check(0, reference=name) for name in names])
    assert [(each["name"], each["version"]) for each in found] == [
        ("a/r", "24af555"),
        ("b/r", "2.28.2"),
        ("hpsv2x", "1.2.0"),
    ]


def test_every_reference_of_the_checks_has_a_version():
    for path in COMMITTED:
        for row in json.loads(path.read_bytes())["checks"]:
            assert run.references([check(0, reference=row["reference"])]), row["reference"]


def test_a_difference_that_is_no_number_fails_and_is_null():
    made = run.Certificate(
        reward="a",
        verdict="differs",
        needs="",
        full=True,
        checks=(check(0.5), check(math.nan)),
        versions={},
        date="",
    )
    assert not made.passed
    first, second = json.loads(made.encode())["checks"]
    assert first["passed"] and first["max_error"] == 0.5
    assert not second["passed"] and second["max_error"] is None


def test_full_size_checks_come_last_and_none_is_lost():
    from rewards.certify import clip, geneval, imagereward

    cheap, full = run.tables()["geneval@official"]
    every = [m.CHECKS["geneval@official"] for m in (clip, geneval)]
    assert {*cheap, *full} == {one for checks in every for one in checks}
    assert {check.func for check in full} == {clip.colours_network, geneval.full}
    assert not set(full) & set(cheap)
    assert run.tables()["imagereward"] == (
        (imagereward.pixels, imagereward.tokens),
        (imagereward.rewards,),
    )


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "verdict", "needs"),
    [
        ("jpeg", "equal", ""),
        ("jpeg@compressibility", "equal", ""),
        ("ocr@rapidocr", "partly: rules only", "real_ocr@rapidocr.json"),
        ("unifiedreward@nft", "partly: needs a judge", "--golden DIR"),
        ("geneval@mmdet", "partly: rules only", "nftbench rewards pull geneval@mmdet; "),
        ("clipscore@nft", "partly: needs --full", "run: nftbench certify clipscore@nft --full"),
        ("imagereward", "partly: needs --full", "run: nftbench certify imagereward --full"),
    ],
)
def test_cheap_checks_prove_what_they_can(key, verdict, needs):
    (made,) = run.certify([key], GOLDEN)
    assert made.passed and made.checks
    assert made.verdict == verdict and needs in made.needs


def test_what_was_compared_at_full_size_lacks_only_weights():
    verdict, needs = run._verdict(reward_info("pickscore"), deep=True, real=False)
    assert verdict == "partly: needs weights"
    assert needs.startswith("nftbench rewards pull pickscore; nftbench certify pickscore --full")
    assert run._verdict(reward_info("pickscore"), deep=True, real=True) == ("equal", "")


def test_a_doctored_number_differs(tmp_path):
    (made,) = run.certify(["jpeg"], doctored(tmp_path / "golden"))
    assert made.verdict == "differs" and not made.passed
    assert made.checks[0].max_error == pytest.approx(1, abs=1e-3)
    assert [c.passed for c in made.checks] == [False]


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, "equal"), (0.1, "differs")])
def test_values_of_the_reference_make_it_whole(tmp_path, moved, verdict):
    """The reward is loaded as users load it, and compared on the golden pictures."""
    folder = copied(tmp_path / "golden", "preprocessing.npz", "ocr_metric.json")
    picture = np.load(folder / "preprocessing.npz")["image/sq64"]
    prompt = {"text": 'a "word"'}
    score = load_reward("ocr@rapidocr").score(picture[None], [Prompt(id="", **prompt)]).values[0]
    case = {"image": "sq64", "prompt": prompt, "score": float(score) + moved}
    golden = {"reference": "o/r@abc1234", "tolerance": 1e-6, "cases": [case]}
    (folder / "real_ocr@rapidocr.json").write_text(json.dumps(golden), "utf-8")
    (made,) = run.certify(["ocr@rapidocr"], folder)
    assert made.verdict == verdict
    assert made.checks[-1].name == "values under the published weights"
    assert made.checks[-1].max_error == pytest.approx(moved, abs=1e-6)


def test_what_is_missing_is_named_and_the_rest_goes_on(tmp_path):
    with pytest.raises(ConfigError, match=r"'clipscore@pocket' has no check; these have: .*jpeg"):
        list(run.certify(["jpeg", "clipscore@pocket"], GOLDEN))
    with pytest.raises(ConfigError, match="not a folder"):
        list(run.certify(["jpeg"], tmp_path / "none"))
    some = copied(tmp_path / "some", "extras.json", "preprocessing.npz")
    ocr, jpeg = run.certify(["ocr@rapidocr", "jpeg"], some)
    assert ocr.needs == f"ocr_metric.json is not in {some}" and not ocr.full
    assert ocr.verdict == "partly: not all could be compared" and ocr.checks  # of the engine
    assert jpeg.verdict == "equal"
    (some / "ocr_metric.json").write_text("{", "utf-8")
    assert "cannot be read" in next(iter(run.certify(["ocr@rapidocr"], some))).needs
    (some / "ocr_metric.json").write_text("{}", "utf-8")
    assert "hold no 'cases'" in next(iter(run.certify(["ocr@rapidocr"], some))).needs
    (some / "extras.json").write_text("{}", "utf-8")
    (nothing,) = run.certify(["jpeg"], some)
    assert nothing.verdict == "not compared" and not nothing.passed


# --- what a certificate speaks of -----------------------------------------------------------------


def test_a_certificate_is_stale_when_code_or_golden_files_change(tmp_path, monkeypatch):
    golden = copied(tmp_path / "golden", "extras.json", "preprocessing.npz")
    (made,) = run.certify(["jpeg"], golden)
    assert set(made.golden) == {"extras.json", "preprocessing.npz"}
    (tmp_path / "jpeg.json").write_bytes(made.encode())
    assert verdicts.standing("jpeg", tmp_path, golden) == "equal"
    (golden / "extras.json").write_bytes((golden / "extras.json").read_bytes() + b" ")
    assert (
        verdicts.standing("jpeg", tmp_path, golden) == "stale (golden files changed since): equal"
    )
    monkeypatch.setattr(verdicts, "code_digest", lambda key: "other")
    assert verdicts.standing("jpeg", tmp_path) == "stale (code changed since): equal"


def test_the_code_of_a_reward_is_all_that_it_imports():
    one, other = (verdicts.code_digest(key) for key in ("clipscore@nft", "clipscore@openai"))
    assert one == other != verdicts.code_digest("hpsv2@nft")
    assert {"rewards.clip.towers", "rewards.images.preprocess"} <= reached("rewards.clip.clipscore")
    assert "nftbench.pocket.world.scenes" in reached("nftbench.pocket.rewards")
    assert not any(name.startswith("rewards.certify") for name in reached("rewards.images.jpeg"))


def test_a_cheap_certificate_takes_no_fuller_one_s_place():
    (cheap,) = run.certify(["jpeg"], GOLDEN)
    row = {"name": "a", "cases": 1}
    partly = replace(cheap, full=False)
    assert not run.fuller({}, partly) and not run.fuller({"full": True, "checks": [row]}, cheap)
    assert run.fuller({"full": True, "checks": [row]}, partly)
    assert run.fuller({"full": False, "checks": [row] * 99}, partly)
    assert not run.fuller({"full": False, "checks": [row]}, partly)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_and_shows(start, tmp_path):
    code, out, err = start("certify", "jpeg", "ocr", "--golden", str(GOLDEN), "--out", "c").finish()
    assert (code, err) == (0, "")
    assert "jpeg: equal\n" in out and "ocr@rapidocr: partly: rules only (" in out
    written = json.loads((tmp_path / "c" / "jpeg.json").read_bytes())
    assert list(written) == FIELDS and written["verdict"] == "equal"
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"jpeg.json", "ocr@rapidocr.json"}


def test_the_command_fails_where_a_reward_differs(start, tmp_path):
    folder = doctored(tmp_path / "golden")
    code, out, _ = start("certify", "jpeg", "--golden", str(folder), "--out", "c").finish()
    assert code == 1 and "jpeg: differs" in out and "DIFFERS" in out
    assert json.loads((tmp_path / "c" / "jpeg.json").read_bytes())["verdict"] == "differs"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "unknown reward 'nothing'"),
        ([], "name rewards to certify, or --all"),
        (["jpeg", "--all"], "not both"),
        (["jpeg", "--golden", "nowhere"], "there is no nowhere; expected"),
    ],
)
def test_the_command_refuses_in_one_line(start, arguments, said):
    code, out, err = start("certify", *arguments, "--out", "c").finish()
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


# --- those committed ------------------------------------------------------------------------------


def test_every_reward_with_checks_has_a_certificate():
    names = {path.stem for path in COMMITTED}
    assert names == run.tables().keys() | ALGORITHMS.keys()
    assert names - ALGORITHMS.keys() <= set(available())


REWARDS = [path for path in COMMITTED if path.stem not in ALGORITHMS]


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_a_committed_certificate_is_whole(path):
    made = json.loads(path.read_bytes())
    cheap, full = run.tables()[path.stem]
    assert list(made) in (FIELDS, FIELDS[:-2]) and made["reward"] == path.stem
    if "code" not in made:  # of before certificates named it: said wherever it is shown
        assert verdicts.standing(path.stem).startswith("stale (code changed since): ")
        return
    assert made["full"] and len(made["checks"]) >= len(cheap) + len(full)
    assert made["verdict"] == "equal" or made["verdict"].startswith("partly: ")
    assert bool(made["needs"]) == (made["verdict"] != "equal")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"])
    assert made["versions"].keys() == {"python", *run.LIBRARIES} and all(made["versions"].values())
    for row in made["checks"]:
        again = Check(**{name: value for name, value in row.items() if name != "passed"})
        assert row["passed"] and again.passed and row["cases"] > 0
    named = {(each["name"], each["version"]) for each in made["references"]}
    assert named and all(name and version for name, version in named)
