"""Families by the commands: a few in the ordinary suite, all of them with `-m families` (see `make families`)."""

import json

import numpy as np
import pytest
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING as KNOWN

from tests.families.survey import PLAIN, SHORT, TRAINING, _drawn, survey
from tests.families.table import TABLE, findings_of
from tests.helpers.commands import run_here
from tests.helpers.models import families

SOME = ("pixart",)
"""No `save_lora_weights`, so peft's layout; draws at another size unless told."""


def check(family: str, folder) -> None:
    found = survey(family, folder)
    assert not found.tracebacks
    if found.evaluated != "works":
        assert found.evaluated.startswith("exit 2: ")
        return
    assert found.recorded.partition(",")[2] == found.counted.partition(",")[2]  # calls a step
    assert found.recorded.split(maxsplit=1)[0].strip(",") == found.counted.partition(",")[0]
    assert found.prompt_seen == "yes" and "BUT" not in found.size
    if found.trained == "LoRA":
        assert found.loaded_back.endswith("same pixels")
    else:
        assert found.trained.startswith("exit 2: ")


@pytest.mark.slow
@pytest.mark.parametrize("family", SOME)
def test_some_families(family, tmp_path):
    check(family, tmp_path)


@pytest.mark.families
@pytest.mark.parametrize("family", [f for f in families.BUILDERS if f not in SOME])
def test_every_other_family(family, tmp_path):
    check(family, tmp_path)


@pytest.mark.slow
def test_training_goes_on_from_a_trained_lora_and_its_result_evaluates(tmp_path):
    families.build("pixart").save_pretrained(tmp_path / "base")
    settings = [part for s in TRAINING for part in ("--set", s)]
    settings += ["--set", "rollout.height=64", "--set", "rollout.width=64"]
    images = {}
    for start, out in (("base", "one"), ("one", "two"), ("base+lora=one/lora", "three")):
        code, said = run_here(tmp_path, "train", start, *settings, "--out", out)
        assert code == 0, said
        drawn = ("--size", "64", "--guidance", "off", "--out", f"eval-{out}")
        code, said = run_here(tmp_path, "eval", out, *PLAIN, *SHORT, *drawn)
        assert code == 0, said
        images[out] = _drawn(tmp_path / f"eval-{out}")[0]
    assert not np.array_equal(images["one"], images["two"])
    note = json.loads((tmp_path / "two" / "policy.json").read_text("utf-8"))
    assert note["base"] == "../one"


def test_the_published_table_is_of_these_families_and_has_no_traceback():
    rows = findings_of(TABLE.read_text("utf-8"))
    assert set(rows) <= set(families.BUILDERS)
    assert not [name for name, row in rows.items() if "TRACEBACK" in row or "OFF BY" in row]


def test_every_text_to_image_class_of_diffusers_is_there_or_has_its_reason():
    built = {row.split(" | ")[1] for row in findings_of(TABLE.read_text("utf-8")).values()}
    missing = {kind.__name__ for kind in KNOWN.values()} - built - set(families.UNBUILT)
    assert not missing
