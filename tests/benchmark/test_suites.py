"""Suites: what they ask, how a cell's own settings stay, and a run that holds a benchmark under two protocols."""

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

import rewards
from nftbench import resources
from nftbench.benchmark.places import shipped as folder
from nftbench.benchmark.registry import (
    load_benchmark,
    load_suite,
    names,
    protocols_of,
    suite_names,
)
from nftbench.benchmark.suites import Column, Suite
from nftbench.commands import evaluate_checkpoint, score_run
from nftbench.evaluation.planning import folder_names, plan
from nftbench.generation.checkpoint import own_settings
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError
from tests.helpers.commands import run_here

TABLE_1 = ["GenEval", "OCR", "PickScore", "ClipScore", "HPSv2.1", "Aesthetic", "ImgRwd", "UniRwd"]
TWO = """
name = "two"
title = "One benchmark with and without guidance"
benchmarks = ["geneval-pocket", "ocr-pocket"]

[settings]
num_inference_steps = 1
height = 64
width = 64

[[columns]]
name = "kB"
benchmark = "geneval-pocket"
metric = "jpeg"

[[columns]]
name = "compressibility"
benchmark = "geneval-pocket"
metric = "jpeg"
variant = "compressibility"

[[columns]]
name = "kB, guided"
benchmark = "geneval-pocket"
metric = "jpeg"
settings = { guidance_scale = 3.0 }

[[columns]]
name = "signs"
benchmark = "ocr-pocket"
metric = "jpeg"
"""
KEY = "0000-00"


def quietly(stage: str, done: int, total: int) -> None:
    """A report nobody reads."""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A copy of the benchmarks' folder with the suite `two`."""
    shelf = tmp_path / "shelf" / "data" / "benchmarks"
    shutil.copytree(folder(), shelf, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    (shelf / "suites" / "two.toml").write_text(TWO)
    monkeypatch.setattr(resources, "HERE", tmp_path / "shelf")
    return shelf


# --- what is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_can_be_asked(name):
    suite = load_suite(name)
    assert suite.name == name and set(suite.benchmarks) <= set(names())
    known = set(rewards.available())
    for protocol, keys in protocols_of(suite).items():
        assert protocol.benchmark in suite.benchmarks
        assert {rewards.resolve(key) for key in keys} <= known
    assert {p.benchmark for p in protocols_of(suite)} == set(suite.benchmarks)


def test_the_suites_there_are():
    assert suite_names() == [
        "geneval-official",
        "heldout",
        "pocket",
        "pocket-table1",
        "promptrl",
        "table1",
        "table2",
    ]


def test_table_1_is_drawn_once_a_prompt_set():
    """Eight columns, three sets of images: 2,212 + 1,018 + 1,000."""
    suite = load_suite("table1")
    assert [c.name for c in suite.columns] == TABLE_1 and suite.published == "nft-table1"
    protocols = protocols_of(suite)
    drawn = [load_benchmark(p.benchmark).count * p.images_per_prompt for p in protocols]
    assert drawn == [2212, 1018, 1000]
    assert [len(keys) for keys in protocols.values()] == [1, 1, 6]
    assert {(p.height, p.width, p.num_inference_steps, p.guidance_scale) for p in protocols} == {
        (512, 512, 40, 1.0)
    }
    assert [c.name for c in suite.columns if c.held_out] == TABLE_1[5:]


@pytest.mark.parametrize(("flag", "ocr", "others"), [(None, 1.0, 1.0), (4.5, 1.0, 4.5)])
def test_table_2s_ocr_cell_stays_without_guidance(flag, ocr, others):
    found = {
        p.benchmark: p.guidance_scale
        for p in protocols_of(load_suite("table2"), guidance_scale=flag)
    }
    assert found == {"geneval-nft": others, "ocr": ocr, "drawbench": others}


@pytest.mark.parametrize(
    ("kind", "cell"), [("off", "guidance_scale = 3.0"), ("cfg", 'guidance = "off"')]
)
def test_a_cells_own_guidance_stays_whatever_the_suite_has(tmp_path, kind, cell):
    """Kind and scale go together: a scale beside the suite's `off` would draw without guidance, under that scale."""
    scale = "\nguidance_scale = 2.0" if kind == "cfg" else ""
    text = f'benchmarks = ["geneval-pocket"]\n[settings]\nheight = 64\nwidth = 64\nguidance = "{kind}"{scale}\n'
    for name, own in (("plain", ""), ("own", f"settings = {{ {cell} }}\n")):
        text += (
            f'[[columns]]\nname = "{name}"\nbenchmark = "geneval-pocket"\nmetric = "jpeg"\n{own}'
        )
    (tmp_path / "mine.toml").write_text(text)
    asked = ("--limit", "1", "--steps", "1", "--images-per-prompt", "1", "--out", "run")
    code, said = run_here(tmp_path, "eval", "pocket", "--suite", "mine.toml", *asked)
    assert code == 0, said
    drawn = [p.guidance_scale for p in Run(tmp_path / "run").protocols().values()]
    assert drawn == ([1.0, 3.0] if kind == "off" else [2.0, 1.0])


def test_cells_that_ask_for_one_drawing_in_other_words_share_its_images(tmp_path):
    """Each keeps its column; a second row of one metric would make the run unreadable."""
    text = 'benchmarks = ["geneval-pocket"]\n[settings]\nheight = 64\nwidth = 64\n'
    cells = (("", 'guidance = "off"'), ("compressibility", "guidance_scale = 1.0"))
    for variant, asked in cells:
        text += f'[[columns]]\nname = "c{variant}"\nbenchmark = "geneval-pocket"\nmetric = "jpeg"\n'
        text += f'variant = "{variant}"\nsettings = {{ {asked} }}\n'
    (tmp_path / "mine.toml").write_text(text)
    few = ("--limit", "1", "--steps", "1", "--images-per-prompt", "1", "--out", "run")
    code, said = run_here(tmp_path, "eval", "pocket", "--suite", "mine.toml", *few)
    assert code == 0 and len(Run(tmp_path / "run").protocols()) == 1, said
    rows = pd.read_csv(tmp_path / "run" / "rows.csv")
    assert rows["variant"].fillna("").tolist() == ["", "compressibility"]
    for command in (("score", "run"), ("table", "mine.toml", "run")):
        code, said = run_here(tmp_path, *command)
        assert code == 0, said


def test_the_pocket_table_has_the_papers_rows():
    suite = load_suite("pocket-table1")
    assert [c.name for c in suite.columns] == TABLE_1[:4]
    assert [(r.label, r.checkpoint, r.settings.given) for r in suite.rows] == [
        ("pocket w/o CFG", "pocket", {}),
        ("+ CFG", "pocket", {"guidance_scale": 4.5}),
        ("+ FlowGRPO (GenEval)", "pocket-flowgrpo", {}),
        ("+ FlowGRPO (OCR)", "pocket-flowgrpo-ocr", {}),
        ("+ NFT (GenEval)", "pocket-nft", {}),
        ("+ NFT (GenEval), guided rollouts", "pocket-nft-guided", {}),
        ("+ NFT (GenEval), iterated", "pocket-nft-iterated", {}),
        ("+ NFT (OCR)", "pocket-nft-ocr", {}),
        ("+ NFT (multi-reward)", "pocket-nft-multireward", {}),
        ("+ NFT (multi-reward), all captions", "pocket-nft-attributes", {}),
        ("+ NFT (multi-reward), then pairs", "pocket-nft-pairs", {}),
        ("+ NFT (multi-reward), spelling added", "pocket-nft-both", {}),
    ]


def test_the_pocket_table_is_the_pocket_suites_protocol():
    """Published rows of the pocket suite are cells of the table."""
    own = own_settings("pocket")
    table, suite = (
        [p.filled(own) for p in protocols_of(load_suite(n))] for n in ("pocket-table1", "pocket")
    )
    assert table == suite


def test_a_benchmark_alone_is_asked_as_it_is():
    (one,) = protocols_of(load_suite("ocr-pocket"), seed=3).items()
    assert one == (
        load_benchmark("ocr-pocket").protocol(seed=3),
        load_benchmark("ocr-pocket").rewards,
    )


# --- the schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "variant", "key"),
    [
        ("geneval", "nft", "geneval@nft"),
        ("geneval:correct", "nft", "geneval@nft"),
        ("pickscore", "", "pickscore"),
    ],
)
def test_a_columns_reward(metric, variant, key):
    column = Column(name="x", benchmark="ocr", metric=metric, variant=variant)
    assert column.reward == key and column.aggregate == "image_mean"


def test_a_column_of_a_benchmark_that_is_not_run_is_refused():
    column = Column(name="x", benchmark="ocr", metric="jpeg")
    with pytest.raises(ValueError, match="columns name ocr, which is none of the benchmarks"):
        Suite(name="s", title="s", benchmarks=("tmdb",), columns=(column,))


def test_settings_out_of_range_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"^guidance_scale: "):
        protocols_of(load_suite("table1"), guidance_scale=-1.0)


def test_a_cells_setting_wins_over_the_flag_and_the_flag_over_the_suite(shelf):
    protocols = protocols_of(load_suite("two"), guidance_scale=2.0, num_inference_steps=None)
    assert [
        (p.benchmark, p.guidance_scale, p.num_inference_steps, k) for p, k in protocols.items()
    ] == [
        ("geneval-pocket", 2.0, 1, ("jpeg", "jpeg@compressibility")),
        ("geneval-pocket", 3.0, 1, ("jpeg",)),
        ("ocr-pocket", 2.0, 1, ("jpeg",)),
    ]


def test_cells_that_a_flag_makes_equal_are_drawn_once(shelf):
    protocols = protocols_of(load_suite("two"), guidance_scale=3.0)
    assert list(protocols.values()) == [("jpeg", "jpeg@compressibility"), ("jpeg",)]


def test_folders_hold_the_hash_only_where_they_must():
    one, two = (load_benchmark("geneval-pocket").protocol(seed=s) for s in (0, 1))
    signs = load_benchmark("ocr-pocket").protocol()
    assert folder_names([one, signs]) == ["geneval-pocket", "ocr-pocket"]
    assert folder_names([one, signs, two]) == [
        f"geneval-pocket+{one.hash}",
        "ocr-pocket",
        f"geneval-pocket+{two.hash}",
    ]


def test_a_reward_that_cannot_judge_what_it_is_wanted_for_is_refused():
    judge = rewards.load_reward("ocr@rapidocr")
    protocol = load_benchmark("geneval-pocket").protocol(limit=2)
    with pytest.raises(ConfigError, match="cannot be scored by ocr@rapidocr"):
        plan([protocol], {"ocr@rapidocr": judge}, 4, [["ocr@rapidocr"]])


# --- a run under two protocols --------------------------------------------------------------------


def evaluated(folder: Path, **settings):
    settings = {"limit": 2} | settings
    return evaluate_checkpoint(
        "pocket", "two", settings, rewards=None, batch_size=8, out=folder, progress=quietly
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_run_holds_a_benchmark_under_two_protocols(shelf, tmp_path):
    run, rows = evaluated(tmp_path / "run")
    protocols = list(protocols_of(load_suite("two"), limit=2))
    plain, guided, signs = found = list(run.protocols().values())
    for was, drawn in zip(
        protocols, found, strict=True
    ):  # what was asked is drawn, the rest is filled in
        fixed = was.model_dump(exclude_none=True).items() - {("guidance", "native")}
        assert fixed <= drawn.model_dump().items()
    assert list(run.protocols()) == folder_names([plain, guided, signs])
    assert [(r.benchmark, r.protocol, r.metric, r.variant) for r in rows] == [
        ("geneval-pocket", plain.hash, "jpeg", ""),
        ("geneval-pocket", plain.hash, "jpeg", "compressibility"),
        ("geneval-pocket", guided.hash, "jpeg", ""),
        ("ocr-pocket", signs.hash, "jpeg", ""),
    ]
    assert rows[1].value == pytest.approx(-rows[0].value / 500, rel=1e-6)
    images = sorted(p.parts[-3] for p in run.folder.rglob("*.png") if p.parent.name == "images")
    assert [images.count(n) for n in run.protocols()] == [8, 8, 4]
    again_after_a_loss(run)


def again_after_a_loss(run: Run) -> None:
    """A deleted image is said by `score` and made again by `eval`, in its own protocol's folder."""
    before = files(run.folder)
    name = list(run.protocols())[1]
    (run.folder / name / "images" / f"{KEY}.png").unlink()
    shutil.rmtree(run.folder / name / "scores")
    rows = score_run(run.folder, None, quietly)
    assert [(r.n, r.n_failed) for r in rows] == [(8, 0), (8, 0), (7, 1), (4, 0)]
    reason = pd.read_parquet(run.samples_path(name)).set_index("key").loc[KEY, "jpeg:reason"]
    assert reason.startswith("unreadable image")
    evaluated(run.folder)
    assert files(run.folder) == before
    with pytest.raises(ConfigError, match="holds a run of"):
        evaluated(run.folder, guidance_scale=3.0)


@pytest.mark.slow
def test_rows_of_prompts_that_nobody_pinned_are_not_publishable(shelf, tmp_path):
    """Signs that come from somewhere without a digest."""
    path = shelf / "ocr-pocket.toml"
    sha256 = load_benchmark("ocr-pocket").prompts.sha256
    loose = path.read_text().replace(f'"{sha256}"', '""\nurl = "https://example.org/x"')
    path.write_text(loose.replace("count = 72", "count = 3"))
    here = tmp_path / "data" / "ocr-pocket.txt"
    here.parent.mkdir()
    here.write_text("".join(f'a sign that says "{word}"\n' for word in ("KITE", "BOAT", "LAMP")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NFTBENCH_DATA", str(here.parent))
        _, rows = evaluate_checkpoint(
            "pocket",
            "ocr-pocket",
            {"num_inference_steps": 1, "limit": None},
            rewards="jpeg",
            batch_size=6,
            out=tmp_path / "run",
            progress=quietly,
        )
    assert [(r.n, r.limited) for r in rows] == [(6, True)] and math.isfinite(rows[0].stderr)


def test_all_that_a_suite_lacks_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("NFTBENCH_DATA", raising=False)
    with pytest.raises(ConfigError) as caught:
        evaluate_checkpoint(
            "pocket", "table1", {}, rewards=None, batch_size=8, out=tmp_path / "r", progress=quietly
        )
    said = str(caught.value)
    lacking = (
        "prompts ocr/test.txt",
        "prompts drawbench/test.txt",
        "weights PickScore_v1/",
        "reward unified",
    )
    assert all(thing in said for thing in lacking) and "\n" not in said
    assert said.startswith("table1 needs 13 things") and "nftbench pull table1" in said
    assert not (tmp_path / "r").exists()
