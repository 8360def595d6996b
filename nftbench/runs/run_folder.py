"""The run folder: lossless images, a sample table that grows batch by batch, one manifest.

    runs/NAME/manifest.json                      what was asked, of which weights, with which versions
    runs/NAME/BENCHMARK/images/PROMPT-KK.png     the pixels that were scored
    runs/NAME/BENCHMARK/scores/REWARD/NNNNN.parquet   one file a batch, while the run goes on
    runs/NAME/rows.csv                           the table that was printed
    runs/NAME/BENCHMARK/contact.png              some images of every task
    runs/NAME/BENCHMARK/samples.parquet          all of it, one row an image, when a stage is done

Every file is written beside its place and renamed into it, so a run that is killed holds no half file.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ValidationError

from nftbench.benchmark.schema import Protocol, in_words
from nftbench.generation.sampling import Sample
from nftbench.runs.io import read_table, write_atomic, write_table
from rewards.base import ConfigError, Reward, Scores

MANIFEST = "manifest.json"
RUNS = Path("runs")
"""Where commands make the folders that nobody named."""
SAMPLE_COLUMNS = (
    "key",
    "prompt_id",
    "prompt",
    "tag",
    "image_index",
    "seed",
    "image",
    "sha256",
)
"""Of every sample table, before the rewards' own columns."""
NEEDED = frozenset({"batch_size", "checkpoint", "protocols", "rewards", "versions"})
"""Entries of a manifest that the engine reads back."""


def folder_name(checkpoint: str) -> str:
    """A checkpoint as the beginning of a run folder's name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in checkpoint).strip(".-")


class Run:
    """A run folder on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run.

        Raises:
            ConfigError: the folder is no run.
        """
        if not (folder / MANIFEST).is_file():
            raise ConfigError(
                f"not a run: {folder} holds no {MANIFEST}; expected a folder made by `nftbench eval`"
            )
        return cls(folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is; empty before it is begun."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return {}
        try:
            manifest = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON ({error}); choose another --out") from None
        known = set(manifest) if isinstance(manifest, dict) else set()
        if not known >= NEEDED:
            raise ConfigError(
                f"{path} lacks {', '.join(sorted(NEEDED - known))}; not a run of this version of nftbench"
            )
        return manifest

    def save_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        write_atomic(self.folder / MANIFEST, f"{text}\n".encode())

    def add_rewards(self, rewards: Mapping[str, Mapping[str, Reward]]) -> None:
        """Note further rewards of each benchmark in the manifest."""
        manifest = self.manifest
        for benchmark, judges in rewards.items():
            manifest["rewards"][benchmark] |= {
                key: asdict(judge.info) for key, judge in judges.items()
            }
        self.save_manifest(manifest)

    def protocols(self) -> dict[str, Protocol]:
        """The protocol of each benchmark of the run."""
        protocols = self.manifest.get("protocols", {})
        try:
            return {name: Protocol(**fields) for name, fields in protocols.items()}
        except ValidationError as error:
            raise ConfigError(
                f"{self.folder / MANIFEST} holds a protocol of another version of nftbench: {in_words(error)}"
            ) from None

    def image_path(self, benchmark: str, sample: Sample) -> Path:
        """Where an image lies."""
        return self.folder / benchmark / "images" / f"{sample.key}.png"

    def save_image(self, benchmark: str, sample: Sample, pixels: np.ndarray) -> None:
        """Write one image, uint8 RGB (H, W, 3), as PNG."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        write_atomic(self.image_path(benchmark, sample), buffer.getvalue())

    def image_digest(self, benchmark: str, sample: Sample) -> str:
        """sha256 of an image's file; empty when it is gone."""
        path = self.image_path(benchmark, sample)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def save_rows(self, rows: Sequence[BaseModel]) -> None:
        """Write the run's rows as CSV."""
        table = pd.DataFrame([row.model_dump(mode="json") for row in rows])
        write_atomic(self.folder / "rows.csv", table.to_csv(index=False).encode())

    def has_images(self, benchmark: str, batch: Sequence[Sample]) -> bool:
        """Whether all of a batch's images are there."""
        return all(self.image_path(benchmark, s).is_file() for s in batch)

    def drop_scores(self, benchmark: str, batch: int) -> None:
        """Forget every reward's scores of one batch: its images are made anew."""
        for path in (self.folder / benchmark / "scores").glob(f"*/{batch:05d}.parquet"):
            path.unlink()

    def scores_path(self, benchmark: str, reward: str, batch: int) -> Path:
        """Where one batch's scores by one reward lie."""
        return self.folder / benchmark / "scores" / reward / f"{batch:05d}.parquet"

    def save_scores(
        self, benchmark: str, reward: str, batch: int, samples: Sequence[Sample], scores: Scores
    ) -> None:
        """Write one batch's scores."""
        write_table(
            self.scores_path(benchmark, reward, batch), score_table(reward, samples, scores)
        )

    def read_scores(self, benchmark: str, reward: str) -> pd.DataFrame:
        """All scores by one reward, batch by batch."""
        parts = sorted((self.folder / benchmark / "scores" / reward).glob("*.parquet"))
        return pd.concat([pd.read_parquet(p) for p in parts], ignore_index=True)

    def samples_path(self, benchmark: str) -> Path:
        """Where a benchmark's sample table lies."""
        return self.folder / benchmark / "samples.parquet"

    def read_samples(self, benchmark: str) -> pd.DataFrame:
        """A benchmark's sample table, as `evaluate.sample_table` makes it: one row an image.

        Raises:
            ConfigError: the run is not finished, or its table is broken or lacks a column.
        """
        path, remedy = self.samples_path(benchmark), f"run: nftbench score {self.folder}"
        if not path.is_file():
            raise ConfigError(
                f"{self.folder} is not finished: {benchmark} has no {path.name}; {remedy}"
            )
        table = read_table(path, remedy=remedy)
        missing = set(SAMPLE_COLUMNS) - set(table.columns)
        if missing:
            raise ConfigError(f"{path} lacks {min(missing)}; {remedy}")
        return table


def score_table(reward: str, samples: Sequence[Sample], scores: Scores) -> pd.DataFrame:
    """Scores as columns: `key`, `REWARD`, `REWARD:reason`, `REWARD:PART`..., `REWARD:evidence` (JSON)."""
    evidence = scores.evidence or [{}] * len(samples)
    columns: dict[str, Any] = {"key": [s.key for s in samples], reward: scores.values}
    columns |= {
        f"{reward}:{part}": np.asarray(v, dtype=np.float32) for part, v in scores.parts.items()
    }
    columns[f"{reward}:reason"] = list(scores.reasons)
    columns[f"{reward}:evidence"] = [
        json.dumps(e, sort_keys=True, ensure_ascii=False) for e in evidence
    ]
    return pd.DataFrame(columns)
