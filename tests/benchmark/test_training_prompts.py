"""Prompts to train on: the pocket world's; and those pinned by git's name of their content, without a known sha256."""

import re
from collections import Counter

import pytest

from nftbench.benchmark.places import shipped as folder
from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import PromptSource
from nftbench.pocket.world.scenes import held_out
from rewards.base import ConfigError
from tests.helpers import pocket_prompts

BLOB = "29f1376836cebe8f18ac57baf4f1874693ca4ffe"
"""Of two lines, by `git hash-object`."""
POCKET = ("geneval-pocket", "geneval-pocket-wide", "geneval-pocket-all", "ocr-pocket")


def source(tmp_path, monkeypatch, text: str) -> PromptSource:
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path))
    (tmp_path / "train.txt").write_text(text, "utf-8", newline="\n")
    return PromptSource(
        file="train.txt", url="https://example.org/train.txt", layout="text", count=0, sha256="",
        blob=BLOB, tag="mine-train",
    )  # fmt: skip


def test_the_file_that_is_meant(tmp_path, monkeypatch):
    found = source(tmp_path, monkeypatch, "a red cube\ntwo cats\n").load(remedy="")
    assert [(p.id, p.text) for p in found] == [
        ("mine-train-00000", "a red cube"),
        ("mine-train-00001", "two cats"),
    ]


def test_another_file(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"expected git blob .* fetch the file again"):
        source(tmp_path, monkeypatch, "a red cube\ntwo dogs\n").load(remedy="")


@pytest.mark.parametrize("name", ["geneval-nft", "ocr", "pick-a-pic"])
def test_training_prompts_that_are_not_here_name_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=f"nftbench data pull {name} --training"):
        load_benchmark(name).load_training()


# --- the pocket world's ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("geneval-pocket", pocket_prompts.training_geneval_lines),
        ("geneval-pocket-wide", pocket_prompts.wide_training_geneval_lines),
        ("geneval-pocket-all", pocket_prompts.all_training_geneval_lines),
        ("ocr-pocket", pocket_prompts.training_sign_lines),
    ],
)
def test_shipped_training_prompts_are_what_the_pocket_world_gives(name, lines):
    source = load_benchmark(name).training
    assert source is not None
    shipped = (folder() / "prompts" / source.file).read_text("utf-8")
    assert shipped == "".join(f"{line}\n" for line in lines())
    assert len(load_benchmark(name).load_training()) == source.count


@pytest.mark.parametrize("name", POCKET)
def test_nothing_held_out_is_trained_on(name):
    asked_prompts, trained = load_benchmark(name).load(), load_benchmark(name).load_training()
    both = {" ".join(sorted(p.text.split())) for p in asked_prompts} & {
        " ".join(sorted(p.text.split())) for p in trained
    }
    singles = {p.text for p in asked_prompts if p.tag == "single_object"}
    assert both == {" ".join(sorted(text.split())) for text in singles}
    assert {p.tag for p in trained if held_out(p.text)} <= {"single_object"}


def test_no_two_pocket_prompts_share_an_id():
    """Noise is seeded by the id. The two benchmarks are asked apart, but trained on together."""
    benchmarks = [load_benchmark(name) for name in POCKET]
    trained = [p.id for b in benchmarks for p in b.load_training()]
    assert len(set(trained)) == len(trained) == 360 + 838 + 2842 + 364
    assert (trained[0], trained[-1]) == ("t0000", "t00363")
    assert not {p.id for b in benchmarks for p in b.load()} & set(trained)


def test_the_wider_benchmarks_ask_what_geneval_pocket_asks():
    narrow, wide, every = map(load_benchmark, POCKET[:3])
    assert narrow.load() == wide.load() == every.load()
    texts, all_texts = ([p.text for p in b.load_training()] for b in (wide, every))
    assert len(set(texts)) == len(texts) and len(set(all_texts)) == len(all_texts)
    assert set(texts) | {p.text for p in narrow.load_training()} <= set(all_texts)
    assert {p.text for p in narrow.load_training()} <= set(texts) | _of_many(narrow)


def _of_many(benchmark) -> set[str]:
    """Colour attributes: the wide file has 600 of 2,604."""
    return {p.text for p in benchmark.load_training() if p.tag == "color_attr"}


def test_an_even_draw_trains_every_task_as_often():
    trained = load_benchmark("geneval-pocket").load_training()
    assert list(Counter(p.tag for p in trained).values()) == [pocket_prompts.TRAINING_PER_TASK] * 6
    for tag in {p.tag for p in trained}:
        copies = Counter(p.text for p in trained if p.tag == tag).values()
        assert max(copies) - min(copies) <= 1
    distinct = Counter({p.text: p.tag for p in trained}.values())
    assert distinct["single_object"] == 8 and distinct["counting"] == 14
    assert distinct["position"] == distinct["color_attr"] == 60


def test_training_signs_are_single_words_told_once():
    texts = [p.text for p in load_benchmark("ocr-pocket").load_training()]
    assert len(set(texts)) == len(texts)
    assert all(re.fullmatch('a sign that says "[A-Z]{3,6}"', text) for text in texts)


def test_a_benchmark_without_training_prompts_says_so():
    bare = load_benchmark("ocr-pocket").model_copy(update={"training": None})
    with pytest.raises(ConfigError, match="ocr-pocket has no training prompts; name a prompt file"):
        bare.load_training()
