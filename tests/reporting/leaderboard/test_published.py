"""What is printed elsewhere stands in the leaderboards as it is printed: counts, single cells, marks."""

from collections import Counter

import pandas as pd
import pytest

from nftbench.reporting.leaderboard import board as leaderboard
from nftbench.reporting.leaderboard.board import (
    read,
)
from nftbench.runs.row_files import (
    COLUMNS,
    EMPTY,
    FIELDS,
    stated,
)
from nftbench.runs.rows import Row

COUNTS = {
    "drawbench": {
        "nft-table1": 54,  # nine rows of six
        "nft-table2": 36,
        "promptrl": 18,
        "flowgrpo": 7,
        "nft-table1-reused": 15,
        "nft-evaluation.py": 1,
        "flow_grpo#122": 2,
        "flow_grpo#39": 1,
    },
    "geneval": {
        "geneval-official": 42,
        "promptrl": 15,
        "promptrl-paraphrased": 3,
        "flow_grpo#17": 1,
    },
    "geneval-nft": {"nft-table1": 9, "nft-table2": 6, "flowgrpo": 14, "nft-table1-reused": 5},
    "hpdv2": {"hps": 110},
    "ocr": {"nft-table1": 9, "nft-table2": 6, "promptrl": 6, "nft-table1-reused": 6},
    "openlib": {"promptrl": 6},
    "tmdb": {"promptrl": 6},
}
NFT, FLOW, TEXT = "SD3.5-M + NFT (multi-reward)", "SD3.5-M + FlowGRPO (GenEval)", "SD3.5-M"
IMAGE, TASK = "image_mean", "task_mean"
SPOTS = [  # benchmark, protocol, model, metric, variant, aggregate, as printed, confidence
    ("geneval-nft", "nft-table1", "SD-XL", "geneval:correct", "nft", TASK, "0.55", "A"),
    ("geneval-nft", "nft-table1", "FLUX.1-dev", "geneval:correct", "nft", TASK, "0.66", "A"),
    ("geneval-nft", "nft-table1", "SD3.5-M w/o CFG", "geneval:correct", "nft", IMAGE, "0.24", "A"),
    ("geneval-nft", "nft-table1", "SD3.5-M + CFG", "geneval:correct", "nft", IMAGE, "0.63", "A"),
    ("geneval-nft", "nft-table1", FLOW, "geneval:correct", "nft", IMAGE, "0.95", "A"),
    ("geneval-nft", "nft-table1", NFT, "geneval:correct", "nft", IMAGE, "0.94", "A"),
    ("geneval-nft", "nft-table2", "NFT (GenEval)", "geneval:correct", "nft", IMAGE, "0.98", "A"),
    ("geneval-nft", "flowgrpo", TEXT, "geneval:correct", "flowgrpo", "task:position", "0.24", "B"),
    ("geneval-nft", "nft-table1-reused", "DGPO", "geneval:correct", "nft", IMAGE, "0.97", "C"),
    ("ocr", "nft-table1", "SD3.5-L", "ocr", "pp2.9", IMAGE, "0.68", "A"),
    ("ocr", "nft-table1", NFT, "ocr", "pp2.9", IMAGE, "0.91", "A"),
    ("ocr", "nft-table2", "NFT (OCR)", "ocr", "pp2.9", IMAGE, "0.97", "A"),
    ("ocr", "promptrl", "Qwen-Image", "ocr", "pp2.9", IMAGE, "0.65", "B"),
    ("ocr", "nft-table1-reused", "MARBLE", "ocr", "pp2.9", IMAGE, "0.96", "C"),
    ("drawbench", "nft-table1", "SD3.5-M w/o CFG", "imagereward", "", IMAGE, "-0.58", "A"),
    ("drawbench", "nft-table1", NFT, "pickscore", "", IMAGE, "23.80", "A"),
    ("drawbench", "nft-table1", NFT, "hpsv2", "nft", IMAGE, "0.331", "A"),
    ("drawbench", "nft-table1", NFT, "aesthetic", "", IMAGE, "6.01", "A"),
    ("drawbench", "nft-table1", "SD3.5-L", "clipscore", "nft", IMAGE, "0.289", "A"),
    ("drawbench", "nft-table1", "SD-XL", "unifiedreward", "nft", IMAGE, "2.93", "A"),
    ("drawbench", "nft-table2", "FlowGRPO (PickScore)", "aesthetic", "", IMAGE, "6.42", "A"),
    ("drawbench", "nft-table2", "NFT (OCR)", "clipscore", "nft", IMAGE, "0.281", "B"),
    ("drawbench", "nft-table2", "NFT (PickScore)", "unifiedreward", "nft", IMAGE, "3.40", "B"),
    ("drawbench", "nft-evaluation.py", NFT, "imagereward", "", IMAGE, "1.4934", "C"),
    ("drawbench", "promptrl", "NFT", "hpsv2", "nft", IMAGE, "0.3179", "B"),
    ("drawbench", "promptrl", "SDXL", "pickscore", "", IMAGE, "22.14", "B"),
    ("drawbench", "flowgrpo", TEXT, "deqa", "", IMAGE, "4.07", "B"),
    ("drawbench", "flowgrpo", TEXT, "unifiedreward", "nft", IMAGE, "3.33", "B"),
    ("drawbench", "flow_grpo#122", TEXT, "unifiedreward", "nft", IMAGE, "3.08", "C"),
    ("drawbench", "nft-table1-reused", "OPD", "hpsv2", "nft", IMAGE, "0.342", "C"),
    ("geneval", "geneval-official", "IF-XL", "geneval", "official", TASK, "0.61", "A"),
    (
        "geneval",
        "geneval-official",
        "SD v1.5",
        "geneval",
        "official",
        "task:color_attr",
        "0.06",
        "A",
    ),
    ("geneval", "flow_grpo#17", FLOW, "geneval", "official", IMAGE, "0.9408", "C"),
    ("geneval", "promptrl", "NFT", "geneval:correct", "promptrl", "task:counting", "0.74", "B"),
    ("geneval", "promptrl", "FlowGRPO", "geneval:correct", "promptrl", TASK, "0.92", "B"),
    ("geneval", "promptrl-paraphrased", "NFT", "geneval:correct", "promptrl", TASK, "0.77", "B"),
    ("tmdb", "promptrl", "FLUX.1-schnell", "ocr-words", "", IMAGE, "0.66", "B"),
    ("openlib", "promptrl", "Qwen-Image", "ocr-words", "", IMAGE, "0.94", "B"),
    ("hpdv2", "hps", "SDXL Refiner 0.9", "hpsv2", "2024", IMAGE, "0.3134", "A"),
    ("hpdv2", "hps", "SDXL Base 0.9", "hpsv2", "2024", "task:photo", "0.2748", "A"),
    ("hpdv2", "hps", "DALL·E 2", "hpsv2", "2024", "task:concept-art", "0.2451", "A"),
    ("hpdv2", "hps", "GLIDE", "hpsv2", "2024", "task:anime", "0.1390", "A"),
]
B_CELLS = {  # of Table 1; all others are A
    ("geneval-nft", "geneval:correct", "SD3.5-M + FlowGRPO (OCR)"),
    ("drawbench", "unifiedreward", "SD3.5-M + FlowGRPO (OCR)"),
    ("geneval-nft", "geneval:correct", "SD3.5-M + FlowGRPO (PickScore)"),
    ("ocr", "ocr", "SD3.5-M + FlowGRPO (PickScore)"),
    ("drawbench", "unifiedreward", "SD3.5-M + FlowGRPO (PickScore)"),
}


@pytest.fixture(scope="module")
def published():
    """Every published line of the project's leaderboards."""
    entries = [e for p in sorted(leaderboard.folder().glob("*.csv")) for e in read(p)]
    return [e for e in entries if e.row.source == "published"]


def test_every_cell_is_there_once(published):
    found: dict[str, Counter] = {}
    for e in published:
        found.setdefault(e.row.benchmark, Counter())[e.row.protocol] += 1
    assert found == COUNTS


@pytest.mark.parametrize("spot", SPOTS, ids=lambda s: " ".join(s[:6]))
def test_a_cell_is_as_it_is_printed(published, spot):
    benchmark, protocol, model, metric, variant, aggregate, value, confidence = spot
    (found,) = [
        e
        for e in published
        if (e.row.benchmark, e.row.protocol, e.row.model) == (benchmark, protocol, model)
        and (e.row.metric, e.row.variant, e.row.aggregate) == (metric, variant, aggregate)
    ]
    assert (found.value, found.row.confidence) == (value, confidence)
    assert found.row.value == float(value)


def test_the_unsure_cells_of_the_first_table_are_marked(published):
    rows = [e.row for e in published if e.row.protocol == "nft-table1"]
    unsure = {(r.benchmark, r.metric, r.model) for r in rows if r.confidence == "B"}
    assert unsure == B_CELLS and {r.confidence for r in rows} == {"A", "B"}


def test_the_second_table_is_sure_of_five_columns(published):
    marks = {(e.row.metric, e.row.confidence) for e in published if e.row.protocol == "nft-table2"}
    assert {metric for metric, mark in marks if mark == "B"} == {
        "clipscore",
        "imagereward",
        "unifiedreward",
    }
    assert len(marks) == 8


def test_what_nobody_told_is_unknown(published):
    for e in published:
        assert (e.row.n, e.row.n_failed, e.row.n_prompts) == (None, None, None)
        assert all(e.cells[COLUMNS.index(name)] == "" for name in EMPTY)
        assert e.row.citation and e.row.confidence and not e.row.limited


def test_guidance_is_that_of_the_row(published):
    said = {
        (e.row.protocol, e.row.model, e.row.benchmark): stated(e.row.settings) for e in published
    }
    guidance = {key: settings["guidance_scale"] for key, settings in said.items()}
    assert guidance["nft-table1", "SD3.5-M w/o CFG", "ocr"] == "1.0"
    assert guidance["nft-table1", "SD3.5-M + CFG", "ocr"] == "4.5"
    assert guidance["nft-table1", "SD-XL", "ocr"] == "?"
    assert guidance["nft-table2", "NFT (OCR)", "ocr"] == "1.0"
    assert guidance["nft-table2", "NFT (OCR)", "drawbench"] == "?"
    assert said["nft-table2", "NFT (OCR)", "drawbench"]["cfg"] == "on"
    assert said["nft-table1", "SD-XL", "ocr"]["height"] == "1024"
    assert said["promptrl", "NFT", "ocr"]["num_inference_steps"] == "20"


def test_rows_on_another_definition_say_so(published):
    said = {
        e.row.model: (e.row.aggregate, stated(e.row.settings)["aggregation"])
        for e in published
        if (e.row.benchmark, e.row.protocol) == ("geneval-nft", "nft-table1")
    }
    copied = {"SD-XL", "SD3.5-L", "FLUX.1-dev"}
    assert {m for m, s in said.items() if s == (TASK, TASK)} == copied
    assert {m for m, s in said.items() if s == (IMAGE, IMAGE)} == {"SD3.5-M + CFG"}
    assert all(s == (IMAGE, "?") for m, s in said.items() if m not in {*copied, "SD3.5-M + CFG"})


def test_official_means_are_those_of_the_tasks(published):
    """The README rounds: six rounded tasks give their rounded mean within a hundredth."""
    table = pd.DataFrame(
        [e.row.model_dump() for e in published if e.row.protocol == "geneval-official"]
    )
    tasks = table[table["aggregate"] != TASK].groupby("model")["value"].mean()
    whole = table[table["aggregate"] == TASK].set_index("model")["value"]
    assert len(whole) == 6 and (tasks - whole).abs().max() < 0.0101


def test_hps_averages_are_those_of_the_styles(published):
    rows = pd.DataFrame([e.row.model_dump() for e in published if e.row.protocol == "hps"])
    styles = rows[rows["aggregate"] != IMAGE].groupby("model")["value"].mean()
    whole = rows[rows["aggregate"] == IMAGE].set_index("model")["value"]
    assert len(whole) == 22 and (styles - whole).abs().max() < 0.00011


@pytest.mark.parametrize("path", sorted(leaderboard.folder().glob("*.csv")), ids=lambda p: p.stem)
def test_pandas_and_the_model_read_every_leaderboard(path):
    table = pd.read_csv(path)
    assert list(table.columns) == COLUMNS and len(table) == len(read(path))
    assert table["value"].dtype == float and set(table["benchmark"]) == {path.stem}
    text = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    rows = [
        Row.model_validate({k: r[k] if r[k] else EMPTY.get(k, r[k]) for k in FIELDS}) for r in text
    ]
    assert [r.value for r in rows] == [e.row.value for e in read(path)]
