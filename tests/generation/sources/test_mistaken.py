"""Folders that people name for a checkpoint and that hold something else: one line that says what."""

import shutil
from pathlib import Path

import pytest
import torch

from nftbench.generation.sources.packaged import packaged
from tests.helpers.commands import run_here

POCKET, TUNED = packaged()["pocket"], packaged()["pocket-nft"]
WEIGHTS = POCKET / "transformer" / "diffusion_pytorch_model.safetensors"


def of_a_training_script(folder: Path) -> None:
    for name in ("transformer", "transformer_ema"):
        shutil.copytree(POCKET / "transformer", folder / name)
    torch.save({}, folder / "optimizer.bin")


def of_accelerate(folder: Path) -> None:
    shutil.copy(WEIGHTS, folder / "model.safetensors")
    torch.save({}, folder / "optimizer.bin")


def of_deepspeed(folder: Path) -> None:
    (folder / "pytorch_model").mkdir()
    torch.save({}, folder / "pytorch_model" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("pytorch_model", "utf-8")


def sharded(folder: Path) -> None:
    (folder / "pytorch_model_fsdp_0").mkdir()
    (folder / "pytorch_model_fsdp_0" / "__0_0.distcp").write_bytes(b"")


def one_level_deeper(folder: Path) -> None:
    shutil.copytree(POCKET, folder / "final")


def lora(folder: Path) -> None:
    shutil.copytree(TUNED / "lora", folder / "lora")


def modular(folder: Path) -> None:
    (folder / "modular_model_index.json").write_text("{}", "utf-8")


MADE = [
    (of_a_training_script, "BASE+transformer=given/transformer"),
    (of_accelerate, "weights (model.safetensors): name the file"),
    (of_deepspeed, "mp_rank_00_model_states.pt, a training's weights in pieces"),
    (sharded, "__0_0.distcp, a training's weights in pieces"),
    (one_level_deeper, "name given/final"),
    (lora, "BASE+lora=given/lora"),
    (modular, "a modular pipeline"),
]


def refused(home: Path, checkpoint: str) -> str:
    code, said = run_here(home, "inspect", checkpoint)
    assert code == 2 and said.count("nftbench: ") == 1 and "Traceback" not in said, said
    return " ".join(said.split())


@pytest.mark.parametrize(("make", "expected"), MADE, ids=lambda v: getattr(v, "__name__", ""))
def test_a_folder_that_is_no_pipeline_is_named_for_what_it_is(tmp_path, make, expected):
    (tmp_path / "given").mkdir()
    make(tmp_path / "given")
    assert expected in refused(tmp_path, "given")


@pytest.mark.parametrize(("make", "expected"), MADE[1:4], ids=lambda v: getattr(v, "__name__", ""))
def test_so_is_one_that_stands_for_a_part(tmp_path, make, expected):
    (tmp_path / "given").mkdir()
    make(tmp_path / "given")
    assert expected in refused(tmp_path, "pocket+transformer=given")
