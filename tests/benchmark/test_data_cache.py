"""Fetching prompt files: cut connections, wrong files, mirrors, what is pinned; containers of prompts."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from nftbench import resources
from nftbench.benchmark import data_cache as data
from nftbench.benchmark.prompts import load_prompts
from nftbench.benchmark.registry import load_benchmark, names
from nftbench.cli.supplies import data as cli_data
from rewards.base import ConfigError, MissingWeights, Weight
from rewards.weights import pull as weights
from tests.helpers.servers.file_server import online

LINES = "".join(f"a photo of thing number {i}\n" for i in range(600)).encode()
SHA256 = hashlib.sha256(LINES).hexdigest()
NAME = "signs/test.txt"
TOML = """
name = "signs"
version = 1
title = "Signs"
licence = "MIT"
citation = "nobody"
rewards = ["jpeg"]
aggregation = "mean"

[prompts]
file = "signs/test.txt"
url = "https://example.org/signs/test.txt"
layout = "text"
count = 600
sha256 = "{sha256}"

[sampling]
images_per_prompt = 1
height = 64
width = 64
num_inference_steps = 2
guidance_scale = 1.0
max_sequence_length = 0
"""


@pytest.fixture
def server(rooms, monkeypatch):
    """A folder that another process serves; the network is on."""
    return online(next(rooms), monkeypatch, {NAME: LINES})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NFTBENCH_MIRROR", raising=False)
    monkeypatch.setattr(weights, "PAUSE", 0.001)
    return tmp_path / "data"


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """`signs(sha256)` makes a benchmark of that name the only one."""
    shelf = tmp_path / "shelf" / "data" / "benchmarks"
    (shelf / "suites").mkdir(parents=True)
    monkeypatch.setattr(resources, "HERE", tmp_path / "shelf")

    def make(sha256: str = SHA256):
        (shelf / "signs.toml").write_text(TOML.format(sha256=sha256))
        return load_benchmark("signs")

    return make


def asset(url: str = "https://example.org/x", **other) -> Weight:
    fields = {"name": NAME, "url": url, "sha256": SHA256, "size": len(LINES), "licence": "MIT"}
    return Weight(**fields | other)


def pulled(one: Weight, **other):
    return data.pull(one, **{"offline": False, "mirrors": (), "accept": False} | other)


def command(*arguments: str) -> str:
    """What `nftbench data ...` prints; its error is raised."""
    result = CliRunner().invoke(cli_data.app, arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


# --- where data lie -------------------------------------------------------------------------------


def test_the_data_cache_lies_beside_the_weights(monkeypatch, tmp_path):
    monkeypatch.delenv("NFTBENCH_DATA")
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "weights"))
    assert data.cache() == tmp_path / "weights" / "data"
    monkeypatch.delenv("NFTBENCH_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert data.cache() == tmp_path / "hub" / "nftbench" / "data"


def test_pulling_leaves_the_weights_cache_as_it_was(server, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path / "weights"))
    pulled(asset(f"{server.url}/plain/{NAME}"))
    assert weights.cache() == tmp_path / "weights" and not weights.cache().exists()
    monkeypatch.delenv("NFTBENCH_CACHE")
    pulled(asset(f"{server.url}/plain/{NAME}"))
    assert (cache / NAME).read_bytes() == LINES and weights.cache() != data.cache()


def test_missing_data_name_the_command(cache):
    with pytest.raises(ConfigError) as caught:
        data.found(NAME, remedy="nftbench data pull signs")
    assert str(caught.value) == f"{cache / NAME} is missing; run: nftbench data pull signs"
    assert data.digest(asset()) == "" and data.state(asset()) == "missing"


# --- pulling --------------------------------------------------------------------------------------


def test_an_interrupted_download_goes_on(server, cache):
    found = pulled(asset(f"{server.url}/cut-6000/{NAME}"))
    assert (cache / NAME).read_bytes() == LINES and found.sha256 == SHA256
    asked = [r["range"] for r in server.requests()]
    assert len(asked) == -(-len(LINES) // 6000) and asked[1] == "bytes=6000-"


def test_a_download_that_nobody_ends_leaves_a_part_and_no_prompts(server, cache, signs):
    signs()
    with pytest.raises(MissingWeights, match="cannot be had"):
        pulled(asset(f"{server.url}/cut-0/{NAME}"))
    (cache / f"{NAME}.part").write_bytes(LINES[:5000])
    assert data.state(asset()) == "partial" and "partial" in command()
    with pytest.raises(ConfigError, match="run: nftbench data pull signs"):
        load_benchmark("signs").load()
    command("pull", "signs", "--mirror", f"{server.url}/plain")
    assert len(load_benchmark("signs").load()) == 600
    assert server.requests()[-1]["range"] == "bytes=5000-"


def test_another_file_never_gets_the_name(server, cache):
    with pytest.raises(ConfigError, match=f"expected {SHA256}"):
        pulled(asset(f"{server.url}/flipped/{NAME}"))
    assert not (cache / NAME).exists() and data.digest(asset()) == ""


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_mirror_feeds_a_machine_without_network(server, signs, scheme):
    signs()
    said = command("pull", "signs", "--offline", "--mirror", f"{scheme}{server.folder}")
    assert "signs: 600 prompts x 1" in said and "not publishable" not in said
    assert [p.text for p in load_benchmark("signs").load()] == LINES.decode().splitlines()
    assert server.requests() == [] and "cached" in command()


def test_offline_without_a_mirror_says_what_to_do(signs):
    signs()
    with pytest.raises(ConfigError, match=r"offline, no source is left.*--mirror") as refused:
        command("pull", "signs", "--offline")
    assert str(refused.value).startswith(f"{NAME} cannot be had"), "of prompts and not of weights"


def test_a_file_without_a_known_digest_wants_a_word(server, signs):
    assert not signs("").pinned
    mirror = ("--mirror", f"{server.url}/plain")
    with pytest.raises(ConfigError, match=f"--accept-digest {NAME}"):
        command("pull", "signs", *mirror)
    said = command("pull", "signs", *mirror, "--accept-digest", NAME)
    assert "signs: 600 prompts x 1, not pinned: not publishable" in said
    assert load_benchmark("signs").protocol().prompts_sha256 == SHA256


def test_a_file_that_changed_after_it_was_accepted_is_refused(server, signs, cache):
    signs("")
    mirror = ("--offline", "--mirror", str(server.folder))
    command("pull", "signs", *mirror, "--accept-digest", NAME)
    (cache / NAME).write_bytes(LINES.upper())
    with pytest.raises(ConfigError, match=f"expected sha256 {SHA256[:16]}"):
        load_benchmark("signs").load()


def test_an_accepted_file_of_another_count_is_set_aside(server, signs, cache):
    signs("")
    (server.folder / NAME).write_bytes(LINES + b"one more\n")
    with pytest.raises(ConfigError, match=r"expected 600 prompts, got 601.*set aside as .*wrong"):
        command(
            "pull", "signs", "--offline", "--mirror", str(server.folder), "--accept-digest", NAME
        )
    assert not (cache / NAME).exists() and data.state(asset(sha256="", size=0)) == "missing"


def test_an_unknown_name_suggests_the_near_one(signs):
    signs()
    with pytest.raises(ConfigError, match="'sings'; did you mean 'signs'"):
        command("pull", "sings")
    with pytest.raises(
        ConfigError, match=r"--accept-digest x is none of the files: signs/test\.txt"
    ):
        command("pull", "signs", "--accept-digest", "x")


def test_a_suite_is_all_its_files_each_once(tmp_path, monkeypatch):
    """Both of MARIO-Eval's benchmarks are in one archive."""
    chosen = cli_data._chosen(["promptrl", "tmdb", "imagereward"])
    files = {a.name for one in chosen for a in cli_data._assets(one)}
    assert [one.name for one in chosen][-1] == "imagereward" and len(chosen) == 6
    assert files == {
        "drawbench/test.txt",
        "ocr/test.txt",
        "mario-eval/MARIOEval.zip",
        "geneval/evaluation_metadata.jsonl",
        "imagereward/test.json",
    }


def test_the_list_names_every_benchmark():
    said = command()
    assert all(name in said for name in [*names(), "imagereward"])
    assert said.count("not pinned") >= 4 and str(data.cache().name) in said


# --- what prompts come in -------------------------------------------------------------------------


def test_a_list_of_texts(tmp_path):
    path = tmp_path / "anime.json"
    path.write_text(json.dumps(["one", "two\nlines"]))
    assert [p.text for p in load_prompts(path, "text")] == ["one", "two\nlines"]


def test_a_parquet_file_of_captions(tmp_path):
    path = tmp_path / "test.parquet"
    pd.DataFrame({"caption": ["one", "two"], "other": [1, 2]}).to_parquet(path)
    assert [p.text for p in load_prompts(path, "text", count=2)] == ["one", "two"]


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


def test_a_member_of_an_archive(tmp_path):
    path = tmp_path / "all.zip"
    path.write_bytes(archive(top__TMDB__TMDB="'a'\n'b'\n", top__LAION__LAION="c"))
    assert [p.text for p in load_prompts(path, "text", member="TMDB/TMDB")] == ["'a'", "'b'"]


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.json", b"{", "expected a JSON list of texts"),
        ("a.json", b'{"a": 1}', "expected a JSON list of texts, got"),
        ("a.json", b'["a", 1]', "expected a JSON list of texts, got"),
        ("a.parquet", b"PAR1", "expected a parquet file with texts as `caption`"),
        ("a.zip", b"PK", "expected a zip archive"),
        ("a.zip", archive(x__m="a"), "expected one file 'n' in it, found 0"),
        ("a.zip", archive(x__n="a", y__n="b"), "expected one file 'n' in it, found 2"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # an archive holds the time
)
def test_a_broken_container_is_named(tmp_path, name, content, wrong):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_prompts(tmp_path / name, "text", member="n")
    assert str(tmp_path / name) in str(caught.value) and wrong in str(caught.value)


def test_a_prompt_that_stands_often_is_one_prompt(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("b\na\na\nb\nb\na\n")
    found = load_prompts(path, "text", count=2, copies=3)
    assert [(p.id, p.text) for p in found] == [("00000", "b"), ("00001", "a")]
    with pytest.raises(
        ConfigError, match="line 1: expected this prompt 2 times in the file, found 3"
    ):
        load_prompts(path, "text", copies=2)
    assert len(load_prompts(path, "text")) == 6


def test_equal_texts_of_other_targets_are_other_prompts(tmp_path):
    path = tmp_path / "a.jsonl"
    include = [[{"class": "cat", "count": n}] for n in (1, 2, 1, 2)]
    lines = [json.dumps({"tag": "t", "prompt": "cats", "include": i}) for i in include]
    path.write_text("\n".join(lines))
    found = load_prompts(path, "geneval", copies=2)
    assert [p.target["include"][0]["count"] for p in found] == [1, 2]


def test_prompts_of_several_files_have_their_files_tag_and_ids_of_their_own(signs, cache):
    made = signs()
    other = made.prompts.model_copy(update={"file": "signs/b.txt", "tag": "b", "count": 2})
    both = made.model_copy(
        update={
            "more_prompts": (other.model_copy(update={"sha256": ""}),),
            "tasks": {"": 600, "b": 2},
        }
    )
    (cache / "signs").mkdir(parents=True)
    (cache / NAME).write_bytes(LINES)
    assert both.digest == "" and not both.pinned
    (cache / "signs" / "b.txt").write_text("x\ny\n")
    prompts = both.load()
    assert [(p.id, p.tag) for p in prompts[-3:]] == [
        ("00599", ""),
        ("b-00000", "b"),
        ("b-00001", "b"),
    ]
    second = hashlib.sha256(b"x\ny\n").hexdigest()
    assert both.digest == hashlib.sha256(f"{SHA256}\n{second}".encode()).hexdigest()
    with pytest.raises(ConfigError, match=r"expected tasks {'b': 602}, got {'': 600, 'b': 2}"):
        both.model_copy(update={"tasks": {"b": 602}}).load()


def test_an_asset_is_the_source_as_a_file(signs):
    one = signs().prompts.asset("MIT")
    assert one == replace(asset(), url="https://example.org/signs/test.txt", size=0)
