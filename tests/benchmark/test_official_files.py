"""The official prompt files: counts, digests and tasks as they were published, typed by hand."""

import hashlib
import json
from collections import Counter

import pytest

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.evaluation.ranking import load_ranking
from tests.helpers.paths import DATA

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
GENEVAL = dict(zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True))
UNSEEN = dict(zip(TASKS, (20, 48, 47, 47, 47, 47), strict=True))
FILES = {
    "geneval": (
        "geneval/evaluation_metadata.jsonl",
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        (553, 4, 553),
    ),
    "geneval-nft": (
        "geneval/flow_grpo_test_metadata.jsonl",
        "cec4b24b9fee7bac21c8f787054ecc8dc9ff831674037713a4cd35e0f0a74a28",
        (553, 4, 2212),
    ),
    "geneval-unseen": (
        "geneval_unseen/test_metadata.jsonl",
        "174536b49af23b0e2abc4e3215fce5d375de13d6040a50642709240a76dc1a24",
        (256, 4, 1024),
    ),
    "ocr": (
        "ocr/test.txt",
        "4dd8caf3ab6ade73bd376c7d14c6ca49b6eacfb1bd321e22c40714ae4a98d4dc",
        (1018, 1, 1018),
    ),
    "drawbench": (
        "drawbench/test.txt",
        "9006b98feabb94b28a2bc0c88de42fd4f31a9ec3c2a19e308a02c5385b7172f0",
        (200, 5, 1000),
    ),
}
"""Benchmark -> file, sha256, (distinct prompts, images of each, lines)."""


@pytest.fixture(params=sorted(FILES))
def name(request, monkeypatch):
    """A benchmark whose file is on this machine."""
    path = DATA / FILES[request.param][0]
    if not path.is_file():
        pytest.skip(f"the official prompt file {path} is not on this machine")
    monkeypatch.setenv("NFTBENCH_DATA", str(DATA))
    return request.param


def lines(name: str) -> list[str]:
    text = (DATA / FILES[name][0]).read_text("utf-8")
    return text.removesuffix("\n").split("\n")


def test_counts_and_digest(name):
    file, sha256, (count, images, written) = FILES[name]
    found, prompts = load_benchmark(name), load_benchmark(name).load()
    assert (found.prompts.file, found.prompts.sha256) == (file, sha256)
    assert hashlib.sha256((DATA / file).read_bytes()).hexdigest() == sha256
    assert (len(prompts), found.sampling.images_per_prompt, len(lines(name))) == FILES[name][2]
    assert len(samples(prompts, images)) == count * images
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == count
    assert found.prompts.size == (DATA / file).stat().st_size
    assert written in (count, count * images)


def test_the_same_texts_as_the_file_read_plainly(name):
    geneval = name.startswith("geneval")
    texts = [json.loads(line)["prompt"] if geneval else line.strip() for line in lines(name)]
    prompts = load_benchmark(name).load()
    assert [p.text for p in prompts] == list(dict.fromkeys(texts))
    times = FILES[name][2][2] // FILES[name][2][0]
    assert set(Counter(texts).values()) == {times}


def test_a_prompts_id_is_the_first_line_it_stands_on(name):
    geneval = name.startswith("geneval")
    for prompt in load_benchmark(name).load()[::50]:
        line = lines(name)[int(prompt.id)]
        assert prompt.text == (json.loads(line)["prompt"] if geneval else line.strip())


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("geneval", GENEVAL), ("geneval-nft", GENEVAL), ("geneval-unseen", UNSEEN)],
    indirect=["name"],
)
def test_tasks(name, tasks):
    assert Counter(p.tag for p in load_benchmark(name).load()) == tasks
    assert dict(load_benchmark(name).tasks) == tasks


@pytest.mark.parametrize("name", ["geneval-nft"], indirect=True)
def test_nfts_file_asks_what_the_official_one_asks(name):
    asked = [
        {
            json.dumps([p.text, p.tag, dict(p.target)], sort_keys=True)
            for p in load_benchmark(n).load()
        }
        for n in (name, "geneval")
    ]
    assert asked[0] == asked[1] and len(asked[0]) == 553


@pytest.mark.parametrize("name", ["ocr"], indirect=True)
def test_every_sign_quotes_its_text(name):
    assert all(p.text.split('"')[1].strip() for p in load_benchmark(name).load())


def test_imagerewards_items(monkeypatch):
    path = DATA / "imagereward" / "test.json"
    if not path.is_file():
        pytest.skip(f"ImageReward's test file {path} is not on this machine")
    monkeypatch.setenv("NFTBENCH_DATA", str(DATA))
    items = load_ranking("imagereward").load()
    assert len(items) == 466 and len({i.prompt.text for i in items}) == 463
    assert {len(i.images) for i in items} == {4, 5, 6, 7, 8, 9}
