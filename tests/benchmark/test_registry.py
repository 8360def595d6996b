"""Benchmarks as shipped, the protocol's hash, and what a TOML or a flag may not say."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench import resources
from nftbench.benchmark.places import shipped as folder
from nftbench.benchmark.registry import choose, load_benchmark, load_suite, names
from nftbench.benchmark.schema import PROTOCOL_1, Protocol
from nftbench.pocket.world.scenes import held_out
from rewards import resolve
from rewards.base import ConfigError, Prompt
from tests.helpers import pocket_prompts
from tests.helpers.paths import ROOT

BASE = Protocol(
    benchmark="geneval-pocket",
    version=1,
    prompts_sha256="0" * 64,
    images_per_prompt=4,
    height=64,
    width=64,
    num_inference_steps=20,
    guidance_scale=1.0,
    max_sequence_length=0,
    aggregation="task_mean",
)
"""Of version 1, as a manifest of before has it."""
BASE_HASH = "a6e820f8c095"
"""Pinned: a change of this number makes every published row incomparable."""
SEEN = BASE.model_copy(
    update={"protocol_version": 2, "guidance": "off", "network_calls": 1.0, "negative_prompt": ""}
)
OTHER = {
    "benchmark": "ocr-pocket",
    "version": 2,
    "prompts_sha256": "1" * 64,
    "limit": 4,
    "images_per_prompt": 2,
    "height": 128,
    "width": 128,
    "num_inference_steps": 19,
    "guidance_scale": 1.5,
    "max_sequence_length": None,
    "protocol_version": 1,
    "guidance": "embedded",
    "network_calls": 2.0,
    "negative_prompt": "blur",
    "further": "use_pe=False",
    "solver": "euler FlowMatchEulerDiscreteScheduler:0",
    "text_encoders": "text_encoder; without text_encoder_3",
    "precision": "float16",
    "numerics": "tf32",
    "dtype": "bfloat16",
    "noise": "given",
    "seed": 1,
    "aggregation": "mean",
}
FIXED = {"pixels"}
"""Fields of one value only: they name a choice of the engine."""


# --- what is shipped ------------------------------------------------------------------------------


SHIPPED = [name for name in names() if not load_benchmark(name).prompts.url]
OTHERS = [name for name in names() if name not in SHIPPED]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_benchmark_loads_with_its_prompts(name):
    loaded = load_benchmark(name)
    prompts = loaded.load()
    assert loaded.name == name and len(prompts) == loaded.prompts.count == loaded.count
    assert loaded.protocol().prompts_sha256 == loaded.prompts.sha256 and loaded.pinned


@pytest.mark.parametrize("name", names())
def test_every_benchmark_is_said_in_full(name):
    loaded = load_benchmark(name)
    assert loaded.name == name and loaded.title and loaded.licence and loaded.citation
    assert all(resolve(key) == key for key in loaded.rewards)
    assert sum(loaded.tasks.values()) in (0, loaded.count)
    assert {s.copies for s in loaded.sources} <= {1, loaded.sampling.images_per_prompt}
    assert loaded.protocol().images_per_prompt == loaded.sampling.images_per_prompt


def test_no_prompt_text_of_others_is_shipped():
    shipped = {path.name for path in (folder() / "prompts").iterdir() if path.suffix != ".py"}
    own = {s.file for n in SHIPPED for s in (load_benchmark(n).prompts, load_benchmark(n).training)}
    assert shipped - {"__pycache__"} == own and SHIPPED == [
        "geneval-pocket",
        "geneval-pocket-all",
        "geneval-pocket-wide",
        "ocr-pocket",
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_data_that_were_not_fetched_name_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=f"is missing; run: nftbench data pull {name}$"):
        load_benchmark(name).load()


def test_what_nobody_could_pin_says_so():
    loose = [name for name in names() if not load_benchmark(name).pinned]
    assert loose == ["hpdv2", "openlib", "pick-a-pic-official", "tmdb"]


def test_sources_of_others_stand_at_a_commit():
    urls = [s.url for n in OTHERS for s in load_benchmark(n).sources]
    moving = [url for url in urls if not re.search("/[0-9a-f]{40}/", url)]
    assert all(url.startswith("https://") for url in urls)
    assert {url.partition("?")[0].rpartition("/")[2] for url in moving} == {"MARIOEval.zip"}


def test_a_ranking_benchmark_generates_nothing():
    assert names("ranking") == ["imagereward"] and "imagereward" not in names()
    for load in (load_benchmark, load_suite):
        with pytest.raises(ConfigError, match="run: nftbench data rank imagereward IMAGES"):
            load("imagereward")


def test_a_benchmark_is_a_suite_of_one():
    assert load_suite("ocr-pocket").benchmarks == ("ocr-pocket",)


@pytest.mark.parametrize(
    ("name", "lines"),
    [("geneval-pocket", pocket_prompts.geneval_lines), ("ocr-pocket", pocket_prompts.sign_lines)],
)
def test_shipped_prompts_are_what_the_pocket_world_asks(name, lines):
    shipped = (folder() / "prompts" / load_benchmark(name).prompts.file).read_text("utf-8")
    assert shipped == "".join(f"{line}\n" for line in lines())


def test_only_single_objects_were_trained_on():
    prompts = [p for name in ("geneval-pocket", "ocr-pocket") for p in load_benchmark(name).load()]
    assert {p.tag for p in prompts if not held_out(p.text)} == {"single_object"}


def test_the_pocket_benchmarks_are_as_large_as_promised():
    geneval = Counter(p.tag for p in load_benchmark("geneval-pocket").load())
    assert sum(geneval.values()) >= 120 and len(geneval) == 6 and min(geneval.values()) >= 8
    assert len({p.text for p in load_benchmark("ocr-pocket").load()}) >= 60


# --- protocol -------------------------------------------------------------------------------------


def test_the_hash_is_pinned():
    assert BASE.hash == BASE_HASH


@pytest.mark.parametrize("field", sorted(set(Protocol.model_fields) - FIXED))
def test_every_field_moves_the_hash_and_is_named_as_the_difference(field):
    other = SEEN.model_copy(update={field: OTHER[field]})
    assert other.hash != SEEN.hash
    there = Protocol(**other.model_dump())
    mine, theirs = getattr(SEEN, field), OTHER[field]
    assert SEEN.difference(there) == f"{field}: {mine!r} here, {theirs!r} there"


def test_a_protocol_of_before_keeps_its_hash():
    """Manifests and rows of version 1 name none of the later fields."""
    old = {k: v for k, v in BASE.model_dump().items() if k in PROTOCOL_1}
    assert Protocol(**old) == BASE and Protocol(**old).hash == BASE_HASH
    assert BASE.model_copy(update={"network_calls": 2.0}).hash == BASE_HASH


def test_a_checkpoints_own_settings_fill_what_is_open_and_nothing_else():
    own = {"height": 64, "guidance_scale": 1.0}
    shipped = load_benchmark("geneval-pocket")
    assert shipped.protocol().filled(own).guidance_scale == 1.0
    assert shipped.protocol(height=32).filled(own).height == 32
    assert shipped.protocol(guidance="cfg", guidance_scale=3).filled(own).guidance_scale == 3
    native = shipped.protocol(guidance="native").filled(own)
    assert (native.guidance, native.guidance_scale) == (None, 1.0)
    assert shipped.protocol(guidance="native").filled({}).guidance == "native"


def test_nothing_but_the_fields_moves_the_hash():
    shuffled = dict(reversed(BASE.model_dump(mode="json").items()))
    again = Protocol(**json.loads(json.dumps(shuffled)))
    assert again.hash == BASE.hash and BASE.difference(again) == ""
    assert Protocol(**BASE.model_dump() | {"guidance_scale": 1}).hash == BASE.hash


def test_a_flag_left_out_leaves_the_benchmarks_setting():
    shipped = load_benchmark("geneval-pocket")
    left = shipped.protocol(guidance_scale=None, num_inference_steps=None)
    assert left == shipped.protocol()
    assert shipped.protocol(guidance_scale=0.0).guidance_scale == 0.0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("guidance_scale", -0.5),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("num_inference_steps", 0),
        ("limit", 0),
        ("limit", -3),
        ("seed", -1),
        ("height", 0),
        ("images_per_prompt", 0),
        ("dtype", "float8"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match=f"^{setting}: ") as caught:
        load_benchmark("geneval-pocket").protocol(**{setting: value})
    assert "\n" not in str(caught.value) and repr(value) in str(caught.value)


def test_a_setting_that_is_none_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"^unknown key 'steps'"):
        load_benchmark("geneval-pocket").protocol(steps=5)


# --- TOML files -----------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A copy of the benchmarks' folder: `shelf(name, old, new)` edits one TOML of it."""
    made = tmp_path / "data" / "benchmarks"
    (made / "suites").mkdir(parents=True)
    for path in [*folder().glob("*.toml"), *folder().glob("suites/*.toml")]:
        copy = made / path.relative_to(folder())
        copy.write_text(path.read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(resources, "HERE", tmp_path)

    def edit(name: str, old: str, new: str) -> Path:
        path = made / name
        text = path.read_text("utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return edit


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("aggregation = ", "agregation = ", "unknown key 'agregation'; did you mean 'aggregation'"),
        ('aggregation = "task_mean"', 'aggregation = "median"', "aggregation: expected"),
        ("version = 1", "version = 0", "version: expected a number greater than or equal to 1"),
        (
            "version = 1",
            'version = 1\nauthor = "x"',
            "unknown key 'author'; expected one of aggregation",
        ),
        (
            "images_per_prompt = ",
            "images = ",
            "unknown key 'sampling.images'; expected one of guidance",
        ),
        ("images_per_prompt = ", "cfg = 2\nimages_per_prompt = ", "unknown key 'sampling.cfg'"),
        ('sha256 = "03', 'sha256 = "x3', "prompts.sha256: expected a text that matches"),
        ('sha256 = "6c', 'sha256 = "xc', "training.sha256: expected a text that matches"),
        (
            'layout = "geneval"\ncount = 122',
            'layout = "csv"\ncount = 1',
            "prompts.layout: expected",
        ),
        ("[sampling]", "[sampling", "line"),
    ],
)
def test_a_typo_in_a_benchmark_is_named(shelf, old, new, wrong):
    path = shelf("geneval-pocket.toml", old, new)
    with pytest.raises(ConfigError) as caught:
        load_benchmark("geneval-pocket")
    assert str(path) in str(caught.value) and wrong in str(caught.value)


def test_a_typo_in_a_suite_is_named(shelf):
    path = shelf("suites/pocket.toml", "benchmarks = ", "benchmark = ")
    with pytest.raises(
        ConfigError, match="unknown key 'benchmark'; did you mean 'benchmarks'"
    ) as caught:
        load_suite("pocket")
    assert str(path) in str(caught.value)


def test_changed_prompts_are_refused(shelf, tmp_path):
    shelf("ocr-pocket.toml", "count = 72", "count = 71")
    prompts = tmp_path / "data" / "benchmarks" / "prompts"
    prompts.mkdir()
    shipped = (ROOT / "benchmarks/prompts/ocr-pocket.txt").read_bytes()
    (prompts / "ocr-pocket.txt").write_bytes(shipped)
    with pytest.raises(ConfigError, match="expected 71 prompts, got 72"):
        load_benchmark("ocr-pocket").load()
    (prompts / "ocr-pocket.txt").write_bytes(shipped.replace(b"BOAT", b"BOOT"))
    with pytest.raises(ConfigError, match="expected sha256 5fa4977f3fef7a58"):
        load_benchmark("ocr-pocket").load()


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "name", "near"),
    [
        (load_benchmark, "geneval-poket", "geneval-pocket"),
        (load_suite, "poket", "pocket"),
        (load_suite, "ocr-pockt", "ocr-pocket"),
    ],
)
def test_an_unknown_name_suggests_the_near_one(load, name, near):
    with pytest.raises(ConfigError, match=f"unknown .* '{name}'; did you mean '{near}'?"):
        load(name)


@pytest.mark.parametrize("name", ["../pocket", "suites/pocket", "geneval-pockt"])
def test_where_a_name_is_near_nothing_is_listed(name):
    with pytest.raises(ConfigError, match=r"did you mean '.*pocket'\?$"):
        load_suite(name)


@pytest.mark.parametrize("name", ["../zzz", "zzz", ""])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(
        ConfigError, match=r"available: .*pocket, .*geneval-pocket, .*tmdb"
    ) as caught:
        load_suite(name)
    assert "did you mean" not in str(caught.value)


# --- limit ----------------------------------------------------------------------------------------


def numbered(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), text="x") for i in range(count)]


@given(st.integers(1, 200), st.integers(1, 220))
def test_choose_takes_so_many_evenly(count, limit):
    prompts = numbered(count)
    chosen = [int(p.id) for p in choose(prompts, limit)]
    assert len(chosen) == min(count, limit) and chosen == sorted(set(chosen)) and chosen[0] == 0
    gaps = [b - a for a, b in zip(chosen, [*chosen[1:], count], strict=True)]
    assert max(gaps) <= -(-count // len(chosen))  # no run of prompts longer than that is left out


def test_no_limit_is_everything():
    prompts = numbered(5)
    assert choose(prompts, None) == choose(prompts, 5) == choose(prompts, 99) == prompts


@pytest.mark.parametrize("limit", [16, 24, 60])
def test_choose_keeps_every_task(limit):
    chosen = Counter(p.tag for p in choose(load_benchmark("geneval-pocket").load(), limit))
    assert len(chosen) == 6 and sum(chosen.values()) == limit


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match="limit of at least 1, got 0"):
        choose(numbered(3), 0)
