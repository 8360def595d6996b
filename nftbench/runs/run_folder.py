"""The run folder: lossless images, a sample table that grows batch by batch, one manifest.

    runs/NAME/manifest.json                      what was asked, of which weights, with which versions
    runs/NAME/asked/                             benchmarks of the user's own, as they were asked
    runs/NAME/BENCHMARK/images/PROMPT-KK.png     the pixels that were scored
    runs/NAME/BENCHMARK/digests/NNNNN.json       what binds a batch's images to the run: their sha256 as they were made
    runs/NAME/BENCHMARK/scores/REWARD/NNNNN.parquet   one file a batch, while the run goes on
    runs/NAME/rows.csv                           the table that was printed
    runs/NAME/BENCHMARK/contact.png              some images of every task
    runs/NAME/BENCHMARK/samples.parquet          all of it, one row an image, when a stage is done

Every file is written beside its place and renamed into it, so a run that is killed holds no half file.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from PIL import Image
from pydantic import ValidationError

from nftbench.benchmark import own, places
from nftbench.benchmark.faults import in_words
from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import Protocol
from nftbench.parsing import parse_json
from nftbench.runs.io import read_columns, read_table, write_atomic, write_table
from nftbench.runs.manifest import MANIFEST, manifest_bytes, read_manifest
from nftbench.runs.row_files import encode, entry
from nftbench.runs.rows import Row
from nftbench.runs.seeds import refuse_parent
from rewards.base import ConfigError, Reward, Scores

RUNS = Path("runs")
"""Where commands make the folders that nobody named."""
QUICK = 1
"""How hard a PNG is compressed, of 9: in a fifth of the usual time, for a seventh more bytes. A GPU need not wait."""
LONGEST_NAME = 100
"""Bytes of a checkpoint's part of a folder's name: suite and protocols follow, and file names end at 255."""
OWN_BENCHMARKS = "asked"
"""Folder of a run that holds a copy of benchmarks that do not ship with the project."""
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
BOUND = ("key", "sha256", "prompt", "scorer")
"""What a score is bound to, a row an image: the image's name and digest, its prompt, and the scorer's identity."""
Bound = Mapping[str, Sequence[str]]
"""Some or all columns of `BOUND`."""


def folder_name(checkpoint: str) -> str:
    """A checkpoint as the beginning of a run folder's name; of a long one as much as fits, and its digest."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in checkpoint).strip(".-")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(checkpoint.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name.encode()[:LONGEST_NAME].decode(errors='ignore').strip('.-')}-{digest[:8]}"


class Run:
    """A run folder on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[Path, pyarrow.Table] = {}
        """Score files that this very object wrote, by path: not read again."""

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run.

        Raises:
            ConfigError: the folder is no run.
        """
        refuse_parent(folder)
        if not (folder / MANIFEST).is_file():
            raise ConfigError(
                f"not a run: {folder} holds no {MANIFEST}; expected a folder made by `nftbench eval`"
            )
        if (folder / OWN_BENCHMARKS).is_dir():
            places.add(folder / OWN_BENCHMARKS)
        return cls(folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is (see `runs.manifest`); empty before it is begun.

        Raises:
            ConfigError: it is broken, or an entry is of a wrong type.
        """
        path = self.folder / MANIFEST
        return read_manifest(path) if path.is_file() else {}

    def save_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        write_atomic(self.folder / MANIFEST, manifest_bytes(manifest))

    def keep_benchmarks(self, names: Iterable[str]) -> None:
        """Keep a copy of a user's own benchmarks, so that the run can be scored and verified anywhere."""
        for name in names:
            for path, data in own.files_of(name).items():
                write_atomic(self.folder / OWN_BENCHMARKS / path, data)

    def add_rewards(self, rewards: Mapping[str, Mapping[str, Reward]]) -> None:
        """Note further rewards of each benchmark in the manifest."""
        manifest = self.manifest
        for benchmark, judges in rewards.items():
            manifest["rewards"][benchmark] |= {
                key: asdict(judge.info) for key, judge in judges.items()
            }
        self.save_manifest(manifest)

    def note_hardware(self, changed: Mapping[str, Any]) -> None:
        """Note on what the latest scores were given; what was said before is kept, under `hardware_before`."""
        manifest = self.manifest
        before = manifest.get("hardware", {})
        if before | changed != before:
            if before:
                manifest["hardware_before"] = [*manifest.get("hardware_before", []), before]
            self.save_manifest({**manifest, "hardware": before | changed})

    def protocols(self) -> dict[str, Protocol]:
        """The protocol of each benchmark of the run."""
        protocols = self.manifest.get("protocols", {})
        try:
            return {name: Protocol(**fields) for name, fields in protocols.items()}
        except ValidationError as error:
            raise ConfigError(
                f"{self.folder / MANIFEST} holds a protocol of another version of nftbench: {in_words(error)}"
            ) from None

    def note_cost(self, benchmark: str, cost: Mapping[str, float]) -> None:
        """Note in the manifest what a service's images took."""
        manifest = self.manifest
        manifest.setdefault("service", {})[benchmark] = dict(cost)
        self.save_manifest(manifest)

    def image_path(self, benchmark: str, sample: Sample) -> Path:
        """Where an image lies."""
        return Path(self.folder, benchmark, "images", f"{sample.key}.png")

    def save_images(
        self,
        benchmark: str,
        number: int,
        batch: Sequence[Sample],
        pixels: Sequence[np.ndarray | str | None] | np.ndarray,
        origin: str,
        *,
        about: Mapping[str, float] | None = None,
    ) -> None:
        """Write a batch of images, then what binds them to this run.

        Args:
            benchmark: whose images.
            number: of the batch.
            batch: N images.
            pixels: uint8 RGB (N, H, W, 3), or N images of any size; a text is the reason why there is none, and None
                leaves what was noted of this origin.
            origin: what made them: the checkpoint's digest and the protocol's hash.
            about: numbers about the making, such as requests.
        """
        same = self._noted(benchmark, number, "").get("origin") == origin
        images, failed = (
            self._noted(benchmark, number, name) if same else {} for name in ("images", "failed")
        )
        for sample, one in zip(batch, pixels, strict=True):
            if one is None:
                continue
            images.pop(sample.key, None)
            failed.pop(sample.key, None)
            if isinstance(one, str):
                failed[sample.key] = as_text(one)
            else:
                images[sample.key] = self._save_image(self.image_path(benchmark, sample), one)
        noted: dict[str, Any] = {"origin": origin, "images": _in_order(images, batch)}
        if failed := _in_order(failed, batch):
            noted["failed"] = failed
        if about:
            noted["about"] = dict(about)
        text = json.dumps(noted, indent=0)
        write_atomic(self.digests_path(benchmark, number), f"{text}\n".encode())

    def _save_image(self, path: Path, pixels: np.ndarray) -> str:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=QUICK)
        data = buffer.getvalue()
        write_atomic(path, data, durable=False)  # its digest tells if it was lost
        return hashlib.sha256(data).hexdigest()

    def digests_path(self, benchmark: str, number: int) -> Path:
        """Where the digests of a batch's images lie, as they were made."""
        return self.folder / benchmark / "digests" / f"{number:05d}.json"

    def made(self, benchmark: str, number: int, batch: Sequence[Sample], origin: str) -> list[str]:
        """Digest of each of a batch's images as it was made; empty where nothing of this origin says so."""
        try:
            noted = parse_json(self.digests_path(benchmark, number).read_bytes())
            known = noted["images"] if noted["origin"] == origin else {}
            return [str(known.get(s.key, "")) for s in batch]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return [""] * len(batch)

    def failed(self, benchmark: str, number: int) -> dict[str, str]:
        """Why images of a batch were not made, by key; empty where all were."""
        return {str(k): str(v) for k, v in self._noted(benchmark, number, "failed").items()}

    def about(self, benchmark: str, number: int, origin: str) -> dict[str, float]:
        """The numbers about the making of a batch."""
        if self._noted(benchmark, number, "").get("origin") != origin:
            return {}
        noted = self._noted(benchmark, number, "about")
        return {str(k): float(v) for k, v in noted.items() if isinstance(v, int | float)}

    def _noted(self, benchmark: str, number: int, key: str) -> dict[str, Any]:
        """What was noted of a batch under a key, or all of it; empty where nothing sound was."""
        try:
            noted = parse_json(self.digests_path(benchmark, number).read_bytes())
        except (OSError, ValueError):
            return {}
        found = noted.get(key, {}) if key and isinstance(noted, dict) else noted
        return found if isinstance(found, dict) else {}

    def image_digest(self, benchmark: str, sample: Sample) -> str:
        """sha256 of an image's file; empty when it is gone."""
        path = self.image_path(benchmark, sample)
        return _sha256(path) if path.is_file() else ""

    def save_rows(self, rows: Sequence[Row]) -> None:
        """Write the run's rows as CSV."""
        write_atomic(self.folder / "rows.csv", encode([entry(row) for row in rows]))

    def scores_path(self, benchmark: str, reward: str, batch: int) -> Path:
        """Where one batch's scores by one reward lie."""
        return self.folder / benchmark / "scores" / reward / f"{batch:05d}.parquet"

    def save_scores(
        self, benchmark: str, reward: str, batch: int, scores: pyarrow.Table, bound: Bound
    ) -> None:
        """Write one batch's scores (`score_table`) beside what they are bound to (`BOUND`)."""
        table = scores
        for column in BOUND[1:]:  # the key they have
            table = table.append_column(column, pyarrow.array(bound[column]))
        path = self.scores_path(benchmark, reward, batch)
        write_table(path, table)
        self._written[path] = table

    def batch_scores(
        self, benchmark: str, reward: str, batch: int, bound: Bound
    ) -> pyarrow.Table | None:
        """One batch's scores; None where there are none, or they are broken or of other images, prompts or a scorer.

        Args:
            benchmark: whose images.
            reward: key of the reward.
            batch: number of the batch.
            bound: what they must be bound to; without the column `scorer` any one scorer is taken.
        """
        path = self.scores_path(benchmark, reward, batch)
        try:
            written = self._written.get(path)
            table = read_columns(path, remedy="") if written is None else written
            same = all(table.column(c).to_pylist() == list(bound[c]) for c in bound)
        except (ConfigError, KeyError):
            return None
        if reward not in table.column_names or not same:
            return None
        return table.select([c for c in table.column_names if c not in BOUND[1:]])

    def samples_path(self, benchmark: str) -> Path:
        """Where a benchmark's sample table lies."""
        return self.folder / benchmark / "samples.parquet"

    def seal(self, benchmark: str) -> None:
        """Note in the manifest which sample table this run wrote."""
        manifest = self.manifest
        written = {benchmark: _sha256(self.samples_path(benchmark))}
        self.save_manifest(manifest | {"samples": manifest.get("samples", {}) | written})

    def read_samples(self, benchmark: str, *, sealed: bool = True) -> pd.DataFrame:
        """A benchmark's sample table, as `evaluate.sample_table` makes it: one row an image.

        Args:
            benchmark: whose.
            sealed: whether it has to be the table that the run noted (`seal`), where it noted any.

        Raises:
            ConfigError: the run is not finished, or its table is broken, lacks a column or is another one.
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
        if sealed and not self.is_sealed(benchmark):
            raise ConfigError(f"{path} is not the table that this run wrote; {remedy}")
        return table

    def is_sealed(self, benchmark: str) -> bool:
        """Whether a benchmark's sample table is the one that the run noted (`seal`), where it noted any."""
        noted = self.manifest.get("samples", {}).get(benchmark)
        return not noted or noted == _sha256(self.samples_path(benchmark))


def _in_order(found: Mapping[str, str], batch: Sequence[Sample]) -> dict[str, str]:
    """What is known of a batch's images, by key; what is of no image of it is left out."""
    return {s.key: found[s.key] for s in batch if s.key in found}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def score_table(reward: str, samples: Sequence[Sample], scores: Scores) -> pyarrow.Table:
    """Scores as columns: `key`, `REWARD`, `REWARD:PART`..., `REWARD:reason`, `REWARD:evidence` (JSON)."""
    evidence = scores.evidence or [{}] * len(samples)
    columns: dict[str, Any] = {"key": [s.key for s in samples], reward: scores.values}
    columns |= {
        f"{reward}:{part}": np.asarray(v, dtype=np.float32) for part, v in scores.parts.items()
    }
    columns[f"{reward}:reason"] = [as_text(reason) for reason in scores.reasons]
    columns[f"{reward}:evidence"] = [_json(e) for e in evidence]
    return pyarrow.table(columns)


def _json(evidence: Mapping[str, Any]) -> str:
    """Evidence as JSON, whatever a third party's reward put into it."""
    try:
        text = json.dumps(evidence, sort_keys=True, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        text = json.dumps({"unreadable evidence": str(error)})
    return as_text(text)


def as_text(text: str) -> str:
    """A text that can be stored: half a surrogate pair, which is no character, is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
