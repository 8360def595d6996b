"""Prompts to train on that are pinned by git's name of their content, where nobody could take their sha256 yet."""

import pytest

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import PromptSource
from rewards.base import ConfigError

BLOB = "29f1376836cebe8f18ac57baf4f1874693ca4ffe"
"""Of two lines, by `git hash-object`."""


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
