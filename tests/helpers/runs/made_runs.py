"""Run folders made by rule, without a model: what an evaluation and a training leave behind."""

import io
import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nftbench.benchmark.samples import image_seed
from nftbench.benchmark.schema import Protocol
from nftbench.runs.io import write_table
from nftbench.runs.rows import Provenance, summarise
from nftbench.runs.run_folder import Run
from rewards.base import RewardInfo

BENCHMARK = "made"
GENEVAL = RewardInfo(
    name="geneval", variant="made", summary="", low=0, high=1, ends=(0, 1), needs="geneval metadata"
)
PICK = RewardInfo(name="pick", variant="made", summary="", low=0, high=30)
OCR = RewardInfo(
    name="ocr", variant="made", summary="", low=0, high=1, ends=(0, 1), needs="quoted text"
)
INFOS = (GENEVAL, PICK, OCR)
TASKS = ("single_object", "two_object")


def png(color: tuple[int, int, int], side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, format="PNG")
    return buffer.getvalue()


def samples(prompts: list[str], images: int, seed: int, shift: float) -> pd.DataFrame:
    """Two tasks by turns; every second image passes; `pick` is 20 + its row + `shift`."""
    count = len(prompts) * images
    ids = [f"{i // images:04d}" for i in range(count)]
    index = [i % images for i in range(count)]
    key = GENEVAL.key
    evidence = {
        "boxes": {"star": [[2.0, 3.0, 9.0, 12.0, 0.9]]},
        "colors": {"star": ["red"]},
        "reason": "expected star>=2, found 1",
        "strict_reason": "expected star=2, found 1",
    }
    read = {
        "target": "KITE",
        "read": "KIT",
        "lines": [{"text": "KIT", "confidence": 0.9, "box": [1, 1, 8, 4]}],
    }
    return pd.DataFrame(
        {
            "key": [f"{p}-{k:02d}" for p, k in zip(ids, index, strict=True)],
            "prompt_id": ids,
            "prompt": [prompts[i // images] for i in range(count)],
            "tag": [TASKS[i // images % 2] for i in range(count)],
            "image_index": index,
            "seed": [image_seed(seed, p, k) for p, k in zip(ids, index, strict=True)],
            "image": [f"images/{p}-{k:02d}.png" for p, k in zip(ids, index, strict=True)],
            "sha256": "",
            key: np.float32([i % 2 for i in range(count)]),
            f"{key}:strict": np.float32([i % 2 for i in range(count)]),
            f"{key}:reason": "",
            f"{key}:evidence": json.dumps(evidence),
            PICK.key: np.float32([20 + i % 5 + shift for i in range(count)]),
            f"{PICK.key}:reason": "",
            f"{PICK.key}:evidence": json.dumps({"reply": "Final Score: 4"}),
            OCR.key: np.float32([np.nan if i == 0 else 0.75 for i in range(count)]),
            f"{OCR.key}:reason": ["the OCR engine failed" if i == 0 else "" for i in range(count)],
            f"{OCR.key}:evidence": json.dumps(read),
        }
    )


def made_protocol(**changes) -> Protocol:
    return Protocol(
        **{
            "benchmark": BENCHMARK,
            "version": 1,
            "prompts_sha256": "0" * 64,
            "images_per_prompt": 2,
            "height": 16,
            "width": 16,
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
            "aggregation": "task_mean",
            "seed": 0,
        }
        | changes
    )


def seed_of(folder: Path) -> int:
    """Of a parent's run; 0 of any other."""
    return int(folder.name.removeprefix("seed-")) if folder.name.startswith("seed-") else 0


def evaluation(
    folder: Path,
    prompts: list[str],
    *,
    images: int = 2,
    seed: int = 0,
    shift: float = 0.0,
    guidance: float = 1.0,
    side: int = 16,
) -> Path:
    """A finished run of `nftbench eval`."""
    run = Run(folder)
    protocol = made_protocol(
        images_per_prompt=images, height=side, width=side, guidance_scale=guidance, seed=seed
    )
    table, digest = samples(prompts, images, seed, shift), f"ab12{seed_of(folder)}"
    (folder / BENCHMARK / "images").mkdir(parents=True)
    shades = [png((40 * i % 256, 90, 200), side) for i in range(7)]
    for i, name in enumerate(table["image"]):
        (folder / BENCHMARK / name).write_bytes(shades[i % 7])
    write_table(run.samples_path(BENCHMARK), table)
    run.save_manifest(
        {
            "checkpoint": {"name": "made-checkpoint", "digest": digest, "pipeline": "None"},
            "suite": BENCHMARK,
            "batch_size": 4,
            "protocols": {BENCHMARK: protocol.model_dump(mode="json")},
            "protocol_hashes": {BENCHMARK: protocol.hash},
            "rewards": {BENCHMARK: {info.key: asdict(info) for info in INFOS}},
            "versions": {},
        }
    )
    about = Provenance(
        model="made-checkpoint",
        checkpoint=digest,
        benchmark=BENCHMARK,
        protocol=protocol.hash,
        limited=False,
        by_task=True,
        date=date(2026, 1, 1),
    )
    run.save_rows(summarise(table, INFOS, about))
    return folder


def training(folder: Path, *, slope: float = 1.0) -> Path:
    """A finished run of `nftbench train`: `held_out/made/pick@made` is 20 + slope * iteration, every second one."""
    folder.mkdir(parents=True)
    lines = []
    for i in range(5):
        line = {
            "iteration": i,
            "minutes": 0.5 * i,
            "reward/pick@made": 20 + slope * i,
            "loss": 1 / (i + 1),
        }
        if i % 2 == 0:
            line["held_out/made/pick@made"] = 20 + slope * i
        if i == 3:
            line["guards"] = ["warn: <b>x_0_norm</b> grew"]
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    stage = {"prompts": [BENCHMARK], "rewards": PICK.key, "iterations": 4}
    recipe = {"name": "made", "algorithm": "nft", "checkpoint": "made-checkpoint"}
    recipe |= {"seed": seed_of(folder)}
    recipe |= {"rollout": {}, "stages": [stage]}
    (folder / "recipe.json").write_text(json.dumps(recipe), "utf-8")
    held_out = pd.DataFrame(
        {
            "benchmark": BENCHMARK,
            "prompt_id": [f"{i // 2:04d}" for i in range(8)],
            "tag": "",
            "image_index": [i % 2 for i in range(8)],
            PICK.key: [20.0 + i for i in range(8)],
        }
    )
    write_table(folder / "held_out" / "before.parquet", held_out)
    gained = held_out.assign(
        **{PICK.key: held_out[PICK.key] + slope * np.array([1, 1, 2, 2, 3, 3, 4, 4])}
    )
    write_table(folder / "held_out" / "after.parquet", gained)
    protocol = made_protocol(aggregation="mean").model_dump(mode="json")
    sets = {BENCHMARK: {"whole": protocol, "part": protocol, "rewards": {PICK.key: "ab12"}}}
    (folder / "held_out" / "measured.json").write_text(json.dumps({"sets": sets}), "utf-8")
    (folder / "grids").mkdir()
    for i in (0, 2):
        (folder / "grids" / f"{i:06d}.png").write_bytes(png((0, 100 * i, 0), 32))
    return folder
